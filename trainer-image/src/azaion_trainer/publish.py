"""The stage `publish`: a dated directory under models/ and the switch of the line's link. Files only."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from datetime import date
from pathlib import Path

import msgspec

from azaion_api.layout import dated_name
from azaion_api.model_card import CARD_FILE, ExportRecord, ModelCard, read_card, write_card
from azaion_api.reporter import utc_now
from azaion_api.training_run import PromotionDecision, PromotionStatus, PublishedModel
from azaion_trainer import files
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.manifest import trained_on
from azaion_trainer.model_card import TRAINED_ON_FILE, EvaluationRecord, read_evaluation, write_trained_on
from azaion_trainer.stage import StageContext

log = logging.getLogger(__name__)


def publish(context: StageContext) -> str:
    """Carry out the task's promotion. Doing it again, also after a kill in between, ends the same way."""
    promotion = context.task.promotion
    if promotion is None or promotion.decision is PromotionDecision.WAITING:
        raise BadSpecError("the task holds no decision; the operator decides before it publishes")
    if context.task.spec.smoke:
        _rehearse(context)
    if promotion.decision is PromotionDecision.REJECTED:
        context.report.publish(promotion=promotion)
        return f"not published: {promotion.reason}; the model stays in {context.task.directory}"
    directory = _published_before(context)
    if directory is None:
        context.report.progress("filling models/", 0.2)
        directory = _fill(context, promotion)
    context.report.progress("switching the current model", 0.8)
    model = directory / f"{_line(context)}.pt"
    link = context.layout.model_link(_line(context))
    switch_link(link, model)
    context.report.publish(model_name=directory.name, promotion=promotion, models=_deployed(context, directory))
    return f"{context.relative(link)} is now {directory.name}"


def _rehearse(context: StageContext) -> None:
    """What a publication does, up to where something would change. Raises OSError when models/ cannot be filled."""
    weights = context.run.train / "weights" / "best.pt"
    hidden = context.layout.models / f".publishing-{context.task.uid[:8]}"
    hidden.mkdir(parents=True, exist_ok=True)
    try:
        _place(weights, hidden / f"{_line(context)}.pt")
        files.sync_directory(hidden)
    finally:
        shutil.rmtree(hidden)


def _line(context: StageContext) -> str:
    return context.task.spec.line_ref.name


def _published_before(context: StageContext) -> Path | None:
    """The directory an earlier attempt of this run filled."""
    for path in sorted(context.layout.models.glob(f"{_line(context)}-*")):
        card = read_card(path)
        if card is not None and card.run_uid == context.task.uid:
            return path
    return None


def _fill(context: StageContext, promotion: PromotionStatus) -> Path:
    """Build the directory hidden, then give it its name: one that has a name is complete."""
    weights = context.run.train / "weights" / "best.pt"
    if not weights.is_file():
        raise BadDataError(f"{context.relative(weights)} is not there; there is no model to publish")
    sha256 = files.sha256_of(weights)
    record = read_evaluation(context.run.evaluation)
    if record is not None and record.sha256 != sha256:
        raise BadDataError(f"{context.relative(weights)} is not the model that was judged; its digest has changed")
    line = _line(context)
    hidden = context.layout.models / f".publishing-{context.task.uid[:8]}"
    if hidden.exists():
        shutil.rmtree(hidden)
    hidden.mkdir(parents=True)
    _place(weights, hidden / f"{line}.pt")
    exports = []
    for entry in record.exports if record else ():
        placed = msgspec.structs.replace(entry, path=f"{line}{Path(entry.path).suffix}")
        _place(context.run.root / entry.path, hidden / placed.path)
        exports.append(placed)
    if context.task.dataset is not None:
        stems = trained_on(context.layout, context.task.dataset.path)
        if stems:
            files.write_bytes(hidden / TRAINED_ON_FILE, write_trained_on(stems))
    while True:
        taken = {path.name for path in context.layout.models.iterdir()}
        target = context.layout.models / dated_name(line, _today(), taken)
        _write_card(context, hidden, target.name, sha256, record, tuple(exports), promotion)
        files.sync_directory(hidden)
        try:
            hidden.rename(target)
        except OSError:
            if target.exists():  # somebody was faster; a directory with files is never replaced
                continue
            raise
        files.sync_directory(context.layout.models)
        return target


def _today() -> date:
    return utc_now().date()


def _place(source: Path, target: Path) -> None:
    """The same file in both places, without using its space twice where a hard link can reach."""
    if not files.link_or_copy(source, target):
        log.info("%s was copied, a hard link could not reach", source.name)


def _write_card(
    context: StageContext,
    hidden: Path,
    name: str,
    sha256: str,
    record: EvaluationRecord | None,
    exports: tuple[ExportRecord, ...],
    promotion: PromotionStatus,
) -> None:
    card = ModelCard(
        name=name,
        line=_line(context),
        run=context.task.run,
        run_uid=context.task.uid,
        published=utc_now(),
        model=f"{_line(context)}.pt",
        sha256=sha256,
        dataset=context.task.dataset,
        evaluation=record.evaluation if record else None,
        per_class=record.per_class if record else {},
        exports=exports,
        reason=promotion.reason,
        ultralytics=importlib.metadata.version("ultralytics"),
    )
    files.write_bytes(hidden / CARD_FILE, write_card(card))


def switch_link(link: Path, model: Path) -> None:
    """Make `model` the one a line's link points to, in one rename."""
    _keep_foreign(link)
    files.point_link(link, model)


def _keep_foreign(link: Path) -> None:
    """A model that somebody put where the link belongs is kept under another name."""
    if link.exists() and not link.is_symlink():
        kept = link.with_name(f"{link.stem}-before-{_today().isoformat()}.pt")
        if not kept.exists():
            files.link_or_copy(link, kept)
        log.warning("%s was a file, not a link; it is now %s", link.name, kept.name)


def _deployed(context: StageContext, directory: Path) -> tuple[PublishedModel, ...]:
    card = read_card(directory)
    names = [(f"{_line(context)}.pt", "PyTorch")]
    names += [(entry.path, entry.format) for entry in (card.exports if card else ())]
    return tuple(
        PublishedModel(
            role="deployed",
            format=format_,
            path=context.relative(directory / name),
            sha256=files.sha256_of(directory / name),
            size_bytes=(directory / name).stat().st_size,
        )
        for name, format_ in names
    )
