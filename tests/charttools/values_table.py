#!/usr/bin/env python3
"""The table of values in charts/azaion/README.md, from the comments in values.yaml.

values_table.py --write       write it anew (`make generate` does)
values_table.py --check       fail when it is not up to date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "azaion"
README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9_.-]*):")
#: A default longer than this is told by its size.
_LONG = 60


@dataclass(frozen=True)
class Row:
    """One value: its path, its default, and what the comment above it says; a group's comment comes first."""

    path: str
    default: str
    meaning: str


def rows(text: str, schema: dict[str, Any]) -> Iterator[Row]:
    """Every value of a values.yaml in its order; groups with a comment get a row of their own.

    What no comment explains is explained by the schema's description of it.
    """
    values = yaml.safe_load(text)
    lines = text.splitlines()
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("#").strip())
            continue
        found = _KEY.match(line)
        if found is None:
            if not stripped:
                comment = []
            continue
        indent = len(found["indent"])
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, found["key"]))
        path = [key for _, key in stack]
        value = _at(values, path)
        meaning, comment = " ".join(comment), []
        if isinstance(value, dict) and value:
            if meaning:
                yield Row(".".join(path), "", meaning)
        elif value is not _ABSENT:
            yield Row(".".join(path), _shown(value), meaning or _described(schema, path))


_ABSENT = object()


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return _ABSENT
        values = values[key]
    return values


def _described(schema: dict[str, Any], path: list[str]) -> str:
    """The description in the schema of the value at the path, references followed; empty when there is none."""
    found: Any = schema
    for key in path:
        found = _followed(schema, found)
        found = found.get("properties", {}).get(key) or found.get("additionalProperties") or {}
    own = str(found.get("description", "")) if isinstance(found, dict) else ""
    return own or str(_followed(schema, found).get("description", ""))


def _followed(schema: dict[str, Any], part: Any) -> dict[str, Any]:
    while isinstance(part, dict) and "$ref" in part:
        target: Any = schema
        for step in str(part["$ref"]).removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part if isinstance(part, dict) else {}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONG:
        return f"`{text}`"
    return f"{len(value)} entries" if isinstance(value, list) else f"`{text[:_LONG]}...`"


def table(text: str) -> str:
    """The table in Markdown."""
    lines = ["| Value | Default | Meaning |", "|---|---|---|"]
    for row in rows(text, json.loads((CHART / "values.schema.json").read_text())):
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| `{row.path}` | {row.default} | {meaning} |")
    return "\n".join(lines)


def readme(current: str) -> str:
    """The README with its table brought up to date. Raises ValueError when its marks are missing."""
    head, begin, rest = current.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} lacks the lines {BEGIN} and {END}, between which the table of values goes")
    return f"{head}{BEGIN}\n\n{table((CHART / 'values.yaml').read_text())}\n\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    current = README.read_text()
    wanted = readme(current)
    if parser.parse_args().write:
        README.write_text(wanted)
        return 0
    if wanted != current:
        sys.stderr.write(f"{README} is not up to date: run make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
