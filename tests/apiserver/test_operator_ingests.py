"""The operator before a real API server: AnnotationIngests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from operator_harness import Node, Operator, eventually, ingest_report, new_namespace, now_text
from real_api import Document, Namespace, RealApi

from azaion_api.names import Kind

pytestmark = pytest.mark.timeout(300)
INGEST = Kind.ANNOTATION_INGEST


@pytest.fixture(scope="module")
def namespace(api: RealApi) -> Namespace:
    return new_namespace(api, "operator-ingests")


@pytest.fixture(scope="module")
def one_operator(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    found = Operator(namespace, tmp_path_factory.mktemp("operator"))
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def operator(one_operator: Operator, node: Node) -> Iterator[Operator]:
    told = len(one_operator.log)
    yield one_operator
    node.clear()
    one_operator.require_no_defect(told)


@pytest.fixture
def node(namespace: Namespace) -> Node:
    return Node(namespace)


def status(namespace: Namespace, name: str) -> Document:
    found: Document = namespace.get(INGEST, name).get("status", {})
    return found


def until(namespace: Namespace, name: str, **wanted: Any) -> Document:
    def look() -> Document | None:
        found = status(namespace, name)
        return found if all(found.get(k) == v for k, v in wanted.items()) else None

    found = eventually(f"ingest {name} shows {wanted}", look, hint=lambda: str(status(namespace, name)))
    assert found is not None
    return found


def verdicts(found: Document) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in found["conditions"]}


def consumer(node: Node, ingest: str) -> Document:
    """The Deployment's pod, running on the node."""

    def look() -> Document | None:
        pods = [p for p in node.items("pods") if p["metadata"]["labels"].get("azaion.com/annotation-ingest") == ingest]
        return next((p for p in pods if "deletionTimestamp" not in p["metadata"]), None)

    pod = eventually(f"the consumer of {ingest} has a pod", look)
    assert pod is not None
    node.bind(pod)
    node.set_pod(pod, "Running", {"running": {"startedAt": now_text()}})
    return pod


def report(node: Node, ingest: str, pod: Document, sequence: int, **fields: Any) -> None:
    text = ingest_report(pod["metadata"]["uid"], sequence, **fields)
    assert node.patch("configmaps", f"{ingest}-ingest-report", {"data": {"ingest.json": text}})


def test_an_ingest_gets_a_consumer_and_shows_what_it_reports(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    namespace.create(INGEST, "annotations", {}).object  # noqa: B018 - it has to be accepted
    pod = consumer(node, "annotations")
    until(namespace, "annotations", phase="Pending", message=f"pod {pod['metadata']['name']} starts")
    report(
        node,
        "annotations",
        pod,
        1,
        committedOffset=41,
        lag=3,
        images={"data": 30, "data-seed": 12},
        processed=42,
        caughtUp={"status": False, "reason": "Behind", "message": ""},
    )
    found = until(namespace, "annotations", phase="Running", committedOffset=41, lag=3, imagesTotal=42)
    assert found["message"] == "3 messages behind"
    assert verdicts(found) == {
        "Connected": ("True", "Good"),
        "CaughtUp": ("False", "Behind"),
        "StorageWritable": ("True", "Good"),
        "Ready": ("True", "Ready"),
    }
    row = namespace.api.output("get", "ingest", "-n", namespace.name, "--no-headers").split()
    assert row[:5] == ["annotations", "True", "41", "3", "42"]


def test_missing_credentials_are_said_by_the_consumer_and_shown(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    namespace.create(INGEST, "annotations", {})
    pod = consumer(node, "annotations")
    words = "Secret azaion-rabbitmq lacks the keys username and password"
    trouble = {"status": False, "reason": "CredentialsMissing", "message": words}
    report(node, "annotations", pod, 1, connected=trouble)
    found = until(namespace, "annotations", message=words)
    assert verdicts(found)["Ready"] == ("False", "CredentialsMissing")


def test_a_pod_that_is_gone_is_no_longer_connected(operator: Operator, node: Node, namespace: Namespace) -> None:
    namespace.create(INGEST, "annotations", {})
    pod = consumer(node, "annotations")
    report(node, "annotations", pod, 1, committedOffset=7)
    until(namespace, "annotations", phase="Running")
    node.remove(pod)
    found = until(namespace, "annotations", phase="Pending")
    assert (found["committedOffset"], verdicts(found)["Connected"][0]) == (7, "False")
    again = consumer(node, "annotations")
    report(node, "annotations", again, 1, committedOffset=8)
    until(namespace, "annotations", phase="Running", committedOffset=8)


def deployed(node: Node) -> Document:
    found = eventually("the Deployment is there", lambda: node.get("deployments", "annotations-ingest"))
    assert found is not None
    return found


def test_suspending_takes_the_pod_away_and_resuming_brings_one_back(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    namespace.create(INGEST, "annotations", {})
    pod = consumer(node, "annotations")
    namespace.patch(INGEST, "annotations", {"spec": {"suspend": True}})
    eventually("no pod is wanted", lambda: deployed(node)["spec"]["replicas"] == 0)
    eventually(
        "the pod is being deleted",
        lambda: "deletionTimestamp" in (node.get("pods", pod["metadata"]["name"]) or {"metadata": {}})["metadata"],
    )
    node.remove(pod)
    until(namespace, "annotations", phase="Suspended")
    namespace.patch(INGEST, "annotations", {"spec": {"suspend": False}})
    consumer(node, "annotations")


def test_a_changed_spec_reaches_the_consumer_and_a_hand_on_the_deployment_does_not_last(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    namespace.create(INGEST, "annotations", {})
    deployed(node)
    namespace.patch(INGEST, "annotations", {"spec": {"classCount": 17}})

    def told() -> int:
        container = deployed(node)["spec"]["template"]["spec"]["containers"][0]
        task = json.loads(next(e["value"] for e in container["env"] if e["name"] == "AZAION_TASK"))
        found: int = task["spec"]["classCount"]
        return found

    eventually("the consumer is told", lambda: told() == 17)
    node.patch("deployments", "annotations-ingest", {"spec": {"replicas": 3}})
    eventually("there is one again", lambda: deployed(node)["spec"]["replicas"] == 1)


def test_two_ingests_never_file_into_the_same_directories(operator: Operator, node: Node, namespace: Namespace) -> None:
    namespace.create(INGEST, "first", {})
    eventually("the first has its Deployment", lambda: node.get("deployments", "first-ingest"))
    namespace.create(INGEST, "second", {})
    found = until(namespace, "second", phase="Failed")
    assert found["message"].startswith("AnnotationIngest first files into the same directories already")
    assert node.get("deployments", "second-ingest") is None
    namespace.api.output("delete", "ingest", "-n", namespace.name, "first")
    eventually("the second takes over", lambda: node.get("deployments", "second-ingest"))


def test_a_missing_image_is_said(operator: Operator, node: Node, namespace: Namespace) -> None:
    namespace.create(INGEST, "annotations", {})
    pod = consumer(node, "annotations")
    node.set_pod(pod, "Pending", {"waiting": {"reason": "ErrImageNeverPull", "message": "it is not present"}})
    until(
        namespace,
        "annotations",
        phase="Pending",
        message="the image docker.io/azaion/consumer:0.1.0 cannot be had (it is not present)",
    )


def test_deleting_an_ingest_removes_what_was_made_for_it(operator: Operator, node: Node, namespace: Namespace) -> None:
    namespace.create(INGEST, "annotations", {})
    pod = consumer(node, "annotations")
    namespace.api.output("delete", "ingest", "-n", namespace.name, "annotations")
    eventually("the Deployment is gone", lambda: node.get("deployments", "annotations-ingest") is None)
    node.remove(pod)
    eventually("the report is gone", lambda: node.get("configmaps", "annotations-ingest-report") is None)
