"""What each directory takes is known, and millions of files are not looked at again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from azaion_api.layout import Layout
from azaion_operator import storage_usage
from azaion_operator.storage_usage import Usage

REAL_SCANDIR = os.scandir
FILE_BYTES = 40_000
#: A directory itself takes a block or two.
SLACK = 50_000


@dataclass
class Clock:
    """Seconds that pass when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    for name in ("data", "data_deleted"):
        found.images(name).mkdir(parents=True)
    found.datasets.mkdir()
    return found


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Directories that were listed, in order. Those with more than three entries count as large."""
    found: list[str] = []

    def scandir(path: str) -> Iterator[Any]:
        found.append(Path(path).name)
        return REAL_SCANDIR(path)

    monkeypatch.setattr(storage_usage.os, "scandir", scandir)
    monkeypatch.setattr(storage_usage, "_SMALL", 3)
    return found


def fill(directory: Path, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (directory / f"{number}.jpg").write_bytes(os.urandom(FILE_BYTES))


def measured(usage: Usage, *names: str) -> dict[str, int]:
    usage.poll(names)
    usage.wait(30)
    return usage.bytes_by_directory


def test_every_top_directory_is_measured_with_all_below_it(layout: Layout) -> None:
    fill(layout.images("data"), 3)
    fill(layout.runs / "nightly-1" / "checkpoints", 2)
    fill(layout.root / "more" / "images", 1)
    fill(layout.root / "unknown", 1)
    found = measured(Usage(layout), "more")
    assert set(found) == {"data", "data_deleted", "datasets", "runs", "more"}
    assert 3 * FILE_BYTES <= found["data"] <= 3 * FILE_BYTES + SLACK
    assert 2 * FILE_BYTES <= found["runs"] <= 2 * FILE_BYTES + SLACK


def test_a_data_set_takes_only_what_nobody_else_holds(layout: Layout) -> None:
    fill(layout.images("data"), 3)
    linked = layout.datasets / "azaion-1"
    linked.mkdir()
    for image in layout.images("data").iterdir():
        os.link(image, linked / image.name)
    clock = Clock()
    usage = Usage(layout, clock)
    found = measured(usage)
    assert found["data"] >= 3 * FILE_BYTES
    assert found["datasets"] < SLACK
    (layout.images("data") / "0.jpg").unlink()
    clock.now += 3600
    assert FILE_BYTES <= measured(usage)["datasets"] < FILE_BYTES + SLACK


def test_a_large_directory_that_did_not_change_is_not_listed_again(layout: Layout, listed: list[str]) -> None:
    fill(layout.images("data"), 10)
    clock = Clock()
    usage = Usage(layout, clock)
    first = measured(usage)
    assert listed.count("images") == 2  # data and data_deleted
    clock.now += 3600
    assert measured(usage) == first
    assert listed.count("images") == 3  # data_deleted is small
    fill(layout.images("data"), 12)
    clock.now += 3600
    assert measured(usage)["data"] >= 12 * FILE_BYTES
    assert listed.count("images") == 5


def test_a_large_directory_that_changes_all_the_time_is_not_listed_all_the_time(
    layout: Layout, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(layout.images("data"), 10)
    clock = Clock()

    class Listing:
        """Takes a minute to list."""

        def __init__(self, path: str) -> None:
            listed.append(Path(path).name)
            clock.now += 60
            self.inner = REAL_SCANDIR(path)

        def __enter__(self) -> Any:
            return self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)

    monkeypatch.setattr(storage_usage.os, "scandir", Listing)
    usage = Usage(layout, clock)
    measured(usage)
    fill(layout.images("data"), 12)
    before = len(listed)
    clock.now += 600
    measured(usage)
    assert "images" in listed[before:]  # the small one of data_deleted
    assert listed[before:].count("images") == 1
    clock.now += 1200
    before = len(listed)
    measured(usage)
    assert listed[before:].count("images") == 2


def test_a_small_directory_is_listed_every_time_for_its_logs_grow_in_place(layout: Layout) -> None:
    log = layout.runs / "nightly-1" / "results.csv"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"")
    clock = Clock()
    usage = Usage(layout, clock)
    before = measured(usage)["runs"]
    with log.open("ab") as stream:
        stream.write(os.urandom(FILE_BYTES))
    clock.now += 3600
    assert measured(usage)["runs"] >= before + FILE_BYTES


def test_it_is_not_measured_more_than_once_a_minute(layout: Layout, listed: list[str]) -> None:
    clock = Clock()
    usage = Usage(layout, clock)
    measured(usage)
    before = len(listed)
    clock.now += 59
    measured(usage)
    assert len(listed) == before


def test_what_went_is_forgotten(layout: Layout) -> None:
    fill(layout.root / "more" / "images", 1)
    clock = Clock()
    usage = Usage(layout, clock)
    assert "more" in measured(usage, "more")
    (layout.root / "more").rename(layout.root / "gone")
    clock.now += 3600
    assert "more" not in measured(usage, "more")
