"""How a pod writes its report: the newest one, from a thread of its own, so that no work ever waits for the API server."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from azaion_api.pod_client import MERGE_PATCH, SERVICE_ACCOUNT, PodClient, UnreachableError
from azaion_api.report import Report
from azaion_api.task import NAMESPACE_VARIABLE

log = logging.getLogger(__name__)

_MAX_BACKOFF_S = 15.0
_CLOSING_BACKOFF_S = 0.5


class ReportError(Exception):
    """The API server did not take a report; the message says why."""


class ReportSink(Protocol):
    """Takes an encoded report; raises ReportError."""

    def write(self, body: bytes) -> None: ...


class ConfigMapSink:
    """Merge-patches one key of one ConfigMap with the pod's own token."""

    def __init__(self, config_map: str, key: str, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._path = f"/api/v1/namespaces/{os.environ[NAMESPACE_VARIABLE]}/configmaps/{config_map}"
        self._key = key
        self._client = PodClient(service_account)

    def write(self, body: bytes) -> None:
        patch = msgspec.json.encode({"data": {self._key: body.decode()}})
        try:
            status, answer = self._client.ask("PATCH", self._path, patch, MERGE_PATCH)
        except UnreachableError as error:
            raise ReportError(str(error)) from error
        if status >= 300:
            raise ReportError(
                f"the API server refused the report with {status}: {answer[:200].decode(errors='replace')}"
            )


class LogSink:
    """Outside a cluster: reports go to the log."""

    def write(self, body: bytes) -> None:
        log.debug("report", extra={"context": {"report": body.decode()}})


def sink_for(config_map: str, key: str) -> ReportSink:
    """The ConfigMap inside a cluster, the log outside."""
    return ConfigMapSink(config_map, key) if "KUBERNETES_SERVICE_HOST" in os.environ else LogSink()


class Reporter:
    """Sends the newest report; older ones that were not sent yet are dropped, failed ones are tried again with backoff.

    The caller numbers its reports with `next_sequence` and never waits, but for `close`. Any thread may call.
    """

    def __init__(self, sink: ReportSink) -> None:
        self._sink = sink
        self._wake = threading.Condition()
        self._waiting: bytes | None = None
        self._busy = False
        self._closing = False
        self._stopped = False
        self._sequence = 0
        self._process = uuid.uuid4().hex[:12]
        self._newest = 0
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def next_sequence(self) -> int:
        """A number above all before it; a report with a number not above this process's last one is ignored.

        It is the clock in milliseconds where that is higher: an operator of a release before reports named their
        process takes a container that was started again in the same pod for a later word of its predecessor.
        """
        with self._wake:
            self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
            return self._sequence

    def send(self, report: Report) -> None:
        """Hand over the newest report and return at once; one older than the last, or after `close`, is dropped."""
        body = msgspec.json.encode(msgspec.structs.replace(report, process=self._process))
        with self._wake:
            if self._closing or report.sequence < self._newest:
                return
            self._newest = report.sequence
            self._waiting = body
            self._wake.notify_all()

    def close(self, timeout_s: float = 20.0) -> bool:
        """Wait until the newest report is written; False when it was not within `timeout_s` seconds.

        A report that waits out a backoff is tried again at once.
        """
        with self._wake:
            self._closing = True
            self._wake.notify_all()
            sent = self._wake.wait_for(lambda: self._waiting is None and not self._busy, timeout_s)
            self._stopped = True
            self._wake.notify_all()
        self._thread.join(timeout=1.0)
        return sent

    def _run(self) -> None:
        failures = 0
        while (body := self._take()) is not None:
            delay_s = 0.0
            try:
                self._sink.write(body)
                failures = 0
            except ReportError as error:
                failures += 1
                delay_s = min(_MAX_BACKOFF_S, 0.5 * 2 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)
                log.warning("report not taken, trying again in %.1f s: %s", delay_s, error)
            finally:
                self._put_back(body if delay_s else None)
            if delay_s:
                self._back_off(delay_s)

    def _take(self) -> bytes | None:
        """The newest report, once there is one; None at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting is not None or self._stopped)
            if self._stopped:
                return None
            body, self._waiting, self._busy = self._waiting, None, True
            return body

    def _put_back(self, body: bytes | None) -> None:
        """The end of one write; `body` was not taken and waits again, unless a newer one came meanwhile."""
        with self._wake:
            if self._waiting is None:
                self._waiting = body
            self._busy = False
            self._wake.notify_all()

    def _back_off(self, delay_s: float) -> None:
        with self._wake:
            if self._closing:
                # The last word of a pod that is about to end: soon again, but not in a hot loop.
                self._wake.wait_for(lambda: self._stopped, min(delay_s, _CLOSING_BACKOFF_S))
            else:
                self._wake.wait_for(lambda: self._closing, delay_s)


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)
