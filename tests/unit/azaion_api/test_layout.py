"""The directory tree is spelled in one place."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from azaion_api.layout import (
    DATA_DIRECTORIES,
    TOP_DIRECTORIES,
    Layout,
    dated_name,
    needed_free_bytes,
    pausing_free_bytes,
)

DAY = date(2026, 11, 22)


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (set(), "azaion-2026-11-22"),
        ({"azaion-2026-11-21", "azaion-2026-11-22-2"}, "azaion-2026-11-22"),
        ({"azaion-2026-11-22"}, "azaion-2026-11-22-2"),
        ({"azaion-2026-11-22", "azaion-2026-11-22-2"}, "azaion-2026-11-22-3"),
        ({"azaion-2026-11-22", "azaion-2026-11-22-3"}, "azaion-2026-11-22-2"),
        ({f"azaion-2026-11-22{n}" for n in ("", *(f"-{i}" for i in range(2, 12)))}, "azaion-2026-11-22-12"),
    ],
)
def test_a_dated_name_is_the_first_that_is_free(taken: set[str], expected: str) -> None:
    assert dated_name("azaion", DAY, taken) == expected


@pytest.mark.parametrize(
    ("capacity_gib", "needed_gib", "pausing_gib"), [(100, 10, 7), (1000, 100, 70), (10_000, 100, 70)]
)
def test_a_tenth_of_the_volume_has_to_be_free_but_never_more_than_a_hundred_gibibytes(
    capacity_gib: int, needed_gib: int, pausing_gib: int
) -> None:
    gib = 1 << 30
    assert needed_free_bytes(capacity_gib * gib) == needed_gib * gib
    assert pausing_free_bytes(capacity_gib * gib) == pausing_gib * gib


def test_the_tree_is_the_founding_one() -> None:
    tree = Layout(Path("/azaion"))
    run = tree.run("runs/nightly-0b7a8d1e")
    assert [
        str(path)
        for path in (
            tree.classes,
            tree.images("data"),
            tree.labels("data-seed"),
            tree.datasets,
            tree.model_link("azaion"),
            tree.ingest_state("annotations"),
            run.train,
            run.checkpoints,
            run.evaluation,
            run.export,
        )
    ] == [
        "/azaion/classes.json",
        "/azaion/data/images",
        "/azaion/data-seed/labels",
        "/azaion/datasets",
        "/azaion/models/azaion.pt",
        "/azaion/.ingest/annotations",
        "/azaion/runs/nightly-0b7a8d1e/train",
        "/azaion/runs/nightly-0b7a8d1e/checkpoints",
        "/azaion/runs/nightly-0b7a8d1e/evaluation",
        "/azaion/runs/nightly-0b7a8d1e/export",
    ]
    assert set(DATA_DIRECTORIES) < set(TOP_DIRECTORIES)
    assert {tree.datasets.name, tree.models.name, tree.runs.name} < set(TOP_DIRECTORIES)
