"""The health check that the chart's CronJob makes: look, compare with the last result, keep this one, tell the webhook.

A program of its own, on the standard library's HTTP: it starts every few minutes on a machine that is training.
"""

from __future__ import annotations

import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from azaion_api import logs
from azaion_api.checks import check_health
from azaion_api.facts import Answer, Paths, Unreadable, gather
from azaion_api.health import HEALTH_REPORT_KEY, HealthReport, Notice, Outcome, summary
from azaion_api.pod_client import MERGE_PATCH, PodClient, UnreachableError
from azaion_api.task import LOG_LEVEL_VARIABLE, NAMESPACE_VARIABLE

log = logging.getLogger(__name__)

#: Where the chart mounts the Secret with the webhook's address.
WEBHOOK_FILE = Path("/etc/azaion/webhook/url")
#: What stays wrong is told again after this.
REPEAT_AFTER = timedelta(hours=4)
_WEBHOOK_TIMEOUT_S = 10.0


class HealthCheckError(Exception):
    """The check could not be made or kept; the message says why."""


class PodSource:
    """Reads with the rights of the pod; Secrets are not among them."""

    def __init__(self, client: PodClient) -> None:
        self._client = client

    def read(self, paths: Sequence[str]) -> Mapping[str, Answer]:
        return {path: self._one(path) for path in paths}

    def secret_keys(self, name: str) -> frozenset[str] | Unreadable | None:
        return Unreadable(f"this check may not read Secret {name}")

    def _one(self, path: str) -> Answer:
        status, body = self._client.ask("GET", path)
        if status == 404:
            return None
        try:
            found: Any = msgspec.json.decode(body)
        except msgspec.DecodeError:
            found = None
        if status >= 300:
            message = found.get("message") if isinstance(found, dict) else ""
            return Unreadable(f"{path.partition('?')[0]}: {status} {message or ''}".strip())
        return found if isinstance(found, dict) else Unreadable(f"{path}: the answer is no object")


def notice_due(report: HealthReport) -> Notice | None:
    """What the webhook is to be told: that something urgent began or ended, or that it still is so hours later."""
    keys = tuple(sorted(check.key for check in report.urgent))
    told = report.notice
    if keys == (told.keys if told else ()):
        again = told is not None and bool(keys) and report.time - told.time >= REPEAT_AFTER
        return Notice(keys, report.time) if again else None
    return Notice(keys, report.time)


def notice_body(report: HealthReport, namespace: str) -> dict[str, Any]:
    """What is posted: `text` is what chat services show, the rest is for programs."""
    urgent = report.urgent
    before = set(report.notice.keys) if report.notice else set()
    resolved = sorted(before - {check.key for check in urgent})
    lines = [f"{check.severity}: {check.key}: {check.message}. To do: {check.action}" for check in urgent]
    lines += [f"Resolved: {key}" for key in resolved]
    return {
        "text": f"Azaion Training ({namespace}): " + (lines[0] if len(lines) == 1 else "\n".join(["", *lines])),
        "namespace": namespace,
        "time": report.time.isoformat(),
        "failed": [msgspec.to_builtins(check) for check in urgent],
        "resolved": resolved,
    }


def post(url: str, body: Mapping[str, Any]) -> None:
    """Post JSON. Raises HealthCheckError, which never holds the address: it may carry a token."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise HealthCheckError("the webhook's address has to begin with http:// or https://; check its Secret")
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_WEBHOOK_TIMEOUT_S) as response:  # noqa: S310
            response.read(1)
    except urllib.error.HTTPError as error:
        raise HealthCheckError(f"the webhook answered with {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise HealthCheckError(f"the webhook cannot be reached: {type(error).__name__}") from None


def check(client: PodClient, namespace: str, now: datetime, webhook: str | None) -> HealthReport:
    """Look, tell and keep. Raises HealthCheckError or UnreachableError when the result could not be kept."""
    report = check_health(gather(PodSource(client), namespace, now))
    if webhook is not None and (notice := notice_due(report)) is not None:
        try:
            post(webhook, notice_body(report, namespace))
            report = msgspec.structs.replace(report, notice=notice)
        except HealthCheckError as error:
            # Not noted as told, so the next check tries again.
            log.error("%s", error)
    body = msgspec.json.encode({"data": {HEALTH_REPORT_KEY: report.encode()}})
    status, answer = client.ask("PATCH", Paths(namespace).health, body, MERGE_PATCH)
    if status >= 300:
        raise HealthCheckError(f"the result cannot be kept: {status} {answer[:200].decode(errors='replace')}")
    return report


def read_webhook(path: Path = WEBHOOK_FILE) -> str | None:
    """The webhook's address, or None when there is none."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise HealthCheckError(f"the webhook's address {path} cannot be read: {type(error).__name__}") from error


def main() -> int:
    """0 when the check was made and kept, whatever it found; 1 when it could not be made or kept."""
    logs.configure("azaion-health")
    try:
        logs.configure("azaion-health", os.environ.get(LOG_LEVEL_VARIABLE) or "INFO")
        namespace = os.environ[NAMESPACE_VARIABLE]
        report = check(PodClient(), namespace, datetime.now(UTC), read_webhook())
    except KeyError as error:
        log.error("the health check cannot start: %s is not set; it runs in a pod that the chart makes", error.args[0])
        return 1
    except (HealthCheckError, UnreachableError, ValueError) as error:
        log.error("the health check failed: %s", error)
        return 1
    for found in report.checks:
        if found.outcome in (Outcome.FAILED, Outcome.UNKNOWN):
            context = {"check": found.key, "severity": found.severity, "action": found.action}
            log.warning("%s", found.message, extra={"context": context})
    log.info("%s", summary(report))
    return 0
