"""Medians, spread and regressions of the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_BENCH = Path(__file__).resolve().parents[2] / "bench"
if str(_BENCH) not in sys.path:
    sys.path.insert(0, str(_BENCH))

from figures import Figure, percentile, read_recorded, record, regressions, table  # noqa: E402


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (99, 10), (100, 10), (10, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, value: float) -> None:
    assert percentile([10, 1, 2, 3, 4, 5, 6, 7, 8, 9], percent) == value


def test_the_table_shows_median_spread_and_whether_the_bound_holds() -> None:
    figures = [
        Figure("fast", "ms", (10.0, 30.0, 20.0), 25.0),
        Figure("slow", "ms", (100.0, 300.0, 200.0), 150.0),
        Figure("free", "s", (1.0,)),
    ]
    assert table(figures).splitlines()[2:] == [
        "| fast | 20 ms | 10-30 | 25 ms | yes |",
        "| slow | 200 ms | 100-300 | 150 ms | **no** |",
        "| free | 1 s | 1-1 |  |  |",
    ]


def test_a_ratio_that_got_a_fifth_worse_than_recorded_is_a_regression_and_a_time_is_none(tmp_path: Path) -> None:
    path = tmp_path / "recorded.json"
    assert read_recorded(path) == {}
    good = [Figure("ratio", "x", (2.0, 2.1, 9.0), is_ratio=True), Figure("time", "ms", (5.0,))]
    record(path, good)
    assert read_recorded(path) == {"ratio": 2.1}
    assert regressions(good, read_recorded(path)) == []
    worse = [Figure("ratio", "x", (2.6,), is_ratio=True), Figure("time", "ms", (50.0,))]
    assert regressions(worse, read_recorded(path)) == ["ratio: 2.60 instead of the recorded 2.10"]
