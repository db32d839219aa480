"""The chart on a real API server: upgraded from the release before, gone back and removed, by both helms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
for _directory in ("tests/charttools", "tests/unit/chart", "tests/release"):
    sys.path.insert(0, str(ROOT / _directory))

import charttools  # noqa: E402
import previous  # noqa: E402
from cluster import Cluster, UpOptions, is_ours  # noqa: E402
from matrix import MATRIX  # noqa: E402
from rendered_chart import find_helm  # noqa: E402

CHART = ROOT / "charts" / "azaion"
NAMESPACE = "azaion"
KINDS = ("trainingruns", "annotationingests", "modellines")
HELMS = ("helm-3", "helm-4")


@dataclass(frozen=True)
class Place:
    """A control plane of its own: definitions belong to no namespace."""

    environment: dict[str, str]

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(
            list(command),
            input=text,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command[:6])}: {done.stderr or done.stdout}"
        return done.stdout

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return self.run("kubectl", "-n", NAMESPACE, *arguments, text=text)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def names(self, kind: str) -> set[str]:
        return {word.partition("/")[2] for word in self.kubectl("get", kind, "-o", "name").split()}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    cluster = Cluster(f"chart-tests-{os.getpid()}")
    try:
        cluster.up(UpOptions(control_plane_only=True))
        assert is_ours(cluster.kubeconfig)
        found = Place(cluster.environment())
        found.run("kubectl", "create", "namespace", NAMESPACE)
        yield found
    finally:
        cluster.down()


@pytest.fixture(params=HELMS)
def helm(request: pytest.FixtureRequest) -> str:
    if request.param == "helm-4":
        return str(find_helm())
    programs = charttools.built()
    if programs is None:
        pytest.fail("helm 3 is not built: run `make charttools-build`", pytrace=False)
    return str(programs / "helm-3")


@pytest.fixture
def clean(place: Place) -> Iterator[Place]:
    """Whatever a test installs is gone afterwards."""
    yield place
    for kind in KINDS:
        definition = f"{kind}.azaion.com"
        if place.run("kubectl", "get", "crd", definition, "--ignore-not-found").strip():
            place.run("kubectl", "delete", "crd", definition, "--wait")
    for kind in ("secrets", "configmaps", "deployments", "services", "serviceaccounts", "roles", "rolebindings"):
        place.kubectl("delete", kind, "-l", "app.kubernetes.io/part-of=azaion", "--wait=false")
    place.kubectl("delete", "secrets", "-l", "owner=helm", "--wait=false")
    place.kubectl("delete", "networkpolicies,daemonsets,cronjobs", "--all", "--wait=false")
    place.kubectl("delete", "pvc", "--all", "--timeout=60s")
    for kind in ("priorityclasses", "clusterroles", "clusterrolebindings"):
        place.run("kubectl", "delete", kind, "-l", "app.kubernetes.io/part-of=azaion")


def release_bytes(place: Place) -> int:
    """The largest Secret in which helm keeps a release, as the API server stores it."""
    secrets = json.loads(place.kubectl("get", "secrets", "-l", "owner=helm", "-o", "json"))["items"]
    assert secrets
    return max(sum(len(value) for value in secret["data"].values()) for secret in secrets)


def samples(directory: Path) -> list[dict[str, Any]]:
    """The resources of ours among a release's samples."""
    found = []
    for path in sorted((directory / "samples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and str(document.get("apiVersion", "")).startswith("azaion.com/"):
                document["metadata"]["namespace"] = NAMESPACE
                found.append(document)
    assert {document["kind"] for document in found} == {"TrainingRun", "AnnotationIngest", "ModelLine"}
    return found


def apply(place: Place, documents: list[dict[str, Any]]) -> None:
    place.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))


def specs(place: Place) -> dict[str, dict[str, Any]]:
    """spec and status of every resource of ours."""
    return {
        f"{kind}/{name}": {part: found.get(part) for part in ("spec", "status")}
        for kind in KINDS
        for name in place.names(kind)
        for found in [place.get(kind, name)]
    }


def contains(new: Any, old: Any) -> bool:
    """Whether everything of `old` is in `new`, unchanged; `new` may hold more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contains(new[key], value) for key, value in old.items())
    return bool(new == old)


@pytest.mark.parametrize("case", list(MATRIX))
def test_every_entry_of_the_matrix_is_taken(place: Place, case: str) -> None:
    values = json.dumps(MATRIX[case])
    helm = str(find_helm())
    arguments = ("-n", NAMESPACE, "--skip-tests", "--values", "-")
    rendered = yaml.safe_load_all(place.run(helm, "template", "azaion", str(CHART), *arguments, text=values))
    # Kinds of the Prometheus operator have definitions of their own, which are not there.
    ours = [m for m in rendered if m and not m["apiVersion"].startswith("monitoring.coreos.com/")]
    text = yaml.safe_dump_all(ours)
    said = place.kubectl("apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", "-", text=text)
    assert "serverside-applied (server dry run)" in said


def test_installed_upgraded_gone_back_and_removed_without_losing_a_field(
    clean: Place, helm: str, tmp_path: Path
) -> None:
    place, before = clean, previous.unpack(tmp_path / "previous")
    old, new = str(before / "charts" / "azaion"), str(CHART)
    place.run(helm, "install", "azaion", old, "-n", NAMESPACE)
    apply(place, samples(before))
    status = {"phase": "Running", "message": "trains", "completedEpochs": 3, "epochs": 120, "directory": "runs/full-1"}
    run = sorted(place.names("trainingruns"))[0]
    place.kubectl(
        "patch", "trainingrun", run, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    stored = specs(place)

    place.run(helm, "upgrade", "azaion", new, "-n", NAMESPACE, "--reset-then-reuse-values")
    upgraded = specs(place)
    assert upgraded.keys() == stored.keys()
    assert [name for name in stored if not contains(upgraded[name], stored[name])] == []
    # What was applied is applied again, and so are the samples of today.
    apply(place, samples(before))
    assert [name for name, was in stored.items() if not contains(specs(place)[name], was)] == []
    apply(place, [{**d, "metadata": {**d["metadata"], "name": f"new-{i}"}} for i, d in enumerate(samples(ROOT))])
    assert release_bytes(place) < 700 * 1024

    place.run(helm, "rollback", "azaion", "1", "-n", NAMESPACE)
    gone_back = specs(place)
    assert [name for name in stored if not contains(gone_back[name], stored[name])] == []
    assert place.get("deployment", "azaion-operator")["spec"]["template"]["spec"]["containers"][0]["image"].endswith(
        f":{previous.PREVIOUS.version}"
    )

    place.run(helm, "upgrade", "azaion", new, "-n", NAMESPACE, "--reset-then-reuse-values")
    said = place.run(helm, "uninstall", "azaion", "-n", NAMESPACE)
    assert "kept due to the resource policy" in said
    assert {f"{kind}.azaion.com" for kind in KINDS} <= {
        word.partition("/")[2] for word in place.run("kubectl", "get", "crd", "-o", "name").split()
    }
    assert place.names("pvc") == {"azaion"}
    assert [name for name in stored if not contains(specs(place)[name], stored[name])] == []
    assert place.names("deployments") == set()

    place.run(helm, "install", "azaion", new, "-n", NAMESPACE)
    assert [name for name in stored if not contains(specs(place)[name], stored[name])] == []


def test_a_release_of_every_switch_fits_into_its_secret(clean: Place, helm: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    on = json.dumps({**_switched_on(values), "networkPolicies": {"enabled": True, "scrapeFrom": ["monitoring"]}})
    clean.run(helm, "install", "azaion", str(CHART), "-n", NAMESPACE, "--values", "-", text=on)
    size = release_bytes(clean)
    assert size < 700 * 1024, f"{size / 1024:.0f} KiB"


#: Kinds of the Prometheus operator, whose definitions are not there.
_FOREIGN = {"monitors", "prometheusRule"}


def _switched_on(values: dict[str, Any]) -> dict[str, Any]:
    """Every `enabled` of the chart, on."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in _FOREIGN:
            inner = _switched_on(value)
            found.update({key: inner} if inner else {})
        elif key == "enabled":
            found[key] = True
    return found
