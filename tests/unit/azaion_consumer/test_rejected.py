"""data-rejected keeps the newest, within bounds of number, size and age."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from consumer_make import STREAM, storage

from azaion_consumer.filing import stage_rejected
from azaion_consumer.messages import Rejected, RejectReason
from azaion_consumer.rejected import RejectedLimits

REASON = Rejected(RejectReason.BAD_NAME, "the name '..' is not a plain file name")


def set_aside(root: Path, limits: RejectedLimits, payloads: dict[int, bytes]) -> list[int]:
    """Reject the payloads, in order of their offsets; returns the offsets that are kept."""
    where = storage(root, limits)
    where.open()
    for offset, payload in payloads.items():
        where.take([stage_rejected(offset, payload, REASON, where)])
    where.lock.release()
    kept = sorted(os.listdir(root / "data-rejected/annotations"))
    assert {name.split(".")[0] for name in kept if name.endswith(".json")} == {
        name.split(".")[0] for name in kept if name.endswith(".bin")
    }
    return [int(name.split(".")[0]) for name in kept if name.endswith(".bin")]


def test_the_bytes_and_the_reason_are_kept_under_the_offset(tmp_path: Path) -> None:
    assert set_aside(tmp_path, RejectedLimits(), {7: b"the message"}) == [7]
    found = msgspec.json.decode((tmp_path / "data-rejected/annotations/00000000000000000007.json").read_bytes())
    assert found.pop("time")
    assert found == {
        "offset": 7,
        "stream": STREAM,
        "reason": "BadName",
        "message": "the name '..' is not a plain file name",
        "payloadBytes": 11,
        "keptBytes": 11,
    }
    assert (tmp_path / "data-rejected/annotations/00000000000000000007.bin").read_bytes() == b"the message"


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    assert set_aside(tmp_path, RejectedLimits(messages=3), dict.fromkeys(range(6), b"x")) == [3, 4, 5]
    assert set_aside(tmp_path, RejectedLimits(messages=3), {9: b"x"}) == [4, 5, 9], "also those of earlier processes"


def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    assert set_aside(tmp_path, RejectedLimits(size_bytes=3000), dict.fromkeys(range(5), bytes(1000))) == [3, 4]


def test_the_newest_stays_whatever_its_size(tmp_path: Path) -> None:
    assert set_aside(tmp_path, RejectedLimits(size_bytes=10), {1: bytes(1000), 2: bytes(1000)}) == [2]


def test_old_ones_go(tmp_path: Path) -> None:
    set_aside(tmp_path, RejectedLimits(), {1: b"x"})
    for path in (tmp_path / "data-rejected/annotations").iterdir():
        os.utime(path, (0, 0))
    assert set_aside(tmp_path, RejectedLimits(age_s=3600.0), {2: b"x"}) == [2]


def test_a_very_large_payload_is_cut_and_the_record_says_so(tmp_path: Path) -> None:
    set_aside(tmp_path, RejectedLimits(payload_bytes=100), {1: bytes(1000)})
    found = msgspec.json.decode((tmp_path / "data-rejected/annotations/00000000000000000001.json").read_bytes())
    assert (found["payloadBytes"], found["keptBytes"]) == (1000, 100)


@pytest.mark.parametrize("times", [2, 5])
def test_a_message_rejected_again_counts_once(tmp_path: Path, times: int) -> None:
    limits = RejectedLimits(messages=2)
    for _ in range(times):
        kept = set_aside(tmp_path, limits, {1: b"x", 2: b"y"})
    assert kept == [1, 2]
