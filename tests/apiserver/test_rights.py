"""The operator's Role against what it asked for in all the tests before: nothing was denied, nothing is left over.

It needs those tests: alone it has nothing to look at.
"""

from __future__ import annotations

import pytest
from cluster import Cluster
from real_api import RealApi
from tests.e2e import audit

pytestmark = pytest.mark.faults
OPERATOR = "azaion-operator"
#: Granted and never used by itself: nobody can grant a pod what they may not do themselves.
FOR_OTHERS = {("", "configmaps", "patch")}
#: Needed and not seen here. Where a create finds something there already, it is looked at; that is rare. Lines make
#: runs in tests/e2e/test_model_loop.py. An apply that makes a Deployment needs `create` and is written down as `patch`.
NOT_SEEN = {
    ("azaion.com", "trainingruns", "get"),
    ("azaion.com", "modellines", "get"),
    ("batch", "jobs", "get"),
    ("azaion.com", "trainingruns", "create"),
    ("apps", "deployments", "create"),
}
#: Namespaces of the tests that the comparison needs, each with an operator at work.
NEEDED = {"operator-runs", "operator-ingests"}


@pytest.fixture(scope="module")
def requests(api: RealApi, control_plane: Cluster) -> list[audit.Request]:
    found = [r for r in audit.read(control_plane.layout.audit_log) if r.account == OPERATOR]
    missing = NEEDED - {r.namespace for r in found}
    if missing:
        pytest.skip(f"needs the tests of {', '.join(sorted(missing))} in the same session (make apiserver)")
    return found


@pytest.fixture(scope="module")
def granted(api: RealApi) -> set[tuple[str, str, str]]:
    roles = [found for found in api.rendered("templates/operator-rights.yaml", "azaion") if found["kind"] == "Role"]
    return {right for role in roles for right in audit.granted(role)}


def test_the_operator_was_denied_nothing(requests: list[audit.Request]) -> None:
    denied = {(*r.right, r.name) for r in requests if r.code == 403}
    assert denied == set()


def test_the_operator_uses_every_right_it_has(
    requests: list[audit.Request], granted: set[tuple[str, str, str]]
) -> None:
    unused = granted - {r.right for r in requests} - FOR_OTHERS - NOT_SEEN
    assert unused == set(), "take them out of charts/azaion/templates/operator-rights.yaml"


def test_the_operator_asks_for_nothing_outside_of_its_namespace(requests: list[audit.Request]) -> None:
    elsewhere = {(r.resource, r.verb) for r in requests if r.about_namespace not in (r.namespace, "")}
    assert elsewhere == set()


def test_the_operator_never_touches_a_secret(requests: list[audit.Request], granted: set[tuple[str, str, str]]) -> None:
    assert not any(resource.startswith("secrets") for _, resource, _ in granted)
    assert not any(r.resource.startswith("secrets") for r in requests)
