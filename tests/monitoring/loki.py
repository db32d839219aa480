"""A real Loki on loopback, with the configuration the chart gives it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tests.demo.access import ROOT, wait_for
from tests.loopback import free_ports

sys.path.insert(0, str(ROOT / "tests" / "charttools"))

import charttools

Labels = Mapping[str, str]


class LokiError(Exception):
    """Loki refused; the text is what it said."""


@dataclass(frozen=True)
class Loki:
    """At this URL."""

    url: str

    def push(self, labels: Labels, lines: Iterable[str]) -> None:
        """Lines of one container as Alloy hands them over: level and service become labels, the time is the line's."""
        streams: dict[tuple[str, str], list[list[str]]] = {}
        for line in lines:
            found = json.loads(line)
            at = datetime.fromisoformat(found["timestamp"])
            streams.setdefault((found["level"], found["service"]), []).append([f"{at.timestamp() * 1e9:.0f}", line])
        body = [
            {"stream": {**labels, "level": level, "service": service}, "values": sorted(values)}
            for (level, service), values in streams.items()
        ]
        self._ask("push", json.dumps({"streams": body}).encode())

    def lines(self, query: str, start_s: float, end_s: float) -> list[str]:
        """The lines a query of lines finds."""
        streams = self._query("query_range", query, start=f"{start_s:.0f}", end=f"{end_s:.0f}", limit="1000")
        return [line for stream in streams for _, line in stream["values"]]

    def values(self, query: str, at_s: float) -> list[tuple[dict[str, str], float]]:
        """Series and their values at a time, of a query that computes."""
        found = self._query("query", query, time=f"{at_s:.0f}")
        return [(series["metric"], float(series["value"][1])) for series in found]

    def configuration(self) -> Any:
        """What Loki runs with, its defaults included."""
        with urllib.request.urlopen(f"{self.url}/config", timeout=30) as answer:  # noqa: S310 - the test's own
            return yaml.safe_load(answer.read())

    def _query(self, path: str, query: str, **parameters: str) -> Any:
        return self._ask(f"{path}?{urllib.parse.urlencode({'query': query, **parameters})}")["data"]["result"]

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/loki/api/v1/{path}", body)  # noqa: S310 - the test's own
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the test's own
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise LokiError(f"{path}: {error.read().decode(errors='replace')}") from error
        return json.loads(text) if text else None


@contextmanager
def loki(configuration: str, directory: Path) -> Iterator[Loki]:
    """Runs while the context is open. Ports and directories of a pod become ones of the test's own, nothing else."""
    program = charttools.built("logs")
    if program is None:
        raise LokiError("Loki is not built: run `make loki-build`")
    wanted = yaml.safe_load(configuration.replace("/loki", str(directory)))
    port, internal = free_ports(2)
    wanted["server"].update(
        http_listen_address="127.0.0.1",
        http_listen_port=port,
        grpc_listen_address="127.0.0.1",
        grpc_listen_port=internal,
    )
    written = directory / "loki.yaml"
    written.write_text(yaml.safe_dump(wanted))
    said = directory / "loki.log"
    with said.open("wb") as output:
        process = subprocess.Popen([str(program / "loki"), f"-config.file={written}"], stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool | None:
        if process.poll() is not None:
            raise LokiError(f"Loki ended with {process.returncode}: {said.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:  # noqa: S310 - the test's own
                return answer.status == 200 or None
        except OSError:
            return None

    try:
        wait_for("Loki is ready", ready, 120)
        yield Loki(url)
    finally:
        process.terminate()
        process.wait(60)
