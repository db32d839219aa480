"""`helm test`: whether an installation does what it is for, right now.

What the founding list looks at after a deploy: pods are ready, their logs hold no errors, offsets advance, the disk has
room, metrics answer.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from azaion_api.facts import Paths
from azaion_api.names import STORAGE_REPORT_KEY
from azaion_api.pod_client import PodClient, UnreachableError
from azaion_api.report import StorageReport
from azaion_api.task import NAMESPACE_VARIABLE

#: Comma-separated addresses whose metrics have to answer.
METRICS_VARIABLE = "AZAION_METRICS_URLS"
#: How far back logs are read.
LOG_SECONDS = 600
_LOG_LINES = 2000
_BAD_LEVELS = frozenset({"ERROR", "CRITICAL"})
_MIN_FREE = 0.10
#: Once every pod is ready, an ingest that is behind moves within this.
_OFFSET_TIMEOUT_S = 60.0
_LOOK_EVERY_S = 2.0
_METRICS_TIMEOUT_S = 10.0


class Client(Protocol):
    """How the API server is asked."""

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        """Status and body. Raises UnreachableError."""


@dataclass(frozen=True)
class Found:
    """One thing that was looked at."""

    good: bool
    text: str


class Look:
    """Looks at one installation."""

    def __init__(self, client: Client, namespace: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client, self._namespace, self._sleep = client, namespace, sleep
        self._paths = Paths(namespace)

    def all(self, metrics: Sequence[str]) -> Iterator[Found]:
        """Everything, in the order of the list."""
        yield from self.deployments()
        yield from self.logs()
        yield from self.offsets()
        yield from self.disk()
        for url in metrics:
            yield _metrics(url)

    def deployments(self) -> Iterator[Found]:
        found = self._items(self._paths.deployments)
        if isinstance(found, Found):
            yield found
            return
        if not found:
            yield Found(False, "there is no Deployment of the platform; did the installation fail?")
        for deployment in found:
            name = deployment["metadata"]["name"]
            wanted = deployment["spec"].get("replicas", 1)
            ready = deployment.get("status", {}).get("readyReplicas", 0)
            advice = "" if ready >= wanted else f"; see kubectl -n {self._namespace} describe deployment/{name}"
            yield Found(ready >= wanted, f"deployment {name}: {ready} of {wanted} ready{advice}")

    def logs(self) -> Iterator[Found]:
        pods = self._items(self._paths.pods)
        if isinstance(pods, Found):
            yield pods
            return
        for pod in pods:
            if pod.get("status", {}).get("phase") == "Running":
                for container in pod["spec"]["containers"]:
                    yield self._log(pod["metadata"]["name"], container["name"])

    def _log(self, pod: str, container: str) -> Found:
        asked = urlencode({"container": container, "sinceSeconds": LOG_SECONDS, "tailLines": _LOG_LINES})
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}/log?{asked}"
        status, body = self._client.ask("GET", path)
        if status != 200:
            return Found(False, f"log of {pod}: cannot be read ({status})")
        bad = [text for line in body.decode(errors="replace").splitlines() if (text := _error_of(line))]
        if bad:
            return Found(False, f"log of {pod}: {len(bad)} errors in {LOG_SECONDS // 60} minutes, the last: {bad[-1]}")
        return Found(True, f"log of {pod}: no errors in {LOG_SECONDS // 60} minutes")

    def offsets(self) -> Iterator[Found]:
        ingests = self._items(self._paths.ingests)
        if isinstance(ingests, Found):
            yield ingests
            return
        if not ingests:
            yield Found(True, "no AnnotationIngest yet")
        for ingest in ingests:
            name, status = ingest["metadata"]["name"], ingest.get("status", {})
            if ingest.get("spec", {}).get("suspend"):
                yield Found(True, f"ingest {name}: suspended")
            elif status.get("phase") != "Running":
                yield Found(False, f"ingest {name}: {status.get('phase', 'Pending')}, {status.get('message', '')}")
            elif status.get("lag") == 0:
                yield Found(True, f"ingest {name}: everything is filed, offset {status.get('committedOffset')}")
            else:
                yield self._advances(name, status.get("committedOffset"))

    def _advances(self, name: str, before: int | None) -> Found:
        for _ in range(int(_OFFSET_TIMEOUT_S / _LOOK_EVERY_S)):
            self._sleep(_LOOK_EVERY_S)
            status, body = self._client.ask("GET", f"{self._paths.ingests}/{name}")
            now = msgspec.json.decode(body).get("status", {}) if status == 200 else {}
            if now.get("lag") == 0 or (now.get("committedOffset") or -1) > (-1 if before is None else before):
                return Found(True, f"ingest {name}: its offset advances, {now.get('committedOffset')}")
        return Found(False, f"ingest {name}: its offset stays at {before} although messages wait")

    def disk(self) -> Iterator[Found]:
        status, body = self._client.ask("GET", self._paths.storage)
        data = (msgspec.json.decode(body).get("data") or {}) if status == 200 else {}
        try:
            report = msgspec.json.decode(data.get(STORAGE_REPORT_KEY, ""), type=StorageReport)
        except msgspec.DecodeError:
            yield Found(False, "storage: there is no report of the storage pod")
            return
        if report.capacity_bytes <= 0:
            yield Found(False, "storage: its size is not known")
            return
        free = report.available_bytes / report.capacity_bytes
        yield Found(free >= _MIN_FREE, f"storage: {100 * free:.0f} % free, {100 * _MIN_FREE:.0f} % are needed")
        for problem in report.problems:
            yield Found(False, f"storage: {problem}")

    def _items(self, path: str) -> list[dict[str, Any]] | Found:
        status, body = self._client.ask("GET", path)
        if status != 200:
            return Found(False, f"{path.partition('?')[0]} cannot be read ({status})")
        items: list[dict[str, Any]] = msgspec.json.decode(body).get("items") or []
        return items


def _error_of(line: str) -> str:
    """The message of a log line that is an error; empty for every other line."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return ""
    bad = isinstance(found, dict) and found.get("level") in _BAD_LEVELS
    return str(found.get("message", ""))[:300] or "an error without words" if bad else ""


def _metrics(url: str) -> Found:
    if urlsplit(url).scheme != "http":
        return Found(False, f"{url} is no address of metrics")
    try:
        with urllib.request.urlopen(url, timeout=_METRICS_TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            text = answer.read().decode(errors="replace")
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        return Found(False, f"metrics at {url}: {error}")
    series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    return Found(series > 0, f"metrics at {url}: {series} series")


def main(environment: Mapping[str, str] | None = None) -> int:
    """Prints a line for each thing; 0 when all are well, 1 when one is not, 2 when nothing could be looked at."""
    values = os.environ if environment is None else environment
    urls = [url.strip() for url in values.get(METRICS_VARIABLE, "").split(",") if url.strip()]
    try:
        found = list(Look(PodClient(), values[NAMESPACE_VARIABLE]).all(urls))
    except (UnreachableError, KeyError) as error:
        print(f"nothing could be looked at: {error}")
        return 2
    for one in found:
        print(f"{'ok    ' if one.good else 'FAILED'}  {one.text}")
    bad = sum(not one.good for one in found)
    print(f"{bad} of {len(found)} are not well" if bad else f"all {len(found)} are well")
    return 1 if bad else 0
