"""Least privilege of everything that runs, by what the API server wrote down of a session."""

from __future__ import annotations

import json

import pytest
from cluster import Cluster
from tests.demo.access import Object
from tests.demo.clusters import NAMESPACE
from tests.e2e import audit
from tests.e2e.platform import Platform, condition
from tests.e2e.story import INGEST, RUN, Story

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

OPERATOR = "azaion-operator"


@pytest.fixture(scope="module")
def requests(platform: Platform, story: Story) -> list[audit.Request]:
    """Of everything in the namespace, in all tests so far."""
    return [r for r in audit.read(Cluster(platform.place.name).layout.audit_log) if r.namespace == NAMESPACE]


def test_nobody_was_denied_anything(platform: Platform, requests: list[audit.Request]) -> None:
    # A pod that outlives its deleted run for a moment has lost its rights with it.
    there = {account["metadata"]["name"] for account in platform.access.items("serviceaccounts")}
    denied = {(r.account, *r.right, r.name) for r in requests if r.code == 403 and r.account in there}
    assert denied == set()


def test_the_operator_has_no_right_outside_of_its_namespace_and_none_on_secrets(platform: Platform) -> None:
    bindings = platform.access.items("clusterrolebindings")
    subjects = {s["name"] for b in bindings for s in b.get("subjects", []) if s.get("namespace") == NAMESPACE}
    assert OPERATOR not in subjects
    rights = audit.granted(platform.access.get("role", OPERATOR))
    assert not any(resource.startswith("secrets") for _, resource, _ in rights)


@pytest.mark.parametrize(
    ("account", "report"),
    [
        (f"{RUN}-run", f"{RUN}-run-report"),
        (f"{INGEST}-ingest", f"{INGEST}-ingest-report"),
        ("azaion-storage", "azaion-storage-report"),
    ],
)
def test_a_pods_token_reaches_its_own_report_and_nothing_else(
    platform: Platform, story: Story, requests: list[audit.Request], account: str, report: str
) -> None:
    rules = [rule for rule in rules_of(platform, account) if set(rule["apiGroups"]) <= {"", "azaion.com", "batch"}]
    assert [(r["resources"], r["resourceNames"], sorted(r["verbs"])) for r in rules] == [
        (["configmaps"], [report], ["get", "patch"])
    ]
    mine = [r for r in requests if r.account == account]
    assert mine, "its pods did not report"
    assert {(r.resource, r.name, r.verb) for r in mine} <= {
        ("configmaps", report, "get"),
        ("configmaps", report, "patch"),
    }


def rules_of(platform: Platform, account: str) -> list[Object]:
    """What the API server lets the account do in the namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": NAMESPACE},
    }
    user = f"system:serviceaccount:{NAMESPACE}:{account}"
    group = f"--as-group=system:serviceaccounts:{NAMESPACE}"
    said = platform.access.kubectl(
        "create", "--validate=false", "-f", "-", "-o", "json",
        f"--as={user}", group, "--as-group=system:authenticated",
        text=json.dumps(review),
    )  # fmt: skip
    found: list[Object] = json.loads(said)["status"]["resourceRules"]
    return [rule for rule in found if "selfsubjectrulesreviews" not in rule["resources"]]


def test_pods_that_are_not_restricted_are_refused_where_ours_run(platform: Platform, story: Story) -> None:
    labels = platform.access.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert condition(platform.access.status("trainingrun", RUN), "Succeeded")["status"] == "True"
