"""The chart's health check against a real API server: with the rights the chart gives it, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from real_api import Namespace

from azaion_api.health import HealthReport, Outcome, Severity, parse_health_report
from azaion_api.names import Kind
from azaion_api.pod_client import PodClient
from azaion_operator.health_check import check


@pytest.fixture
def client(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PodClient:
    """What the CronJob's pod has: its ServiceAccount's token, bound to the chart's roles."""
    api = namespace.api
    for document in api.rendered("templates/health.yaml", namespace.name):
        api.output("apply", "-n", namespace.name, "-f", "-", stdin=document)
    token = api.output("create", "token", "-n", namespace.name, "azaion-health", "--duration=1h").strip()
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(api.authority)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api.host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    return PodClient(tmp_path)


def kept(namespace: Namespace) -> HealthReport:
    path = f"/api/v1/namespaces/{namespace.name}/configmaps/azaion-health"
    found = parse_health_report(namespace.api.request("GET", path).object["data"]["health.json"])
    assert found is not None
    return found


def test_everything_it_asks_for_may_be_read_and_its_result_is_kept(namespace: Namespace, client: PodClient) -> None:
    assert namespace.create(Kind.ANNOTATION_INGEST, "annotations", {}).status == 201
    assert namespace.create(Kind.TRAINING_RUN, "full", {}).status == 201
    assert namespace.patch_status(Kind.TRAINING_RUN, "full", {"phase": "Running"}).status == 200
    report = check(client, namespace.name, datetime.now(UTC), None)
    assert kept(namespace) == report
    assert "forbidden" not in report.encode()
    by_key = {found.key: found for found in report.checks}
    assert by_key["Operator"].severity is Severity.HIGH
    assert by_key["Consumer/annotations"].severity is Severity.CRITICAL
    assert by_key["Credentials/annotations"].outcome is Outcome.UNKNOWN
    assert by_key["Training/full"].outcome is Outcome.OK


def test_an_offset_is_compared_with_the_check_before(namespace: Namespace, client: PodClient) -> None:
    assert namespace.create(Kind.ANNOTATION_INGEST, "annotations", {}).status == 201
    status = {"phase": "Running", "committedOffset": 41, "lag": 3}
    assert namespace.patch_status(Kind.ANNOTATION_INGEST, "annotations", status).status == 200
    began = datetime.now(UTC)

    def offset(minutes: int) -> Outcome:
        report = check(client, namespace.name, began + timedelta(minutes=minutes), None)
        return next(found.outcome for found in report.checks if found.name == "Offset")

    assert [offset(minutes) for minutes in (0, 5, 29)] == [Outcome.OK] * 3
    assert offset(31) is Outcome.FAILED
    assert namespace.patch_status(Kind.ANNOTATION_INGEST, "annotations", {"committedOffset": 42}).status == 200
    assert offset(35) is Outcome.OK


def test_without_the_right_to_list_nodes_their_checks_are_unknown(namespace: Namespace, client: PodClient) -> None:
    namespace.api.output("delete", "clusterrolebinding", f"{namespace.name}-health")
    report = check(client, namespace.name, datetime.now(UTC), None)
    by_name = {found.name: found for found in report.checks}
    assert by_name["GPU"].outcome is by_name["Images"].outcome is Outcome.UNKNOWN
    assert "nodes is forbidden" in by_name["GPU"].message
