"""Questions to a running Prometheus."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

Labels = dict[str, str]


class QueryError(Exception):
    """Prometheus refused; the text is what it said."""


@dataclass(frozen=True)
class Line:
    """One series over time: its labels, times in seconds since the epoch, and values."""

    labels: Labels
    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Prometheus:
    """At this URL."""

    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer. Raises QueryError."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - an address of the test's own
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {error.read().decode(errors='replace')}") from error

    def instant(self, query: str, at_s: float | None = None) -> list[tuple[Labels, float]]:
        """Series and their values now, or then."""
        found = self.get("query", query=query, **({} if at_s is None else {"time": at_s}))
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def over(self, query: str, start_s: float, end_s: float, step_s: float = 15.0) -> list[Line]:
        """Series over a stretch of time."""
        found = self.get("query_range", query=query, start=start_s, end=end_s, step=step_s)
        lines = []
        for series in found["result"]:
            times, values = zip(*series["values"], strict=True)
            lines.append(Line(series["metric"], tuple(map(float, times)), tuple(map(float, values))))
        return lines

    def series(self, name: str, start_s: float) -> list[Labels]:
        """Labels of every series of that name since then, also of those that have ended."""
        found: list[Labels] = self.get("series", **{"match[]": name, "start": start_s, "end": time.time()})
        return found
