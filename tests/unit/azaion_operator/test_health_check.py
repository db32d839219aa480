"""The chart's health check: what it keeps, and what it tells the webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from tests.loopback import serving

from azaion_api.health import HEALTH_REPORT_KEY, Check, HealthReport, Notice, Outcome, Severity, parse_health_report
from azaion_operator import health_check
from azaion_operator.health_check import HealthCheckError, notice_body, notice_due, post

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DISK = Check(
    name="Disk", outcome=Outcome.FAILED, severity=Severity.CRITICAL, message="96% used", action="remove data sets"
)
GPU = Check(name="GPU", outcome=Outcome.FAILED, severity=Severity.MEDIUM, message="no GPU", action="look")


class ApiServer:
    """Answers what it is given, refuses nodes, and takes the patch of the result."""

    def __init__(self, answers: dict[str, Any], patch_status: int = 200) -> None:
        self.answers = answers
        self.kept: list[HealthReport] = []
        self._patch_status = patch_status

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        if method == "PATCH":
            assert (path, content_type) == (
                "/api/v1/namespaces/azaion/configmaps/azaion-health",
                "application/merge-patch+json",
            )
            kept = parse_health_report(json.loads(body or b"")["data"][HEALTH_REPORT_KEY])
            assert kept is not None
            self.kept.append(kept)
            return self._patch_status, b"{}"
        plain = path.partition("?")[0]
        if plain == "/api/v1/nodes":
            return 403, json.dumps({"message": "nodes is forbidden"}).encode()
        found = self.answers.get(plain.rpartition("/")[2])
        return (200, json.dumps(found).encode()) if found is not None else (404, b"{}")


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A webhook, and what it was posted."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        status: ClassVar[int] = 204

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken?token=s3cret" else 204)
            self.end_headers()

    with serving(Handler) as url:
        yield url, posted


def report(*checks: Check, told: Notice | None = None) -> HealthReport:
    return HealthReport(time=NOW, checks=checks, notice=told)


def test_the_result_is_kept_for_the_next_comparison() -> None:
    api = ApiServer({"trainingruns": {"items": []}, "annotationingests": {"items": []}, "modellines": {"items": []}})
    found = health_check.check(api, "azaion", NOW, None)  # type: ignore[arg-type]
    assert api.kept == [found]
    by_name = {check.name: check for check in found.checks}
    assert by_name["Operator"].severity is Severity.HIGH
    assert by_name["GPU"].outcome is Outcome.UNKNOWN
    assert "nodes is forbidden" in by_name["GPU"].message


def test_a_result_that_cannot_be_kept_is_an_error() -> None:
    with pytest.raises(HealthCheckError, match="cannot be kept: 403"):
        health_check.check(ApiServer({}, patch_status=403), "azaion", NOW, None)  # type: ignore[arg-type]


def test_the_webhook_is_told_once_and_again_when_it_is_over(hook: tuple[str, list[Any]]) -> None:
    url, posted = hook
    stored: dict[str, Any] = {}
    api = ApiServer({"azaion-health": stored, "deployments": {"items": []}})

    def check(minutes: int) -> HealthReport:
        found = health_check.check(api, "azaion", NOW + timedelta(minutes=minutes), url)  # type: ignore[arg-type]
        stored["data"] = {HEALTH_REPORT_KEY: found.encode()}
        return found

    check(0)
    check(5)
    assert len(posted) == 1
    assert posted[0]["namespace"] == "azaion"
    assert {failed["name"] for failed in posted[0]["failed"]} == {"Operator", "Storage"}
    assert "High: Operator: there is no operator" in posted[0]["text"]
    lease = {"metadata": {"name": "azaion-operator"}, "spec": {"renewTime": (NOW + timedelta(minutes=10)).isoformat()}}
    api.answers["azaion-operator"] = lease
    check(10)
    assert posted[1]["resolved"] == ["Operator"]
    assert len(posted) == 2


def test_a_webhook_that_fails_is_told_again_and_its_address_is_never_logged(
    hook: tuple[str, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    url, posted = hook
    api = ApiServer({})
    found = health_check.check(api, "azaion", NOW, f"{url}/broken?token=s3cret")  # type: ignore[arg-type]
    assert found.notice is None
    assert len(posted) == 1
    assert "the webhook answered with 500" in caplog.text
    health_check.check(api, "azaion", NOW, "http://127.0.0.1:1/?token=s3cret")  # type: ignore[arg-type]
    assert "the webhook cannot be reached: URLError" in caplog.text
    assert "s3cret" not in caplog.text


def test_an_address_that_is_no_web_address_is_refused() -> None:
    with pytest.raises(HealthCheckError, match="has to begin with http"):
        post("file:///etc/passwd", {})


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (report(), False),
        (report(GPU), False),
        (report(DISK, GPU), True),
        (report(DISK, told=Notice(("Disk",), NOW - timedelta(minutes=5))), False),
        (report(DISK, told=Notice(("Disk",), NOW - timedelta(hours=4))), True),
        (report(told=Notice(("Disk",), NOW - timedelta(minutes=5))), True),
        (report(told=Notice((), NOW - timedelta(days=5))), False),
    ],
)
def test_only_what_is_urgent_is_told_when_it_begins_lasts_and_ends(found: HealthReport, due: bool) -> None:
    notice = notice_due(found)
    assert (notice is not None) is due
    if notice is not None:
        assert notice == Notice(tuple(check.key for check in found.urgent), NOW)


def test_a_notice_says_what_to_do() -> None:
    body = notice_body(report(DISK), "azaion")
    assert body["text"] == "Azaion Training (azaion): Critical: Disk: 96% used. To do: remove data sets"
    assert msgspec.json.encode(body)


def test_without_a_secret_there_is_no_webhook(tmp_path: Path) -> None:
    assert health_check.read_webhook(tmp_path / "url") is None
    (tmp_path / "url").write_text("https://hooks.example/x\n")
    assert health_check.read_webhook(tmp_path / "url") == "https://hooks.example/x"
    (tmp_path / "dir").mkdir()
    with pytest.raises(HealthCheckError, match="cannot be read: IsADirectoryError"):
        health_check.read_webhook(tmp_path / "dir")


def test_outside_of_a_pod_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AZAION_NAMESPACE", raising=False)
    assert health_check.main() == 1
    assert "AZAION_NAMESPACE is not set" in capsys.readouterr().out
