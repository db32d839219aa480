"""What `helm test` says of an installation."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from azaion_api.report import StorageReport
from azaion_operator.installation import Found, Look

DEPLOYMENTS = "/apis/apps/v1/namespaces/azaion/deployments?labelSelector=app.kubernetes.io/part-of%3Dazaion"
PODS = "/api/v1/namespaces/azaion/pods?labelSelector=app.kubernetes.io/part-of%3Dazaion"
INGESTS = "/apis/azaion.com/v1alpha1/namespaces/azaion/annotationingests"
STORAGE = "/api/v1/namespaces/azaion/configmaps/azaion-storage-report"
INFO = '{"timestamp":"t","level":"INFO","service":"s","message":"fine"}'


class Api:
    """Answers by path; a list is given one after the other."""

    def __init__(self, **_: Any) -> None:
        report = StorageReport(
            pod_uid="u", sequence=1, time="2026-01-01T00:00:00Z", capacity_bytes=100, available_bytes=50
        )  # type: ignore[arg-type]
        self.answers: dict[str, Any] = {
            DEPLOYMENTS: items(deployment("azaion-operator", 1, 1)),
            PODS: items(pod("azaion-operator-x")),
            INGESTS: items(ingest(lag=0)),
            STORAGE: {"data": {"storage.json": msgspec.json.encode(report).decode()}},
            "/log": f"not JSON\n{INFO}\n",
        }

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        assert (method, body) == ("GET", None), "it only looks"
        answer = self.answers.get("/log" if "/log?" in path else path)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            return 404, b"{}"
        return 200, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()


def items(*found: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(found)}


def deployment(name: str, wanted: int, ready: int) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"replicas": wanted}, "status": {"readyReplicas": ready}}


def pod(name: str, phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main"}]}, "status": {"phase": phase}}


def ingest(**status: Any) -> dict[str, Any]:
    values = {"phase": "Running", "committedOffset": 7, "message": "m", **status}
    return {"metadata": {"name": "annotations"}, "spec": {}, "status": values}


def look(api: Api) -> list[Found]:
    waits: list[float] = []
    return list(Look(api, "azaion", waits.append).all([]))


def bad(api: Api) -> list[str]:
    return [found.text for found in look(api) if not found.good]


def test_an_installation_that_works_is_well() -> None:
    assert [found.text for found in look(Api())] == [
        "deployment azaion-operator: 1 of 1 ready",
        "log of azaion-operator-x: no errors in 10 minutes",
        "ingest annotations: everything is filed, offset 7",
        "storage: 50 % free, 10 % are needed",
    ]
    assert bad(Api()) == []


def test_an_installation_without_a_deployment_is_not_well() -> None:
    api = Api()
    api.answers[DEPLOYMENTS] = items()
    assert bad(api) == ["there is no Deployment of the platform; did the installation fail?"]


def test_a_deployment_that_is_not_ready_is_named_with_what_to_do() -> None:
    api = Api()
    api.answers[DEPLOYMENTS] = items(deployment("azaion-storage", 1, 0))
    assert bad(api) == [
        "deployment azaion-storage: 0 of 1 ready; see kubectl -n azaion describe deployment/azaion-storage"
    ]


def test_errors_in_a_log_are_counted_and_the_last_is_shown() -> None:
    api = Api()
    lines = [json.dumps({"level": level, "message": level.lower()}) for level in ("ERROR", "WARN", "CRITICAL", "INFO")]
    api.answers["/log"] = "\n".join(lines)
    assert bad(api) == ["log of azaion-operator-x: 2 errors in 10 minutes, the last: critical"]


def test_a_pod_that_has_ended_has_no_log_to_judge() -> None:
    api = Api()
    api.answers[PODS] = items(pod("full-train-1-x", "Succeeded"))
    assert not any(found.text.startswith("log") for found in look(api))


@pytest.mark.parametrize(
    ("later", "text", "good"),
    [
        ({"committedOffset": 8, "lag": 90}, "ingest annotations: its offset advances, 8", True),
        ({"committedOffset": 7, "lag": 0}, "ingest annotations: its offset advances, 7", True),
        ({"committedOffset": 7, "lag": 91}, "ingest annotations: its offset stays at 7 although messages wait", False),
    ],
)
def test_an_offset_with_messages_behind_it_has_to_advance(later: dict[str, Any], text: str, good: bool) -> None:
    api = Api()
    api.answers[INGESTS] = items(ingest(lag=90))
    api.answers[f"{INGESTS}/annotations"] = [ingest(lag=91), ingest(lag=91), ingest(**later)]
    assert Found(good, text) in look(api)


def test_an_ingest_that_does_not_run_says_why_and_a_suspended_one_is_well() -> None:
    api = Api()
    api.answers[INGESTS] = items(ingest(phase="Failed", message="the host x is not on the chart's list"))
    assert bad(api) == ["ingest annotations: Failed, the host x is not on the chart's list"]
    api.answers[INGESTS] = items({**ingest(phase="Suspended"), "spec": {"suspend": True}})
    assert bad(api) == []


@pytest.mark.parametrize("answer", [None, {}, {"data": {"storage.json": "garbage"}}])
def test_storage_that_is_not_reported_is_not_well(answer: Any) -> None:
    api = Api()
    api.answers[STORAGE] = answer
    assert bad(api) == ["storage: there is no report of the storage pod"]


def test_a_full_disk_is_not_well() -> None:
    api = Api()
    data = json.loads(api.answers[STORAGE]["data"]["storage.json"])
    data["availableBytes"] = 5
    api.answers[STORAGE] = {"data": {"storage.json": json.dumps(data)}}
    assert bad(api) == ["storage: 5 % free, 10 % are needed"]


def test_metrics_that_do_not_answer_are_named() -> None:
    (found,) = [f for f in Look(Api(), "azaion").all(["http://127.0.0.1:1/metrics"]) if "metrics" in f.text]
    assert not found.good
    assert "127.0.0.1:1" in found.text
