"""A pod's report against the real API server, with the rights the operator gives it and no others."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from real_api import Document, Namespace

from azaion_api.names import JobStage, report_key, run_identity, run_report
from azaion_api.report import RunReport, parse_run_report
from azaion_api.reporter import ConfigMapSink, Reporter, ReportError
from azaion_api.training_run import Stage

RUN = "nightly"
KEY = report_key(JobStage.TRAIN)


@dataclass(frozen=True)
class Pod:
    """What a pod of ours finds: its namespace, token and authority."""

    namespace: Namespace
    service_account: Path

    def sink(self, config_map: str = run_report(RUN)) -> ConfigMapSink:
        return ConfigMapSink(config_map, KEY, self.service_account)

    def core(self, method: str, path: str, body: object = None) -> Document:
        answer = self.namespace.api.request(method, f"/api/v1/namespaces/{self.namespace.name}/{path}", body)
        return answer.object

    @property
    def reported(self) -> Document:
        found: Document = self.core("GET", f"configmaps/{run_report(RUN)}").get("data", {})
        return found


@pytest.fixture
def pod(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """A ServiceAccount that may get and patch one ConfigMap, and a token of it."""
    api, name = namespace.api, namespace.name
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}"
    metadata = {"name": run_identity(RUN)}
    for path, body in (
        (f"/api/v1/namespaces/{name}/configmaps", {"metadata": {"name": run_report(RUN)}}),
        (f"/api/v1/namespaces/{name}/configmaps", {"metadata": {"name": "another"}}),
        (f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": metadata}),
        (
            f"{rbac}/roles",
            {
                "metadata": metadata,
                "rules": [
                    {
                        "apiGroups": [""],
                        "resources": ["configmaps"],
                        "resourceNames": [run_report(RUN)],
                        "verbs": ["get", "patch"],
                    }
                ],
            },
        ),
        (
            f"{rbac}/rolebindings",
            {
                "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": run_identity(RUN)},
                "subjects": [{"kind": "ServiceAccount", "name": run_identity(RUN), "namespace": name}],
            },
        ),
    ):
        assert api.request("POST", path, body).status == 201
    found = Pod(namespace, tmp_path)
    answer = found.core("POST", f"serviceaccounts/{run_identity(RUN)}/token", {"spec": {"expirationSeconds": 600}})
    (tmp_path / "token").write_text(answer["status"]["token"])
    (tmp_path / "ca.crt").write_bytes(api.authority)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api.host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    monkeypatch.setenv("AZAION_NAMESPACE", name)
    return found


def report(sequence: int) -> RunReport:
    return RunReport(pod_uid="pod-1", sequence=sequence, time=datetime(2026, 1, 31, tzinfo=UTC), stage=Stage.TRAINING)


def test_the_newest_report_is_in_the_config_map_when_the_pod_ends(pod: Pod) -> None:
    reporter = Reporter(pod.sink())
    for number in range(1, 50):
        reporter.send(report(number))
    assert reporter.close()
    found = parse_run_report(pod.reported[KEY])
    assert found is not None
    assert found.process, "a reader has to tell a restarted process from one whose clock was set back"
    assert msgspec.structs.replace(found, process="") == report(49)


def test_stages_write_beside_one_another(pod: Pod) -> None:
    pod.sink().write(b"{}")
    ConfigMapSink(run_report(RUN), report_key(JobStage.PREPARE), pod.service_account).write(b"[]")
    assert pod.reported == {KEY: "{}", report_key(JobStage.PREPARE): "[]"}


def test_a_pod_cannot_write_into_the_report_of_another(pod: Pod) -> None:
    with pytest.raises(ReportError, match=r"refused the report with 403: .*forbidden"):
        pod.sink("another").write(b"{}")


def test_a_report_that_was_deleted_is_not_made_again_by_the_pod(pod: Pod) -> None:
    sink = pod.sink()
    sink.write(b"{}")
    pod.core("DELETE", f"configmaps/{run_report(RUN)}")
    with pytest.raises(ReportError, match=r"refused the report with 404: .*not found"):
        sink.write(b"{}")


def test_a_token_that_is_no_longer_good_is_replaced_by_the_next_one(pod: Pod) -> None:
    sink = pod.sink()
    good = (pod.service_account / "token").read_text()
    head, payload, signature = good.split(".")
    forged = base64.urlsafe_b64encode(bytes(reversed(base64.urlsafe_b64decode(signature + "==")))).decode().rstrip("=")
    (pod.service_account / "token").write_text(f"{head}.{payload}.{forged}")
    with pytest.raises(ReportError, match=r"refused the report with 401: .*Unauthorized"):
        sink.write(b"{}")
    (pod.service_account / "token").write_text(good)
    sink.write(b"{}")
    assert pod.reported == {KEY: "{}"}


def test_a_connection_that_was_cut_costs_no_report(pod: Pod) -> None:
    sink = pod.sink()
    sink.write(b"1")
    connection = sink._client._connection
    assert connection is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    sink.write(b"2")
    assert pod.reported == {KEY: "2"}
    assert sink._client._connection is not connection
