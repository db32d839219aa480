"""Publishing: a dated directory with its card, and one rename that makes it the line's current model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from trainer_make import UID, dataset_status, spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.model_card import ExportRecord, read_card
from azaion_api.names import JobStage
from azaion_api.reporter import utc_now
from azaion_api.training_run import (
    EvaluationStatus,
    LineRef,
    PromotionDecision,
    PromotionStatus,
    Scores,
)
from azaion_trainer import files, publish
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.model_card import EVALUATION_FILE, EvaluationRecord
from azaion_trainer.stage import StageContext

PROMOTED = PromotionStatus(decision=PromotionDecision.PROMOTED, reason="0.61 against 0.55")
SCORES = Scores(map50="0.9", map50to95="0.61", precision="0.8", recall="0.7", f1="0.75")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def finished_run(layout: Layout, uid: str = UID, weights: bytes = b"weights", line: str = "azaion") -> StageContext:
    """A run whose model was judged and exported; its content does not matter here."""
    run_spec = msgspec.structs.replace(spec(), line_ref=LineRef(name=line))
    directory = f"runs/run-{uid[:8]}"
    root = layout.root / directory
    for part in ("train/weights", "evaluation", "export"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "train/weights/best.pt").write_bytes(weights)
    (root / "export/azaion.onnx").write_bytes(b"onnx")
    record = EvaluationRecord(
        sha256=sha256(weights),
        evaluation=EvaluationStatus(new=SCORES, images=6),
        per_class={"disc": 0.61},
        split="test",
        exports=(
            ExportRecord(
                format="ONNX",
                path="export/azaion.onnx",
                sha256=sha256(b"onnx"),
                image_size=64,
                max_batch=8,
                agreement="same",
            ),
        ),
    )
    (root / "evaluation" / EVALUATION_FILE).write_bytes(msgspec.json.encode(record))
    run_task = task(
        JobStage.PUBLISH,
        run_spec,
        uid=uid,
        directory=directory,
        promotion=PROMOTED,
        dataset=dataset_status("datasets/azaion-2026-11-23"),
    )
    return stage_context(layout, run_task)


def today() -> str:
    return utc_now().date().isoformat()


def dated(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.models.iterdir() if path.is_dir())


def test_a_promoted_model_becomes_current_with_its_card_beside_it(layout: Layout) -> None:
    context = finished_run(layout)
    assert publish.publish(context) == f"models/azaion.pt is now azaion-{today()}"
    link = layout.models / "azaion.pt"
    assert os.readlink(link) == f"azaion-{today()}/azaion.pt"
    assert link.read_bytes() == b"weights"
    card = read_card(link.resolve().parent)
    assert card is not None
    assert (card.run, card.run_uid, card.sha256, card.reason) == ("run", UID, sha256(b"weights"), "0.61 against 0.55")
    assert card.dataset is not None
    assert card.dataset.digest == "sha256:of-a-test"
    assert card.evaluation is not None
    assert card.evaluation.new == SCORES
    assert [(entry.path, entry.sha256) for entry in card.exports] == [("azaion.onnx", sha256(b"onnx"))]
    report = context.report.current
    assert report.model_name == f"azaion-{today()}"
    assert report.promotion == PROMOTED
    assert [(model.role, model.path, model.sha256) for model in report.models] == [
        ("deployed", f"models/azaion-{today()}/azaion.pt", sha256(b"weights")),
        ("deployed", f"models/azaion-{today()}/azaion.onnx", sha256(b"onnx")),
    ]


def test_no_space_is_used_twice(layout: Layout) -> None:
    context = finished_run(layout)
    publish.publish(context)
    assert (layout.models / "azaion.pt").samefile(context.run.train / "weights" / "best.pt")


def test_doing_it_again_ends_the_same_way(layout: Layout) -> None:
    publish.publish(finished_run(layout))
    card = (layout.models / f"azaion-{today()}" / "model.json").read_bytes()
    again = stage_context(layout, finished_run(layout).task)
    publish.publish(again)
    assert dated(layout) == [f"azaion-{today()}"]
    assert (layout.models / f"azaion-{today()}" / "model.json").read_bytes() == card
    assert again.report.current.model_name == f"azaion-{today()}"


def test_a_kill_between_directory_and_link_is_made_good(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_link: Path, _target: Path) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(files, "point_link", killed)
    with pytest.raises(SystemExit):
        publish.publish(finished_run(layout))
    assert not (layout.models / "azaion.pt").is_symlink()
    monkeypatch.undo()
    publish.publish(finished_run(layout))
    assert dated(layout) == [f"azaion-{today()}"]
    assert (layout.models / "azaion.pt").read_bytes() == b"weights"


def test_a_kill_while_the_directory_is_filled_leaves_nothing_behind(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(publish, "_write_card", killed)
    with pytest.raises(SystemExit):
        publish.publish(finished_run(layout))
    monkeypatch.undo()
    publish.publish(finished_run(layout))
    assert [name for name in dated(layout) if not name.startswith(f"azaion-{today()}")] == []


def test_a_second_model_of_the_day_gets_a_number_and_the_first_stays(layout: Layout) -> None:
    publish.publish(finished_run(layout))
    publish.publish(finished_run(layout, uid="22222222-b", weights=b"better"))
    assert dated(layout) == [f"azaion-{today()}", f"azaion-{today()}-2"]
    assert (layout.models / "azaion.pt").read_bytes() == b"better"
    assert (layout.models / f"azaion-{today()}" / "azaion.pt").read_bytes() == b"weights"


def test_lines_do_not_touch_each_other(layout: Layout) -> None:
    publish.publish(finished_run(layout))
    publish.publish(finished_run(layout, uid="22222222-b", weights=b"night", line="azaion-night"))
    assert (layout.models / "azaion.pt").read_bytes() == b"weights"
    assert (layout.models / "azaion-night.pt").read_bytes() == b"night"


def test_a_rejected_model_is_not_published(layout: Layout) -> None:
    context = finished_run(layout)
    rejected = PromotionStatus(decision=PromotionDecision.REJECTED, reason="0.50 against 0.55")
    context = stage_context(layout, msgspec.structs.replace(context.task, promotion=rejected))
    assert publish.publish(context).startswith("not published: 0.50 against 0.55")
    assert dated(layout) == []
    assert context.report.current.promotion == rejected


def test_without_a_decision_nothing_is_published(layout: Layout) -> None:
    undecided = msgspec.structs.replace(finished_run(layout).task, promotion=None)
    with pytest.raises(BadSpecError, match="holds no decision"):
        publish.publish(stage_context(layout, undecided))


def test_weights_that_are_not_the_judged_ones_are_refused(layout: Layout) -> None:
    context = finished_run(layout)
    (context.run.train / "weights" / "best.pt").write_bytes(b"others")
    with pytest.raises(BadDataError, match="is not the model that was judged"):
        publish.publish(context)


def test_a_model_somebody_put_where_the_link_belongs_is_kept(layout: Layout) -> None:
    (layout.models / "azaion.pt").write_bytes(b"from before")
    publish.publish(finished_run(layout))
    assert (layout.models / "azaion.pt").read_bytes() == b"weights"
    assert (layout.models / f"azaion-before-{today()}.pt").read_bytes() == b"from before"


def test_a_model_without_evaluation_is_published_without_figures(layout: Layout) -> None:
    context = finished_run(layout)
    (context.run.evaluation / EVALUATION_FILE).unlink()
    publish.publish(context)
    card = read_card(layout.models / f"azaion-{today()}")
    assert card is not None
    assert card.evaluation is None
    assert card.exports == ()
