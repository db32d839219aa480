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

pytestmark = [pytest.mark.timeout(300), pytest.mark.faults]

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
    yield found
    api.output("delete", "mutatingadmissionpolicybindings,mutatingadmissionpolicies", POLICY)


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
    assert "forbidden" not in found.log, found.log


def admit(node: Node, job: str, admitted: bool) -> None:
    """As Kueue admits a workload, or takes its place away."""
    node.patch("jobs", job, {"spec": {"suspend": not admitted}})


def test_a_queued_run_waits_for_admission_gives_its_place_back_and_goes_on_in_the_same_job(
    operator: Operator, node: Node, namespace: Namespace
) -> None:
    runs = Runs(namespace)
    node.report_storage()
    runs.create("full", queueName="gpus")

    # Admission is the queue's, whatever the operator would like.
    prepare = eventually(
        "the first Job is made suspended",
        lambda: (job := node.get("jobs", "full-prepare-1")) and job["spec"].get("suspend") and job,
    )
    assert prepare["metadata"]["labels"][LABEL] == "gpus"
    runs.until("full", message="waits for Kueue to admit it (gpus)")
    assert node.pod_of(prepare) is None
    admit(node, "full-prepare-1", True)
    node.complete("full-prepare-1")

    runs.until("full", message="waits for Kueue to admit it (gpus)", stage="Training")
    train = node.job("full-train-1")
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
