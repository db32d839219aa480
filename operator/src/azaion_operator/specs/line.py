"""The ModelLine a run trains for, made when there is none."""

from __future__ import annotations

from azaion_api.names import LABEL_PART_OF, PART_OF
from azaion_operator.objects import LINES
from azaion_operator.specs.identity import Child


def line(name: str) -> Child:
    """An empty line; it belongs to nobody and outlives its runs."""
    return LINES, {
        "apiVersion": LINES.api_version,
        "kind": LINES.kind,
        "metadata": {"name": name, "labels": {LABEL_PART_OF: PART_OF}},
        "spec": {},
    }
