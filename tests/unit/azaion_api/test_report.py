"""The operator reads reports of this version and nothing else, whatever lies in the ConfigMap."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion_api.outcome import AttemptReason
from azaion_api.report import (
    REPORT_VERSION,
    EpochRow,
    IngestCondition,
    IngestReport,
    Progress,
    Report,
    RunReport,
    StorageReport,
    TrainingProgress,
    parse_ingest_report,
    parse_run_report,
    parse_storage_report,
)
from azaion_api.training_run import Checkpoint, DatasetStatus, Stage

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
RUN = RunReport(
    pod_uid="pod-1",
    sequence=7,
    time=NOON,
    stage=Stage.TRAINING,
    progress=Progress(fraction=0.25, activity="validating", remaining_seconds=3600.0),
    training=TrainingProgress(
        completed_epochs=30,
        epochs=120,
        batch=11,
        map50=0.5,
        losses={"train/box": 1.25, "train/cls": None},
        checkpoint=Checkpoint(epoch=30, time=NOON, path="runs/a-12345678/checkpoints/state.pt", sha256="0" * 64),
        history=(EpochRow(epoch=1, seconds=90.5, map50=0.1),),
    ),
    dataset=DatasetStatus(path="datasets/azaion-2026-01-31", train=70, valid=20, test=10, digest="sha256:" + "0" * 64),
    outcome=AttemptReason.PREEMPTED,
    message="asked to leave",
)
INGEST = IngestReport(
    pod_uid="pod-1",
    sequence=7,
    time=NOON,
    connected=IngestCondition(True, "Connected"),
    storage_writable=IngestCondition(False, "DiskFull", "0 bytes are free"),
    caught_up=IngestCondition(True, "CaughtUp"),
    committed_offset=41,
    images={"data": 3},
    rejected={"BadImage": 1},
)
STORAGE = StorageReport(pod_uid="pod-1", sequence=1, time=NOON, base_models=("yolo26m.pt",), images={"data": 3})
EVERY_REPORT = pytest.mark.parametrize(
    ("report", "parse"),
    [(RUN, parse_run_report), (INGEST, parse_ingest_report), (STORAGE, parse_storage_report)],
    ids=["run", "ingest", "storage"],
)


def plain(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(report))
    return found


@EVERY_REPORT
def test_a_report_is_read_as_it_was_written(report: Report, parse: Callable[[str], Report | None]) -> None:
    assert parse(msgspec.json.encode(report).decode()) == report


@EVERY_REPORT
def test_every_report_carries_its_version(report: Report, parse: Callable[[str], Report | None]) -> None:
    assert plain(report)["version"] == REPORT_VERSION


@EVERY_REPORT
@pytest.mark.parametrize(
    "head",
    [{"version": REPORT_VERSION + 1}, {"version": 0}, {"version": "1"}, {"version": None}],
    ids=["newer", "older", "text", "null"],
)
def test_a_report_of_another_version_is_ignored(
    report: Report, parse: Callable[[str], Report | None], head: dict[str, Any]
) -> None:
    assert parse(json.dumps({**plain(report), **head})) is None


@EVERY_REPORT
@pytest.mark.parametrize("missing", ["version", "podUid", "sequence", "time"])
def test_a_report_without_its_head_is_ignored(
    report: Report, parse: Callable[[str], Report | None], missing: str
) -> None:
    given = plain(report)
    del given[missing]
    assert parse(json.dumps(given)) is None


@EVERY_REPORT
def test_what_a_newer_writer_adds_is_passed_over(report: Report, parse: Callable[[str], Report | None]) -> None:
    assert parse(json.dumps({**plain(report), "added": [{"later": 1}]})) == report


@EVERY_REPORT
@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 0},
        {"sequence": 1.5},
        {"time": "noon"},
        {"time": "2026-01-31T12:00:00"},
        {"podUid": 3},
    ],
    ids=["sequence from 0", "fraction of a sequence", "no time", "time without a zone", "number for a name"],
)
def test_a_head_that_cannot_be_is_ignored(
    report: Report, parse: Callable[[str], Report | None], change: dict[str, Any]
) -> None:
    assert parse(json.dumps({**plain(report), **change})) is None


@EVERY_REPORT
@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"version": 1',
        '{"version": 1, "x": ' + "[" * 100_000,
        "[" * 100_000,
        "\x00\x01",
        "\ud800",
        '{"version": 1e400}',
    ],
)
def test_garbage_is_ignored(report: Report, parse: Callable[[str], Report | None], text: str) -> None:
    assert parse(text) is None


@given(st.text(max_size=200), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_text_and_no_value_of_a_field_raises(text: str, value: Any) -> None:
    parse_run_report(text)
    given = plain(RUN)
    for name in given:
        parse_run_report(json.dumps({**given, name: value}))


def test_a_report_of_another_kind_is_ignored() -> None:
    assert parse_run_report(msgspec.json.encode(INGEST).decode()) is None
    assert parse_ingest_report(msgspec.json.encode(RUN).decode()) is None


def test_a_figure_that_is_not_finite_is_none() -> None:
    report = msgspec.structs.replace(
        RUN,
        training=TrainingProgress(loss_finite=False, map50=float("nan"), losses={"train/box": float("inf")}),
    )
    found = parse_run_report(msgspec.json.encode(report).decode())
    assert found is not None
    assert found.training == TrainingProgress(loss_finite=False, map50=None, losses={"train/box": None})


def test_a_text_longer_than_the_status_takes_is_ignored_with_its_report() -> None:
    given = plain(RUN)
    given["dataset"]["path"] = "datasets/" + "a" * 300
    assert parse_run_report(json.dumps(given)) is None


def test_the_longest_history_fits_a_config_map_many_times() -> None:
    row = EpochRow(
        epoch=10_000, seconds=8280.123456789, train_loss=1 / 3, map50=1 / 3, map50to95=1 / 3, learning_rate=1e-7 / 3
    )
    training = TrainingProgress(history=(row,) * 1000)
    assert len(msgspec.json.encode(msgspec.structs.replace(RUN, training=training))) < 1024 * 1024 / 4
