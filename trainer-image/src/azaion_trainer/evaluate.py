"""The stage `evaluate`: the trained and the current model on unseen images, then the export."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from azaion_api.model_card import ExportRecord, read_card
from azaion_api.reporter import utc_now
from azaion_api.training_run import EvaluationStatus, ExportFormat, Gain, GroupBy, Metric, PublishedModel, Stage
from azaion_trainer import engine, files
from azaion_trainer.arguments import parse_parameters
from azaion_trainer.dataset import DataSet, data_set_of
from azaion_trainer.failures import BadDataError
from azaion_trainer.manifest import list_images, trained_on
from azaion_trainer.model_card import EVALUATION_FILE, EvaluationRecord, read_trained_on
from azaion_trainer.split import group_of
from azaion_trainer.stage import StageContext

if TYPE_CHECKING:
    from azaion_trainer import export
    from azaion_trainer.judging import Judgement, JudgingSettings

log = logging.getLogger(__name__)

#: Arguments of the training that also say how detections are counted.
_SHARED_PARAMETERS = ("iou", "max_det", "single_cls")


def evaluate(context: StageContext) -> str:
    """Judge, draw, export; a failed export is said and never loses the model."""
    engine.start(context.cores, lambda *_: context.heart.beat())
    weights = context.run.train / "weights" / "best.pt"
    if not weights.is_file():
        raise BadDataError(f"{context.relative(weights)} is not there; the stage train has to come first")
    data_set = data_set_of(context)
    split = "test" if any(list_images(path) for path in data_set.images["test"]) else "valid"
    status, new = _judge_both(context, data_set, split, weights)
    _draw(context, data_set, new, split)
    evaluated = _published(context, weights, "evaluated", "PyTorch")
    context.report.publish(evaluation=status, models=(evaluated,))
    exports = _export(context, weights, new)
    if exports.failed:
        status = msgspec.structs.replace(status, export_message="; ".join(exports.failed)[:1000])
    record = EvaluationRecord(
        sha256=evaluated.sha256,
        evaluation=status,
        per_class=new.per_class,
        split=split,
        exports=tuple(exports.records),
        line=context.task.spec.line_ref.name,
        time=utc_now(),
    )
    text = msgspec.json.format(msgspec.json.encode(record), indent=1)
    files.write_bytes(context.run.evaluation / EVALUATION_FILE, text)
    models = [_published(context, context.run.root / entry.path, "exported", entry.format) for entry in exports.records]
    context.report.publish(evaluation=status, models=(evaluated, *models))
    return f"mAP50-95 {new.scores.map50to95}, mAP50 {new.scores.map50} on {status.images} images; {exports.sentence()}"


# Judging


def _judge_both(
    context: StageContext, data_set: DataSet, split: str, weights: Path
) -> tuple[EvaluationStatus, Judgement]:
    """The status and the trained model's judgement."""
    from azaion_trainer.judging import UnloadableError, judge, load_model

    remarks = []
    if split != "test":
        remarks.append("the test split is empty, so the models were judged on the validation split")
    total = sum(len(list_images(path)) for path in data_set.images[split])
    try:
        model = load_model(weights)
    except UnloadableError as error:
        raise BadDataError(f"{context.relative(weights)}: {error}") from error
    settings = _settings(context, data_set, split, total, "judging the trained model")
    new = judge(model, settings, context.run.evaluation / "new", plots=True)
    current, gain = None, None
    if context.task.current_model is not None:
        settings = _settings(context, data_set, split, total, "judging the current model")
        current, remark = _judge_current(context, data_set, settings)
        remarks.append(remark)
    if current is not None:
        context.report.activity("comparing the two models")
        gain, remark = _compare(context, new, current)
        remarks.append(remark)
    status = EvaluationStatus(
        new=new.scores,
        current=current.scores if current else None,
        current_message="; ".join(remark for remark in remarks if remark)[:1000] or None,
        current_model=context.task.current_model,
        gain=gain,
        hard_samples=new.hard_samples,
        images=len(new.images),
    )
    return status, new


def _judge_current(context: StageContext, data_set: DataSet, settings: JudgingSettings) -> tuple[Judgement | None, str]:
    """The line's current model by the same settings; None and why when it cannot be judged."""
    from azaion_trainer.judging import UnloadableError, class_names, judge, load_model

    path = context.layout.root / (context.task.current_model or "")
    try:
        if not path.is_file():
            raise UnloadableError("it is not there")
        if not files.within(context.layout.root, path):
            raise UnloadableError("it leads out of the storage by a symbolic link")
        model = load_model(path)
    except UnloadableError as error:
        return None, f"the current model {context.task.current_model} was not judged: {error}"
    names = class_names(model)
    if names != data_set.names:
        other = next((f"{b} instead of {a}" for a, b in zip(data_set.names, names, strict=False) if a != b), "")
        return None, (
            f"the current model was not judged: it knows {len(names)} classes and the data set {len(data_set.names)}"
            + (f", the first difference is {other}" if other else "")
        )
    return judge(model, settings, context.run.evaluation / "current", plots=False), ""


# Comparing

#: Columns of the thresholds of overlap, 0.50 to 0.95.
_THRESHOLDS = {Metric.MAP50: slice(0, 1), Metric.MAP50TO95: slice(None)}


def _compare(context: StageContext, new: Judgement, current: Judgement) -> tuple[Gain, str]:
    """The gain on images that neither model was trained on, and what has to be said of it."""
    from azaion_trainer.gain import gain

    known, remark = _known_to_current(context)
    total = len(new.statistics)
    kept = [place for place, entry in enumerate(new.statistics) if Path(entry.image).stem not in known]
    left_out = total - len(kept)
    if not kept:
        kept, left_out = list(range(total)), 0
        remark = f"the current model was trained on all {total} images, which flatters it"
    elif left_out:
        remark = (
            f"{left_out} of the {total} images are left out of the comparison: the current model was trained on them"
        )
    wanted = context.task.spec.evaluation
    context.heart.beat()
    found = gain(
        [new.statistics[place] for place in kept],
        [current.statistics[place] for place in kept],
        _THRESHOLDS[wanted.metric],
        float(wanted.confidence),
        _groups(context, [new.statistics[place].image for place in kept]),
    )
    numbers = {name: f"{getattr(found, name):.5f}" for name in ("new", "current", "value", "low", "high")}
    return Gain(
        metric=wanted.metric, confidence=wanted.confidence, images=len(kept), left_out=left_out, **numbers
    ), remark


def _groups(context: StageContext, images: list[str]) -> list[str] | None:
    """What is drawn together: frames of one video where the data set keeps them together."""
    group_by = context.task.spec.dataset.group_by
    return [group_of(Path(image).stem, group_by) for image in images] if group_by is GroupBy.MEDIA else None


def _known_to_current(context: StageContext) -> tuple[frozenset[str], str]:
    """Stems of the images the current model was trained on, and what is not known of them."""
    model = (context.layout.root / (context.task.current_model or "")).resolve()
    card = read_card(model.parent)
    if card is None or card.dataset is None:
        return frozenset(), "it is not known which images the current model was trained on"
    listed = read_trained_on(model.parent)
    if listed is not None:
        return listed, ""
    theirs = context.layout.root / card.dataset.path
    if not theirs.is_dir():
        return frozenset(), (
            f"{card.dataset.path}, which the current model was trained on, is not there any more to compare with"
        )
    return trained_on(context.layout, card.dataset.path), ""


def _settings(context: StageContext, data_set: DataSet, split: str, total: int, activity: str) -> JudgingSettings:
    from azaion_trainer.judging import JudgingSettings

    training = context.task.spec.training
    data_file = context.run.evaluation / "data.yaml"
    data_file.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(data_file, data_set.training_yaml())
    shared = {
        name: value for name, value in parse_parameters(training.parameters).items() if name in _SHARED_PARAMETERS
    }
    batch = context.task.batch or (training.batch if isinstance(training.batch, int) else 8)

    def progress(done: int) -> None:
        context.heart.beat()
        context.report.progress(activity, done / max(total, 1))
        context.stop.check()

    arguments: dict[str, Any] = {
        **shared,
        "data": str(data_file),
        "split": "test" if split == "test" else "val",
        "imgsz": training.image_size,
        "batch": 2 * batch,
        "device": engine.device_argument(training.device),
        "workers": min(training.workers, context.cores),
    }
    return JudgingSettings(arguments=arguments, progress=progress)


# Pictures


def _draw(context: StageContext, data_set: DataSet, new: Judgement, split: str) -> None:
    """Sheets for people; an evaluation never fails for a picture."""
    from azaion_trainer.pictures import SHEET_IMAGES, Sheet, draw_sheet, spread, worst

    context.report.activity("drawing predictions")
    which = "unseen test" if split == "test" else "validation"
    sides = f"left: as annotated, right: as the model finds it, from confidence {new.confidence:.2f} on"
    best = Sheet(
        title=f"{context.task.run}: mAP50 {float(new.scores.map50):.3f} on {len(new.images)} {which} images",
        subtitle=f"a selection; {sides}",
        names=data_set.names,
    )
    hardest = Sheet(
        title=f"{context.task.run}: the hardest of {len(new.images)} {which} images",
        subtitle=f"most missed objects first; {sides}",
        names=data_set.names,
    )
    try:
        draw_sheet(context.run.evaluation / "predictions.png", best, spread(new.images, SHEET_IMAGES))
        draw_sheet(context.run.evaluation / "worst.png", hardest, worst(new.images, SHEET_IMAGES))
    except (OSError, ValueError) as error:
        log.warning("a sheet of predictions could not be drawn: %s", error)


# Exporting

#: A format that is not made by then is taken for stuck.
_EXPORT_LIMIT_S = 3600.0


@dataclass
class _Exports:
    """What has been exported so far, and a sentence on each."""

    records: list[ExportRecord] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        failed = f"{'; '.join(self.failed)}; the model is kept" if self.failed else ""
        return "; ".join(part for part in (*self.done, failed) if part) or "nothing to export"


def _export(context: StageContext, weights: Path, new: Judgement) -> _Exports:
    """Every format that was asked for, each on its own: one that fails takes nothing with it."""
    from azaion_trainer import export

    wanted = context.task.spec.export
    exports = _Exports()
    if not wanted.formats:
        return exports
    context.report.publish(stage=Stage.EXPORTING)
    images = [image.path for image in new.images[: export.CHECK_IMAGES]]
    comparison = export.Comparison(weights, images, wanted.image_size)
    source = export.Source(
        weights=weights,
        onnx=context.run.export / f"{context.task.spec.line_ref.name}.onnx",
        image_size=wanted.image_size,
        device=engine.torch_device(context.task.spec.training.device),
    )
    others = (format_ for format_ in wanted.formats if format_ is not ExportFormat.ONNX)
    for format_ in (ExportFormat.ONNX, *others):
        context.report.progress(f"exporting {format_}", 0.1)
        make = _onnx if format_ is ExportFormat.ONNX else _further
        try:
            path, agreement = make(context, format_, source, comparison)
        except export.ExportError as error:
            log.error("the export to %s failed: %s", format_, error)
            exports.failed.append(f"the export to {format_} failed: {error}")
            if format_ is ExportFormat.ONNX:
                return exports  # the others are made from it
            continue
        exports.done.append(f"{format_} exported, {agreement}")
        exports.records.append(
            ExportRecord(
                format=format_,
                path=str(path.relative_to(context.run.root)),
                sha256=files.sha256_of(path),
                image_size=wanted.image_size,
                max_batch=export.MAX_BATCH,
                agreement=agreement,
            )
        )
    context.report.progress("exported", 1.0)
    return exports


def _onnx(
    context: StageContext, format_: ExportFormat, source: export.Source, comparison: export.Comparison
) -> tuple[Path, str]:
    """The ONNX file and how it compares. Raises ExportError, and leaves no file then."""
    from azaion_trainer import export

    try:
        export.export_onnx(source.weights, source.onnx, source.image_size, context.heart.beat)
        context.report.progress(f"comparing {format_} with the model", 0.7)
        return source.onnx, comparison.check(export.onnx_runner(source.onnx, context.cores)).sentence()
    except export.ExportError:
        source.onnx.unlink(missing_ok=True)
        raise


def _further(
    context: StageContext, format_: ExportFormat, source: export.Source, comparison: export.Comparison
) -> tuple[Path, str]:
    """The same for a format that is made from the ONNX file."""
    from azaion_trainer import export

    maker = export.exporter(format_)
    target = context.run.export / maker.file_name(context.task.spec.line_ref.name, source.device)
    try:
        with context.heart.patience(_EXPORT_LIMIT_S):
            maker.build(source, target)
        context.report.progress(f"comparing {format_} with the model", 0.7)
        runner = maker.runner(target, source)
        return target, comparison.check(runner).sentence() if runner else "not compared: it does not run here"
    except export.ExportError:
        target.unlink(missing_ok=True)
        raise


def _published(context: StageContext, path: Path, role: str, format_: str) -> PublishedModel:
    return PublishedModel(
        role=role,
        format=format_,
        path=context.relative(path),
        sha256=files.sha256_of(path),
        size_bytes=path.stat().st_size,
    )
