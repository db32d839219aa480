"""The chart as a whole, for every entry of the matrix."""

from __future__ import annotations

import difflib
import sys
from typing import Any

import pytest
import yaml
from golden import GOLDEN, golden_text
from matrix import MATRIX
from rendered_chart import CHART, ROOT, Chart

sys.path.insert(0, str(ROOT / "tests" / "charttools"))

import values_table

EVERY_CASE = pytest.mark.parametrize("case", list(MATRIX))


@EVERY_CASE
def test_what_is_rendered_is_what_was_looked_at(chart: Chart, case: str) -> None:
    path = GOLDEN / f"{case}.yaml"
    wanted = path.read_text() if path.exists() else ""
    found = golden_text(chart, case)
    if found != wanted:
        _show_difference(wanted, found, case)


def _show_difference(wanted: str, found: str, case: str) -> None:
    lines = difflib.unified_diff(
        wanted.splitlines(), found.splitlines(), f"golden/{case}.yaml", "rendered", lineterm=""
    )
    pytest.fail(
        "\n".join(list(lines)[:60]) + "\nif this is wanted, run `make golden`, look at the difference and commit it",
        pytrace=False,
    )


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(MATRIX)


@EVERY_CASE
def test_every_entry_is_linted_without_a_word(chart: Chart, case: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in chart.run("lint", "--strict", str(CHART), values=MATRIX[case])


def test_every_switch_is_on_in_one_entry_and_off_in_another() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    switches = [path for path, value in _leaves(defaults) if isinstance(value, bool)]
    assert switches
    for path in switches:
        seen = {_at(values, path, _at(defaults, path, None)) for values in MATRIX.values()}
        assert seen == {True, False}, f"{'.'.join(path)} is always {seen}: add an entry to the matrix"


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    return [(path, value)]


def _at(value: Any, path: tuple[str, ...], default: Any) -> Any:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


def test_the_table_of_values_is_up_to_date_and_explains_each() -> None:
    current = values_table.README.read_text()
    assert values_table.readme(current) == current, "run make generate"
    unexplained = [
        line.split("|")[1].strip() for line in current.splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert unexplained == [], "write a comment above these values, or a description into the schema"
