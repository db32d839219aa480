"""The report: offset, lag, pace, counts and conditions as the operator reads them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from consumer_make import CREATED_AT, record

from azaion_api.report import IngestCondition, IngestReport, parse_ingest_report
from azaion_consumer.messages import RejectReason
from azaion_consumer.status import Status

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def report(status: Status) -> IngestReport:
    return status.report(pod_uid="uid", sequence=7, now=NOW)


def working(clock: Clock | None = None) -> Status:
    status = Status(clock or Clock())
    status.set_connected(True, "Connected", "reading")
    status.set_storage_writable(True, "Writable", "filing")
    return status


def test_a_whole_report_and_its_wire_form() -> None:
    clock = Clock()
    status = working(clock)
    after = record(
        99, processed={"created": 80, "edited": 18}, rejected={RejectReason.BAD_NAME: 2}, last_message_time=CREATED_AT
    )
    clock.now_s += 10
    status.add_committed(after, {"data": 70, "data-seed": 10, "data_deleted": 0}, 100)
    status.set_last_offset(149)
    expected = IngestReport(
        pod_uid="uid",
        sequence=7,
        time=NOW,
        connected=IngestCondition(True, "Connected", "reading"),
        storage_writable=IngestCondition(True, "Writable", "filing"),
        caught_up=IngestCondition(True, "CaughtUp", "everything published so far is filed"),
        committed_offset=99,
        lag=50,
        messages_per_second=10.0,
        last_message_time=CREATED_AT,
        images={"data": 70, "data-seed": 10, "data_deleted": 0},
        processed=98,
        rejected={"BadName": 2},
    )
    assert report(status) == expected

    assert parse_ingest_report(msgspec.json.encode(expected).decode()) == expected


@pytest.mark.parametrize(
    ("committed", "last", "lag"),
    [(None, None, None), (5, None, None), (None, -1, 0), (None, 4, 5), (3, 10, 7), (10, 10, 0), (12, 10, 0)],
)
def test_lag_is_what_waits_in_the_stream(committed: int | None, last: int | None, lag: int | None) -> None:
    status = working()
    status.set_record(record(committed), {})
    status.set_last_offset(last)
    assert (status.lag, report(status).lag) == (lag, lag)


@pytest.mark.parametrize(("lag", "caught_up"), [(0, True), (10, True), (11, False), (100_000, False)])
def test_caught_up_is_a_small_lag(lag: int, caught_up: bool) -> None:
    status = working()
    status.set_record(record(0), {})
    status.set_last_offset(lag)
    found = report(status).caught_up
    assert found.status is caught_up
    assert caught_up or found.message == f"{lag} messages wait in the stream"


def test_a_lag_of_a_few_seconds_of_work_is_caught_up_and_more_says_how_long() -> None:
    clock = Clock()
    status = working(clock)
    clock.now_s += 10
    status.add_committed(record(999), {}, 1000)
    status.set_last_offset(1399)
    assert report(status).caught_up.status
    status.set_last_offset(10_999)
    assert report(status).caught_up.message == "10000 messages wait in the stream, about 100 s at the present pace"


def test_while_nothing_is_read_it_is_not_caught_up() -> None:
    status = working()
    status.set_record(record(0), {})
    status.set_last_offset(0)
    status.set_connected(False, "BrokerUnreachable", "gone")
    assert report(status).caught_up == IngestCondition(False, "NotReading", "nothing is read at present")


def test_the_pace_is_the_mean_of_the_last_minute() -> None:
    clock = Clock()
    status = working(clock)
    for _ in range(12):
        clock.now_s += 10
        status.add_committed(record(1), {}, 300)
    assert report(status).messages_per_second == pytest.approx(30.0, rel=0.2)
    clock.now_s += 61
    assert report(status).messages_per_second == 0.0


def test_ready_is_connected_and_writable_and_not_stopping() -> None:
    status = working()
    assert status.ready
    status.set_storage_writable(False, "DiskFull", "full")
    assert not status.ready
    status.set_storage_writable(True, "Writable", "")
    status.set_stopping()
    assert not status.ready
    assert report(status).connected.reason == "Stopping"


def test_a_condition_tells_whether_it_changed() -> None:
    status = Status(Clock())
    assert status.set_connected(False, "StreamMissing", "a")
    assert not status.set_connected(False, "StreamMissing", "another sentence")
    assert status.set_connected(True, "Connected", "c")


def test_messages_fit_the_api() -> None:
    status = Status(Clock())
    status.set_connected(False, "Disconnected", "x" * 5000)
    assert len(report(status).connected.message) == 1024
