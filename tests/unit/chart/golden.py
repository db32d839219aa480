#!/usr/bin/env python3
"""What the chart renders for every entry of the matrix, kept in golden/ so that a change of it is seen in review.

golden.py            write the files anew (`make golden`); look at the difference before committing it
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import yaml

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from matrix import MATRIX
from rendered_chart import CHART, Chart, find_helm

GOLDEN = Path(__file__).with_name("golden")
DEFAULTS = "defaults"
#: Files in ConfigMaps have tests of their own; here only whether they are the same counts.
_LONG_TEXT = 400


def golden_text(chart: Chart, case: str) -> str:
    """The objects of an entry but for the definitions, sorted; long texts as their digest."""
    objects = _objects(chart, MATRIX[case])
    if case != DEFAULTS:
        usual = _objects(chart, MATRIX[DEFAULTS])
        absent = [f"{kind}/{name}" for kind, name in usual if (kind, name) not in objects]
        objects = {key: found for key, found in objects.items() if usual.get(key) != found}
        documents = [{"absent": absent}, *objects.values()]
    else:
        documents = list(objects.values())
    text = yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True)
    # A new version alone changes no file.
    return text.replace(str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]), "VERSION")


def _objects(chart: Chart, values: dict[str, Any]) -> dict[tuple[str, str], Any]:
    found = {(m["kind"], m["metadata"]["name"]): _shortened(m) for m in chart.render(values)}
    return dict(sorted(found.items()))


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, str) and len(value) > _LONG_TEXT:
        return f"{len(value)} characters, sha256 {hashlib.sha256(value.encode()).hexdigest()}"
    return value


def main() -> int:
    chart = Chart(find_helm())
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.yaml"):
        if old.stem not in MATRIX:
            old.unlink()
    for name in MATRIX:
        (GOLDEN / f"{name}.yaml").write_text(golden_text(chart, name))
    print(f"wrote {len(MATRIX)} files to {GOLDEN}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
