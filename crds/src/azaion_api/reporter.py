"""How a pod writes its report: the newest one, from a thread of its own, so that no work ever waits for the API server."""

from __future__ import annotations

import http.client
import logging
import os
import random
import ssl
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from azaion_api.report import Report
from azaion_api.task import NAMESPACE_VARIABLE

log = logging.getLogger(__name__)

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 10.0
_MAX_BACKOFF_S = 15.0


class ReportError(Exception):
    """The API server did not take a report; the message says why."""


class ReportSink(Protocol):
    """Takes an encoded report; raises ReportError."""

    def write(self, body: bytes) -> None: ...


class ConfigMapSink:
    """Merge-patches one key of one ConfigMap with the pod's own token (read anew each time: tokens rotate)."""

    def __init__(self, config_map: str, key: str) -> None:
        self._host = os.environ["KUBERNETES_SERVICE_HOST"]
        self._port = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
        self._path = f"/api/v1/namespaces/{os.environ[NAMESPACE_VARIABLE]}/configmaps/{config_map}"
        self._key = key
        self._tls = ssl.create_default_context(cafile=str(_SERVICE_ACCOUNT / "ca.crt"))
        self._connection: http.client.HTTPSConnection | None = None

    def write(self, body: bytes) -> None:
        patch = msgspec.json.encode({"data": {self._key: body.decode()}})
        headers = {
            "Authorization": f"Bearer {(_SERVICE_ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/merge-patch+json",
        }
        try:
            status, answer = self._patch(patch, headers)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            raise ReportError(f"the API server at {self._host}:{self._port} cannot be reached: {error}") from error
        if status >= 300:
            raise ReportError(
                f"the API server refused the report with {status}: {answer[:200].decode(errors='replace')}"
            )

    def _patch(self, patch: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_TIMEOUT_S, context=self._tls
            )
        self._connection.request("PATCH", self._path, patch, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class LogSink:
    """Outside a cluster: reports go to the log."""

    def write(self, body: bytes) -> None:
        log.debug("report", extra={"context": {"report": body.decode()}})


def sink_for(config_map: str, key: str) -> ReportSink:
    """The ConfigMap inside a cluster, the log outside."""
    return ConfigMapSink(config_map, key) if "KUBERNETES_SERVICE_HOST" in os.environ else LogSink()


class Reporter:
    """Sends the newest report; older ones that were not sent yet are dropped, failed ones are tried again with backoff.

    The caller numbers its reports with `next_sequence` and never waits, but for `close`.
    """

    def __init__(self, sink: ReportSink) -> None:
        self._sink = sink
        self._wake = threading.Condition()
        self._waiting: bytes | None = None
        self._closing = False
        self._busy = False
        self._sequence = 0
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def next_sequence(self) -> int:
        """Numbers from 1; a report with a number not above the last one is ignored by the operator."""
        self._sequence += 1
        return self._sequence

    def send(self, report: Report) -> None:
        """Hand over the newest report and return at once."""
        with self._wake:
            self._waiting = msgspec.json.encode(report)
            self._wake.notify_all()

    def close(self, timeout_s: float = 20.0) -> bool:
        """Wait until the newest report is written; False when it was not within `timeout_s` seconds."""
        with self._wake:
            sent = self._wake.wait_for(lambda: self._waiting is None and not self._busy, timeout_s)
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout=1.0)
        return sent

    def _run(self) -> None:
        failures = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None or self._closing)
                if self._closing:
                    return
                body, self._waiting, self._busy = self._waiting, None, True
            delay_s = 0.0
            try:
                self._sink.write(body or b"")
                failures = 0
            except ReportError as error:
                failures += 1
                delay_s = min(_MAX_BACKOFF_S, 0.5 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
                log.warning("report not taken, trying again in %.1f s: %s", delay_s, error)
            with self._wake:
                if delay_s and self._waiting is None:
                    self._waiting = body
                self._busy = False
                self._wake.notify_all()
                if delay_s:
                    deadline = time.monotonic() + delay_s
                    while not self._closing and (left := deadline - time.monotonic()) > 0:
                        self._wake.wait(left)


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)
