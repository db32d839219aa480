"""Another model made current, and old directories removed: what is asked for, and after a kill at any point."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crash_points import at_every_crash_point
from trainer_make import add_pairs, dataset_status, no_progress, request, spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.model_card import CARD_FILE, ModelCard, read_card
from azaion_api.model_line import Keep, Retention
from azaion_api.names import JobStage, LineAction
from azaion_api.reporter import Reporter, utc_now
from azaion_api.task import LineTask
from azaion_api.training_run import EvaluationStatus, PromotionDecision, PromotionStatus, Scores
from azaion_trainer import files, publish, retention
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.forming import form
from azaion_trainer.line_work import LineReporter, do_line_work, run_line_work, switch
from azaion_trainer.model_card import EVALUATION_FILE, EvaluationRecord

SCORES = Scores(map50="0.9", map50to95="0.61", precision="0.8", recall="0.7", f1="0.75")
DAY = datetime(2026, 9, 1, tzinfo=UTC)


class LineSink:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def write(self, body: bytes) -> None:
        self.reports.append(msgspec.json.decode(body))


def add_model(layout: Layout, name: str, *, line: str = "azaion", day: datetime = DAY, **changes: object) -> Path:
    """A published model."""
    directory = layout.models / name
    directory.mkdir(parents=True)
    weights = f"weights of {name}".encode()
    (directory / f"{line}.pt").write_bytes(weights)
    card = ModelCard(
        name=name,
        line=line,
        run=f"run-of-{name}",
        run_uid=f"uid-of-{name}",
        published=day,
        model=f"{line}.pt",
        sha256=hashlib.sha256(weights).hexdigest(),
        dataset=None,
        evaluation=EvaluationStatus(new=SCORES),
        per_class={},
        exports=(),
        reason="better",
        ultralytics="8",
    )
    card = msgspec.structs.replace(card, **changes)
    (directory / CARD_FILE).write_bytes(msgspec.json.encode(card))
    return directory


def line_task(action: LineAction = LineAction.SWITCH, **fields: object) -> LineTask:
    values = {"line": "azaion", "uid": "u", "number": 1, "report": "azaion-line-report"} | fields
    return LineTask(action=action, **values)  # type: ignore[arg-type]


@pytest.fixture
def two_models(layout: Layout) -> Layout:
    add_model(layout, "azaion-2026-09-01")
    newer = add_model(layout, "azaion-2026-10-01")
    files.point_link(layout.model_link("azaion"), newer / "azaion.pt")
    return layout


def test_the_link_leads_to_the_pinned_model_and_its_card(two_models: Layout) -> None:
    found = switch(two_models, line_task(model="azaion-2026-09-01"))
    link = two_models.model_link("azaion")
    assert link.read_bytes() == b"weights of azaion-2026-09-01"
    assert os.readlink(link) == "azaion-2026-09-01/azaion.pt"
    card = read_card(link.resolve().parent)
    assert card is not None
    assert (found.name, found.path, found.sha256) == (
        "azaion-2026-09-01",
        "models/azaion-2026-09-01/azaion.pt",
        card.sha256,
    )
    assert (found.run, found.run_uid, found.map50to95) == (card.run, card.run_uid, "0.61")


def test_a_switch_survives_a_kill_at_every_file_operation(two_models: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(root: Path) -> None:
        # At any time a reader finds one of the two models, whole and with its card.
        try:
            switch(Layout(root), line_task(model="azaion-2026-09-01"))
        finally:
            link = Layout(root).model_link("azaion")
            assert link.read_bytes() in (b"weights of azaion-2026-09-01", b"weights of azaion-2026-10-01")
            assert read_card(link.resolve().parent) is not None

    def check(root: Path) -> None:
        assert Layout(root).model_link("azaion").read_bytes() == b"weights of azaion-2026-09-01"
        assert sorted(path.name for path in (root / "models").iterdir() if not path.name.startswith(".")) == [
            "azaion-2026-09-01",
            "azaion-2026-10-01",
            "azaion.pt",
        ]

    assert at_every_crash_point(two_models.root, work, check, monkeypatch) >= 3


def test_publishing_survives_a_kill_at_every_file_operation(
    two_models: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted = PromotionStatus(decision=PromotionDecision.PROMOTED, reason="better")
    run_task = task(JobStage.PUBLISH, spec(), promotion=promoted, dataset=dataset_status("datasets/x"))
    weights = two_models.run(run_task.directory).train / "weights" / "best.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"new weights")

    def work(root: Path) -> None:
        try:
            publish.publish(stage_context(Layout(root), run_task))
        finally:
            link = Layout(root).model_link("azaion")
            assert link.read_bytes() in (b"weights of azaion-2026-10-01", b"new weights")
            assert read_card(link.resolve().parent) is not None

    def check(root: Path) -> None:
        layout = Layout(root)
        assert layout.model_link("azaion").read_bytes() == b"new weights"
        mine = [path for path in layout.models.glob("azaion-*") if read_card(path).run_uid == run_task.uid]  # type: ignore[union-attr]
        assert len(mine) == 1, "the run has published once"

    assert at_every_crash_point(two_models.root, work, check, monkeypatch) >= 8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "azaion-2020-01-01",
            r"models/azaion-2020-01-01 is not there; models/ holds azaion-2026-09-01, azaion-2026-10",
        ),
        ("", "is not there"),
        ("night-2026-09-01", "is a model of line night, not of azaion"),
        ("linked", "is not there"),
        ("empty", "holds 0 .pt files"),
        ("several", "holds 2 .pt files and none is called azaion.pt"),
    ],
)
def test_what_cannot_become_current_is_refused_with_a_sentence(two_models: Layout, model: str, message: str) -> None:
    add_model(two_models, "night-2026-09-01", line="night")
    (two_models.models / "linked").symlink_to("/etc")
    (two_models.models / "empty").mkdir()
    (two_models.models / "several").mkdir()
    for name in ("a.pt", "b.pt"):
        (two_models.models / "several" / name).write_bytes(b"x")
    with pytest.raises(BadSpecError, match=message):
        switch(two_models, line_task(model=model))
    assert os.readlink(two_models.model_link("azaion")) == "azaion-2026-10-01/azaion.pt"


def test_a_model_that_was_changed_since_it_was_published_is_refused(two_models: Layout) -> None:
    (two_models.models / "azaion-2026-09-01" / "azaion.pt").write_bytes(b"something else")
    with pytest.raises(BadDataError, match="its digest has changed"):
        switch(two_models, line_task(model="azaion-2026-09-01"))
    (two_models.models / "azaion-2026-09-01" / "azaion.pt").unlink()
    with pytest.raises(BadDataError, match="only its card is"):
        switch(two_models, line_task(model="azaion-2026-09-01"))


def test_a_dated_model_from_before_this_system_can_be_pinned(two_models: Layout) -> None:
    (two_models.models / "azaion-2025-01-01").mkdir()
    (two_models.models / "azaion-2025-01-01" / "best.pt").write_bytes(b"from before")
    found = switch(two_models, line_task(model="azaion-2025-01-01"))
    assert (found.run, found.sha256) == ("", hashlib.sha256(b"from before").hexdigest())
    assert two_models.model_link("azaion").read_bytes() == b"from before"


def test_the_report_says_what_is_current_or_why_it_is_not(
    two_models: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AZAION_TERMINATION_LOG", str(tmp_path / "termination"))
    sent = LineSink()
    monkeypatch.setattr("azaion_trainer.line_work.sink_for", lambda *_: sent)
    assert run_line_work(line_task(model="azaion-2026-09-01"), two_models.root) == 0
    assert sent.reports[-1]["model"]["name"] == "azaion-2026-09-01"
    assert sent.reports[-1]["outcome"] == "Completed"
    assert run_line_work(line_task(model="nothing"), two_models.root) == 10
    assert sent.reports[-1]["outcome"] == "BadSpec"
    assert "models/nothing is not there" in (tmp_path / "termination").read_text()


# Retention


def days(number: float) -> datetime:
    return utc_now() - timedelta(days=number)


def add_run(layout: Layout, name: str, *, judged: datetime | None, line: str = "azaion") -> Path:
    directory = layout.runs / name
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / "state.pt").write_bytes(b"x" * 5000)
    if judged is not None:
        (directory / "evaluation").mkdir()
        record = EvaluationRecord(
            sha256="0", evaluation=EvaluationStatus(new=SCORES), per_class={}, split="test", line=line, time=judged
        )
        (directory / "evaluation" / EVALUATION_FILE).write_bytes(msgspec.json.encode(record))
    return directory


def retained(layout: Layout, protected: tuple[str, ...] = (), **policy: Keep | bool) -> list[str]:
    found = retention.retain(
        layout,
        line_task(LineAction.RETAIN, retention=Retention(**policy), protected=protected),  # type: ignore[arg-type]
    )
    assert found.count == len(found.removed)
    return list(found.removed)


def test_the_newest_stay_and_of_the_others_what_is_young(layout: Layout) -> None:
    for age in (1, 5, 10, 40, 90):
        add_model(layout, f"azaion-{age:02}", day=days(age))
    assert retained(layout, models=Keep(count=2, max_age_days=30)) == ["models/azaion-90", "models/azaion-40"]
    assert sorted(path.name for path in layout.models.iterdir()) == ["azaion-01", "azaion-05", "azaion-10"]
    assert retained(layout, models=Keep(count=2, max_age_days=30)) == []
    assert retained(layout, models=Keep(count=1)) == ["models/azaion-10", "models/azaion-05"]


def test_current_previous_and_pinned_models_stay_however_old(layout: Layout) -> None:
    for age in range(1, 7):
        add_model(layout, f"azaion-{age}", day=days(age))
    files.point_link(layout.model_link("azaion"), layout.models / "azaion-6" / "azaion.pt")
    went = retained(layout, ("models/azaion-5", "models/azaion-4"), models=Keep(count=1))
    assert went == ["models/azaion-3", "models/azaion-2"]
    assert layout.model_link("azaion").read_bytes() == b"weights of azaion-6"


def test_other_lines_and_strangers_models_are_nobodys_to_remove(layout: Layout) -> None:
    add_model(layout, "night-1", line="night", day=days(900))
    (layout.models / "azaion-2020-01-01").mkdir()
    (layout.models / "yolo26m.pt").write_bytes(b"base")
    for age in (1, 2):
        add_model(layout, f"azaion-{age}", day=days(age))
    assert retained(layout, models=Keep(count=1)) == ["models/azaion-2"]


def test_a_run_that_can_be_resumed_is_never_removed(layout: Layout) -> None:
    add_run(layout, "resumable-11111111", judged=None)
    for age in (1, 2, 3):
        add_run(layout, f"judged-{age}", judged=days(age))
    add_run(layout, "of-night", judged=days(90), line="night")
    assert retained(layout, ("runs/judged-3",), runs=Keep(count=1)) == ["runs/judged-2"]
    assert sorted(path.name for path in layout.runs.iterdir()) == [
        "judged-1",
        "judged-3",
        "of-night",
        "resumable-11111111",
    ]


def form_sets(layout: Layout, count: int) -> list[str]:
    """Data sets of one plan, oldest first."""
    add_pairs(layout, 10)
    names = []
    for number in range(count):
        wanted = dataclasses.replace(request(f"{str(number) * 8}-x"), line="azaion")
        names.append(f"datasets/{form(layout, wanted, no_progress).path.name}")
    return names


def test_data_sets_go_but_those_in_use_and_the_newest_of_each_plan(layout: Layout) -> None:
    sets = form_sets(layout, 5)
    plain = layout.datasets / "plain"
    plain.mkdir()
    # The first was formed by a run that was killed, the second is what the current model learnt from.
    add_run(layout, "killed-00000000", judged=None)
    current = add_model(layout, "azaion-1", dataset=dataset_status(sets[1]))
    files.point_link(layout.model_link("azaion"), current / "azaion.pt")
    assert retained(layout, datasets=Keep(count=1)) == [sets[2], sets[3]]
    assert (layout.datasets / "plain").is_dir()
    assert len(list(layout.images("data").iterdir())) == 10, "the annotations themselves stay"


def test_a_dry_run_shows_what_would_go_and_touches_nothing(layout: Layout) -> None:
    for age in (1, 2, 3):
        add_model(layout, f"azaion-{age}", day=days(age))
    before = sorted(path.name for path in layout.models.iterdir())
    found = retention.retain(
        layout, line_task(LineAction.RETAIN, retention=Retention(models=Keep(count=1), dry_run=True))
    )
    assert (found.count, found.kept, found.dry_run) == (2, 1, True)
    assert found.freed_bytes > 0
    assert sorted(path.name for path in layout.models.iterdir()) == before
    assert retained(layout, models=Keep(count=1)) == list(found.removed)


def test_a_kind_without_a_policy_is_kept_for_ever(layout: Layout) -> None:
    for age in (1, 2, 3):
        add_model(layout, f"azaion-{age}", day=days(age))
    assert retained(layout, runs=Keep(count=1)) == []


def test_space_shared_with_another_name_is_not_counted_as_freed(layout: Layout, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    directory.mkdir()
    (directory / "own").write_bytes(b"x" * 8192)
    (tmp_path / "elsewhere").write_bytes(b"y" * 8192)
    os.link(tmp_path / "elsewhere", directory / "shared")
    assert retention.own_bytes(directory) == 8192


def test_removal_survives_a_kill_at_every_file_operation(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for age in (1, 2, 3):
        add_model(layout, f"azaion-{age}", day=days(age))

    def work(root: Path) -> None:
        try:
            retention.retain(Layout(root), line_task(LineAction.RETAIN, retention=Retention(models=Keep(count=1))))
        finally:
            for path in (root / "models").glob("azaion-*"):
                assert read_card(path) is not None, "a directory that has a name is whole"

    def check(root: Path) -> None:
        assert [path.name for path in (root / "models").iterdir()] == ["azaion-1"]

    assert at_every_crash_point(layout.root, work, check, monkeypatch) >= 6


def test_the_work_reports_what_was_removed(layout: Layout) -> None:
    for age in (1, 2):
        add_model(layout, f"azaion-{age}", day=days(age))
    wanted = line_task(LineAction.RETAIN, retention=Retention(models=Keep(count=1)))
    report = LineReporter(Reporter(LineSink()), wanted, "pod")
    assert do_line_work(layout, wanted, report).startswith("1 directories went")
    assert report.current.retention is not None
    assert report.current.retention.removed == ("models/azaion-2",)
    assert report.current.outcome is None
