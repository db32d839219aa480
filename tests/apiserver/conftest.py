"""One control plane for all tests of this directory: real kube-apiserver, no node, thrown away at the end."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent
_CRDS = _HERE.parents[1] / "crds"
for _directory in (_HERE, _HERE.parent / "cluster"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

from cluster import Cluster, ClusterError, UpOptions, is_ours, list_clusters  # noqa: E402
from real_api import Namespace, RealApi  # noqa: E402

_PREFIX = "apiserver-tests-"
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.apiserver)


def _remove_leftovers() -> None:
    """Clusters of test runs that were killed before they could end theirs."""
    for cluster in list_clusters():
        process = cluster.name.removeprefix(_PREFIX)
        if cluster.name.startswith(_PREFIX) and process.isdigit() and not Path(f"/proc/{process}").exists():
            cluster.down()


@pytest.fixture(scope="session")
def control_plane() -> Cluster:
    """The cluster of this session, which writes down every request; `bare_api` starts and ends it."""
    return Cluster(f"{_PREFIX}{os.getpid()}")


@pytest.fixture(scope="session")
def bare_api(control_plane: Cluster) -> Iterator[RealApi]:
    """The API server as it starts: none of our CRDs yet, unless another test installed them."""
    _remove_leftovers()
    cluster = control_plane
    try:
        cluster.up(UpOptions(control_plane_only=True, audit=True))
    except ClusterError as error:
        pytest.fail(f"no API server to test against: {error}", pytrace=False)
    try:
        if not is_ours(cluster.kubeconfig):
            pytest.fail(f"{cluster.kubeconfig} leads to a cluster these tests did not make", pytrace=False)
        yield RealApi(cluster.environment())
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def api(bare_api: RealApi) -> RealApi:
    """The API server with the CRDs of this repository."""
    bare_api.output("apply", "--server-side", "-f", str(_CRDS))
    bare_api.output("wait", "--for=condition=Established", "--timeout=30s", "-f", str(_CRDS))
    return bare_api


def _new_namespace(api: RealApi, name: str) -> Namespace:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert api.request("POST", "/api/v1/namespaces", body).status == 201
    return Namespace(api, name)


@pytest.fixture(scope="session")
def dry_run(api: RealApi) -> Namespace:
    """A namespace for what is refused, or asked for without being stored."""
    return _new_namespace(api, "dry-run")


@pytest.fixture
def namespace(api: RealApi) -> Namespace:
    """A new namespace."""
    return _new_namespace(api, f"test-{next(_numbers)}")
