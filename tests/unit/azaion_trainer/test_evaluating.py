"""Real judging, drawing and exporting of a small trained model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from trainer_make import UID, draw_scenes, no_progress, request, spec, stage_context, storage_tree, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.task import RunTask
from azaion_api.training_run import (
    DatasetStatus,
    Device,
    Evaluation,
    EvaluationStatus,
    Export,
    ExportFormat,
    Metric,
    PromotionDecision,
    PromotionStatus,
    Split,
    Stage,
)
from azaion_trainer.failures import BadDataError
from azaion_trainer.forming import Formed, form, status_of
from azaion_trainer.manifest import formed_sets
from azaion_trainer.model_card import read_evaluation
from azaion_trainer.stage import StageContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Learns to see something within seconds.
PARAMETERS = {
    "optimizer": "AdamW",
    "lr0": "0.006",
    "cos_lr": "true",
    "nbs": "8",
    "mosaic": "0",
    "close_mosaic": "0",
    "warmup_epochs": "1",
    "warmup_bias_lr": "0",
}


#: It trains on until validation says so much, so that what is judged has surely learnt something.
LEARNT_MAP50 = 0.5
EPOCHS_A_STEP, MOST_EPOCHS = 8, 64
#: A trained model is kept here for the next time; other versions or parameters train another one.
CACHE = Path(__file__).resolve().parents[3] / ".cache" / "trained-models"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    """A run that was trained on 112 scenes until it had learnt something."""
    kept = CACHE / cache_key()
    if not kept.is_dir():
        train_until_learnt(kept)
    root = tmp_path_factory.mktemp("evaluation") / "azaion"
    shutil.copytree(kept, root)
    layout = Layout(root)
    (path, manifest), *_ = formed_sets(layout)
    return stage_context(layout, training_task(layout, status_of(layout, Formed(path, manifest)), MOST_EPOCHS))


def cache_key() -> str:
    versions = [importlib.metadata.version(name) for name in ("torch", "ultralytics", "numpy")]
    basis = [versions, PARAMETERS, LEARNT_MAP50, inspect.getsource(draw_scenes), inspect.getsource(spec)]
    return hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:16]


def training_task(layout: Layout, dataset: DatasetStatus, epochs: int) -> RunTask:
    return task(JobStage.TRAIN, spec(epochs=epochs, parameters=PARAMETERS), dataset=dataset)


def train_until_learnt(kept: Path) -> None:
    """Train a few epochs at a time, going on from the checkpoint as a run with raised epochs does."""
    from azaion_trainer.train import train

    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        layout = storage_tree(Path(temporary) / "azaion")
        draw_scenes(layout, 160)
        dataset = status_of(layout, form(layout, request(), no_progress))
        for epochs in range(EPOCHS_A_STEP, MOST_EPOCHS + 1, EPOCHS_A_STEP):
            context = stage_context(layout, training_task(layout, dataset, epochs))
            train(context)
            progress = context.report.current.training
            assert progress is not None
            if (progress.map50 or 0) >= LEARNT_MAP50:
                layout.root.rename(kept)
                return
    raise AssertionError(f"mAP50 is still below {LEARNT_MAP50} after {MOST_EPOCHS} epochs")


@pytest.fixture(scope="module")
def evaluated(trained: StageContext) -> StageContext:
    """The same run after its evaluation."""
    context = next_stage(trained, JobStage.EVALUATE)
    run(context)
    return context


def next_stage(context: StageContext, stage: JobStage, **changes: Any) -> StageContext:
    return stage_context(context.layout, msgspec.structs.replace(context.task, stage=stage, **changes))


def run(context: StageContext) -> str:
    from azaion_trainer.evaluate import evaluate

    return evaluate(context)


def test_the_test_split_is_judged_with_scores_hard_samples_and_images(evaluated: StageContext) -> None:
    found = evaluated.report.current.evaluation
    assert found is not None
    assert found.images == 16
    assert 0.3 < float(found.new.map50) <= 1
    assert 0 <= float(found.new.map50to95) <= float(found.new.map50)
    assert 0 <= found.hard_samples <= 16
    assert found.current is None
    record = read_evaluation(evaluated.run.evaluation)
    assert record is not None
    assert record.evaluation == found
    assert record.split == "test"
    assert set(record.per_class) <= {"disc", "square"}


def test_pictures_for_people_are_drawn(evaluated: StageContext) -> None:
    for name in ("predictions.png", "worst.png"):
        with Image.open(evaluated.run.evaluation / name) as image:
            assert min(image.size) > 300
            assert len(image.getcolors(maxcolors=1 << 24) or []) > 500
    for name in ("confusion_matrix.png", "BoxPR_curve.png"):
        assert (evaluated.run.evaluation / "new" / name).stat().st_size > 5000


def test_the_export_takes_one_to_eight_images_and_agrees_with_the_model(evaluated: StageContext) -> None:
    import onnxruntime

    path = evaluated.run.export / "azaion.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 64, 64]
    scene = np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)
    for batch in (1, 3, 8):
        (rows,) = session.run(None, {session.get_inputs()[0].name: scene[:batch]})
        assert rows.shape == (batch, 300, 6)
        assert ((rows[..., 4] >= 0) & (rows[..., 4] <= 1)).all()
        assert ((rows[..., 5] >= 0) & (rows[..., 5] < 80)).all()
    roles = [(model.role, model.format) for model in evaluated.report.current.models]
    assert roles == [("evaluated", "PyTorch"), ("exported", "ONNX")]
    assert evaluated.report.current.stage is Stage.EXPORTING
    record = read_evaluation(evaluated.run.evaluation)
    assert record is not None
    assert "detections on 16 images are the same" in record.exports[0].agreement


def test_an_export_that_says_something_else_is_refused(evaluated: StageContext, trained: StageContext) -> None:
    import torch

    from azaion_trainer.export import Comparison, ExportError, onnx_runner

    weights = trained.run.train / "weights" / "best.pt"
    checkpoint = torch.load(weights, weights_only=False)
    for parameter in checkpoint["model"].model[-1].cv2.parameters():
        parameter.data *= 1.3
    changed = trained.run.root / "changed.pt"
    torch.save(checkpoint, changed)
    images = sorted((trained.layout.root / evaluated.task.dataset.path / "test" / "images").iterdir())  # type: ignore[union-attr]
    runner = onnx_runner(evaluated.run.export / "azaion.onnx", cores=1)
    with pytest.raises(ExportError, match=r"only .* % of \d+ detections on 16 images are the same"):
        Comparison(changed, images, 64).check(runner)


def test_a_failed_export_is_said_and_the_model_kept(trained: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from azaion_trainer import export

    def fails(*_: Any) -> None:
        raise export.ExportError("an operator is missing")

    monkeypatch.setattr(export, "export_onnx", fails)
    context = next_stage(trained, JobStage.EVALUATE)
    assert run(context).endswith("the export to ONNX failed: an operator is missing; the model is kept")
    assert [model.role for model in context.report.current.models] == ["evaluated"]
    assert context.report.current.evaluation is not None
    assert context.report.current.evaluation.export_message == "the export to ONNX failed: an operator is missing"


#: An exporter as an image of one's own adds it: its file is the ONNX file with its output turned by `SHIFT`.
EXPORTER = """
from azaion_trainer import export, files

class Copy:
    def file_name(self, line, device):
        return f"{line}.rknn"

    def build(self, source, target):
        files.copy_file(source.onnx, target)

    def runner(self, exported, source):
        run = export.onnx_runner(exported, cores=1)
        return lambda images: run(images) + SHIFT
"""


def add_exporter(directory: Path, monkeypatch: pytest.MonkeyPatch, shift: float = 0.0) -> None:
    """Install an exporter for RKNN: a module, and the entry point that names it."""
    module = f"copying_exporter_{str(shift).replace('.', '_')}"
    (directory / f"{module}.py").write_text(EXPORTER.replace("SHIFT", str(shift)))
    information = directory / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[azaion_trainer.exporters]\nRKNN = {module}:Copy\n")
    monkeypatch.syspath_prepend(str(directory))


def with_formats(context: StageContext, *formats: ExportFormat) -> Any:
    return msgspec.structs.replace(context.task.spec, export=Export(formats=formats, image_size=64))


def test_what_cannot_be_made_here_is_said_and_takes_nothing_with_it(trained: StageContext) -> None:
    spec = with_formats(trained, ExportFormat.TENSOR_RT, ExportFormat.RKNN)
    context = next_stage(trained, JobStage.EVALUATE, spec=spec)
    said = run(context)
    assert "ONNX exported" in said
    found = context.report.current.evaluation
    assert found is not None
    assert found.export_message == (
        "the export to TensorRT failed: an engine is built on the GPU it is for, and this run has none "
        "(spec.training.device); the export to RKNN failed: the trainer's image has no exporter for RKNN; "
        "docs/export.md says how to add one"
    )
    assert [(m.role, m.format) for m in context.report.current.models] == [
        ("evaluated", "PyTorch"),
        ("exported", "ONNX"),
    ]


def test_an_exporter_that_was_added_is_compared_with_the_model(
    trained: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_exporter(tmp_path, monkeypatch)
    context = next_stage(trained, JobStage.EVALUATE, spec=with_formats(trained, ExportFormat.RKNN))
    assert "RKNN exported, 100.00 % of" in run(context)
    record = read_evaluation(context.run.evaluation)
    assert record is not None
    assert [(entry.format, entry.path) for entry in record.exports] == [
        ("ONNX", "export/azaion.onnx"),
        ("RKNN", "export/azaion.rknn"),
    ]
    assert (context.run.export / "azaion.rknn").is_file()


def test_an_exporter_whose_file_finds_something_else_leaves_none(
    trained: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_exporter(tmp_path, monkeypatch, shift=1.5)
    context = next_stage(trained, JobStage.EVALUATE, spec=with_formats(trained, ExportFormat.ONNX, ExportFormat.RKNN))
    assert "the export to RKNN failed: only 0.00 % of" in run(context)
    assert not (context.run.export / "azaion.rknn").exists()
    assert (context.run.export / "azaion.onnx").is_file()


def test_an_exporter_without_its_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from azaion_trainer.export import ExportError, exporter

    add_exporter(tmp_path, monkeypatch, shift=2.5)
    (tmp_path / "copying_exporter_2_5.py").write_text("import rknn_that_is_not_there")
    with pytest.raises(ExportError, match=r"copying_exporter_2_5:Copy cannot be imported: No module named 'rknn_that"):
        exporter("RKNN")


def test_without_tensorrt_in_the_image_a_gpu_is_not_asked() -> None:
    import torch

    from azaion_trainer.export import ExportError, exporter

    with pytest.raises(ExportError, match=r"TensorRT is not in the trainer's image; docs/export\.md"):
        exporter("TensorRT").file_name("azaion", torch.device("cuda:0"))


@pytest.mark.gpu
def test_an_engine_is_named_for_its_gpu_and_finds_what_the_model_finds(trained: StageContext) -> None:
    pytest.importorskip("tensorrt")
    spec = with_formats(trained, ExportFormat.TENSOR_RT)
    spec = msgspec.structs.replace(spec, training=msgspec.structs.replace(spec.training, device=Device.GPU))
    context = next_stage(trained, JobStage.EVALUATE, spec=spec)
    assert "TensorRT exported" in run(context)
    (engine,) = context.run.export.glob("azaion.cc_*_sm_*.engine")
    assert engine.stat().st_size > 1_000_000


def publish_as_current(context: StageContext) -> str:
    """Publish the run and return where its model is current now."""
    from azaion_trainer.publish import publish

    promoted = PromotionStatus(decision=PromotionDecision.PROMOTED, reason="first")
    publish(next_stage(context, JobStage.PUBLISH, promotion=promoted))
    return "models/azaion.pt"


def test_the_current_model_is_judged_by_the_same_settings(trained: StageContext, evaluated: StageContext) -> None:
    current = publish_as_current(trained)
    context = next_stage(trained, JobStage.EVALUATE, current_model=current, spec=without_export(trained))
    run(context)
    found = context.report.current.evaluation
    assert found is not None
    # The same weights, so the same figures, and nothing gained for certain.
    assert found.current == found.new
    assert found.current_message is None
    assert found.current_model == current
    assert found.gain is not None
    assert (found.gain.value, found.gain.low, found.gain.high) == ("0.00000", "0.00000", "0.00000")
    assert float(found.gain.new) == pytest.approx(float(found.new.map50to95), abs=2e-5)
    assert (found.gain.images, found.gain.left_out, found.gain.confidence) == (16, 0, "0.9")


def test_a_spoilt_model_is_found_to_be_worse_for_certain(trained: StageContext, evaluated: StageContext) -> None:
    import torch

    current = publish_as_current(trained)
    directory = copy_of_run(trained, "spoilt")
    weights = trained.layout.root / directory / "train" / "weights" / "best.pt"
    checkpoint = torch.load(weights, weights_only=False)
    for parameter in checkpoint["model"].model[-1].parameters():
        parameter.data *= 0.7
    torch.save(checkpoint, weights)
    context = next_stage(
        trained, JobStage.EVALUATE, current_model=current, directory=directory, spec=without_export(trained)
    )
    run(context)
    gain = context.report.current.evaluation.gain  # type: ignore[union-attr]
    assert gain is not None
    assert float(gain.value) < 0
    assert float(gain.low) <= float(gain.value) <= float(gain.high) < 0


def test_the_confidence_of_the_spec_is_that_of_the_interval(trained: StageContext, evaluated: StageContext) -> None:
    current = publish_as_current(trained)
    wanted = msgspec.structs.replace(
        without_export(trained), evaluation=Evaluation(metric=Metric.MAP50, confidence="0.5")
    )
    context = next_stage(trained, JobStage.EVALUATE, current_model=current, spec=wanted)
    run(context)
    gain = context.report.current.evaluation.gain  # type: ignore[union-attr]
    assert gain is not None
    assert (gain.metric, gain.confidence) == (Metric.MAP50, "0.5")


def without_export(context: StageContext) -> Any:
    return with_formats(context)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the current model models/broken.pt was not judged: it is not there"),
        (b"no model", "was not judged: the file is no PyTorch checkpoint, or it is truncated"),
    ],
)
def test_a_current_model_that_cannot_be_loaded_is_said_and_not_fatal(
    trained: StageContext, content: bytes | None, message: str
) -> None:
    path = trained.layout.models / "broken.pt"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    context = next_stage(trained, JobStage.EVALUATE, current_model="models/broken.pt", spec=without_export(trained))
    run(context)
    found = context.report.current.evaluation
    assert found is not None
    assert found.current is None
    assert message in (found.current_message or "")


def test_a_current_model_with_other_classes_is_said_and_not_fatal(trained: StageContext) -> None:
    import torch

    checkpoint = torch.load(trained.run.train / "weights" / "best.pt", weights_only=False)
    checkpoint["model"].names = {**checkpoint["model"].names, 1: "triangle"}
    torch.save(checkpoint, trained.layout.models / "other.pt")
    context = next_stage(trained, JobStage.EVALUATE, current_model="models/other.pt", spec=without_export(trained))
    run(context)
    found = context.report.current.evaluation
    assert found is not None
    assert found.current is None
    assert "the first difference is triangle instead of square" in (found.current_message or "")


def test_an_empty_test_split_is_said_and_validation_taken(trained: StageContext) -> None:
    split = Split(train=70, valid=30, test=0)
    formed = form(trained.layout, request("77777777-x", split=split), no_progress)
    context = next_stage(
        trained,
        JobStage.EVALUATE,
        dataset=status_of(trained.layout, formed),
        spec=without_export(trained),
        directory=copy_of_run(trained, "no-test"),
    )
    run(context)
    found = context.report.current.evaluation
    assert found is not None
    assert found.images == 48
    assert "the test split is empty, so the models were judged on the validation split" in (found.current_message or "")


def judged_on_another_split(context: StageContext, uid: str, current: str) -> EvaluationStatus:
    """The run's model and the current one on a test split that shares images with the current model's training."""
    formed = form(context.layout, request(uid, seed=5), no_progress)
    directory = f"runs/{uid[:8]}-{UID[:8]}"
    if not (context.layout.root / directory).exists():
        copy_of_run(context, uid[:8])
    judging = next_stage(
        context,
        JobStage.EVALUATE,
        dataset=status_of(context.layout, formed),
        current_model=current,
        spec=without_export(context),
        directory=directory,
    )
    run(judging)
    found = judging.report.current.evaluation
    assert found is not None
    return found


def test_images_the_current_model_was_trained_on_are_left_out(trained: StageContext, evaluated: StageContext) -> None:
    current = publish_as_current(trained)
    found = judged_on_another_split(trained, "88888888-x", current)
    assert found.gain is not None
    assert found.gain.left_out > 0
    assert found.gain.images + found.gain.left_out == found.images == 16
    assert f"{found.gain.left_out} of the 16 images are left out" in (found.current_message or "")


def test_what_the_current_model_was_trained_on_stays_known_without_its_data_set(
    trained: StageContext, evaluated: StageContext
) -> None:
    current = publish_as_current(trained)
    before = judged_on_another_split(trained, "88888888-x", current)
    assert trained.task.dataset is not None
    data_set = trained.layout.root / trained.task.dataset.path
    hidden = data_set.rename(data_set.with_name("gone"))
    try:
        assert judged_on_another_split(trained, "88888888-x", current).gain == before.gain
    finally:
        hidden.rename(data_set)


def test_a_current_model_of_unknown_origin_is_compared_and_that_is_said(
    trained: StageContext, evaluated: StageContext
) -> None:
    shutil.copy(trained.run.train / "weights" / "best.pt", trained.layout.models / "adopted.pt")
    context = next_stage(trained, JobStage.EVALUATE, current_model="models/adopted.pt", spec=without_export(trained))
    run(context)
    found = context.report.current.evaluation
    assert found is not None
    assert found.gain is not None
    assert found.current_message == "it is not known which images the current model was trained on"


def copy_of_run(context: StageContext, name: str) -> str:
    """Another run with the same trained weights."""
    directory = f"runs/{name}-{UID[:8]}"
    target = context.layout.root / directory / "train" / "weights"
    target.mkdir(parents=True)
    shutil.copy(context.run.train / "weights" / "best.pt", target)
    return directory


def test_without_trained_weights_it_says_what_has_to_come_first(trained: StageContext) -> None:
    context = next_stage(trained, JobStage.EVALUATE, directory="runs/nothing")
    with pytest.raises(BadDataError, match=r"best\.pt is not there; the stage train has to come first"):
        run(context)


def test_a_model_can_be_added_as_a_base(
    trained: StageContext, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    from azaion_trainer.cli import main

    weights = trained.run.train / "weights" / "best.pt"
    arguments = ["add-model", str(weights), "--name", "mine.pt", "--root", str(layout.root)]
    assert main(arguments) == 0
    assert "Runs with `model: {base: mine.pt}` can start now" in capsys.readouterr().out
    assert (layout.models / "mine.pt").read_bytes() == weights.read_bytes()
    assert main(arguments) == 0
    assert "is there already" in capsys.readouterr().out
    assert sorted(path.name for path in layout.models.iterdir()) == ["mine.pt"]


def test_another_model_of_the_same_name_is_replaced_only_on_purpose(
    trained: StageContext, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    from azaion_trainer.cli import main

    weights = trained.run.train / "weights" / "best.pt"
    (layout.models / "mine.pt").write_bytes(b"another")
    arguments = ["add-model", str(weights), "--name", "mine.pt", "--root", str(layout.root)]
    assert main(arguments) == 1
    assert "--replace replaces it" in capsys.readouterr().err
    assert main([*arguments, "--replace"]) == 0
    assert (layout.models / "mine.pt").read_bytes() == weights.read_bytes()


def test_the_sidecar_of_a_published_model_holds_what_was_judged(trained: StageContext, evaluated: StageContext) -> None:
    publish_as_current(trained)
    card = json.loads(next(trained.layout.models.glob("azaion-*/model.json")).read_text())
    found = evaluated.report.current.evaluation
    assert found is not None
    assert card["evaluation"]["new"]["map50"] == found.new.map50
    status: DatasetStatus | None = trained.task.dataset
    assert status is not None
    assert card["dataset"]["digest"] == status.digest
