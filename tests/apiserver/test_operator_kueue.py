"""Kueue's side of its protocol, spoken by a stand-in.

Jobs with its label are made suspended by admission, and suspended and resumed by somebody else than the operator, who
leaves that field alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operator_harness import Node, Operator, Runs, eventually, new_namespace
from real_api import Namespace, RealApi

from azaion_api.outcome import ExitCode

pytestmark = pytest.mark.timeout(300)

POLICY = "suspend-queued-jobs"
LABEL = "kueue.x-k8s.io/queue-name"
GROUP = "admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def namespace(api: RealApi) -> Iterator[Namespace]:
    """A namespace, and what Kueue's webhook does to a Job that is made with its label: it is made suspended."""
    found = new_namespace(api, "operator-kueue")
    policy = {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": POLICY},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
                ]
            },
            "matchConditions": [
                {"name": "queued", "expression": f"has(object.metadata.labels) && '{LABEL}' in object.metadata.labels"}
            ],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": "Object{spec: Object.spec{suspend: true}}"},
                }
            ],
        },
    }
    binding = {
        "apiVersion": GROUP,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY},
        "spec": {"policyName": POLICY},
    }
    for document in (policy, binding):
        api.output("apply", "-f", "-", stdin=document)
    eventually("the policy acts", lambda: _suspends(found))
    yield found
    api.output("delete", "mutatingadmissionpolicybindings,mutatingadmissionpolicies", POLICY)


def _suspends(namespace: Namespace) -> bool:
    """Whether a Job with the label would be made suspended: the API server takes up a new policy after a moment."""
    container = {"name": "probe", "image": "probe"}
    probe = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "probe", "labels": {LABEL: "gpus"}},
        "spec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}},
    }
    made = namespace.api.request("POST", f"/apis/batch/v1/namespaces/{namespace.name}/jobs?dryRun=All", probe)
    return made.object["spec"].get("suspend") is True


@pytest.fixture
def node(namespace: Namespace) -> Node:
    return Node(namespace)


@pytest.fixture
def operator(namespace: Namespace, node: Node, tmp_path: Path) -> Iterator[Operator]:
    found = Operator(namespace, tmp_path)
    found.start()
    yield found
    node.clear()
    found.stop()
    found.require_no_defect()


def admit(node: Node, job: str, admitted: bool) -> None:
    """As Kueue admits a workload, or takes its place away."""
    node.patch("jobs", job, {"spec": {"suspend": not admitted}})


def test_a_queued_run_waits_for_admission_gives_its_place_back_and_goes_on_in_the_same_job(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    runs = Runs(namespace)
    node.report_storage()
    runs.create("full", queueName="gpus")

    # Forming a data set takes no GPU, so the queue is not asked for it.
    prepare = node.job("full-prepare-1")
    assert LABEL not in prepare["metadata"]["labels"]
    assert not prepare["spec"].get("suspend")
    node.complete("full-prepare-1")

    # Admission is the queue's, whatever the operator would like.
    runs.until("full", message="waits for Kueue to admit it (gpus)", stage="Training")
    train = node.job("full-train-1")
    assert train["metadata"]["labels"][LABEL] == "gpus"
    assert train["spec"]["suspend"] is True
    assert node.pod_of(train) is None
    admit(node, "full-train-1", True)
    first = node.start_pod(train)

    # Somebody more important came: Kueue suspends the Job, the pod saves and leaves.
    admit(node, "full-train-1", False)
    eventually(
        "the pod is asked to leave", lambda: "deletionTimestamp" in (node.pod_of(train) or {}).get("metadata", {})
    )
    node.end_pod(first, ExitCode.PREEMPTED)
    node.remove(first)
    runs.until("full", message="waits for Kueue to admit it (gpus)", stage="Training")
    held = node.get("jobs", "full-train-1")
    assert held is not None
    assert held["metadata"]["uid"] == train["metadata"]["uid"]
    assert held["spec"]["suspend"] is True, "suspend is Kueue's"

    admit(node, "full-train-1", True)
    node.complete("full-train-1")
    status = runs.until("full", stage="Evaluating")
    trains = [attempt["reason"] for attempt in status["attempts"] if attempt["stage"] == "train"]
    assert trains[-1] == "Completed"
    assert "Crashed" not in trains
    assert status.get("restarts", 0) == 0
