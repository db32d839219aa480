#!/usr/bin/env python3
"""What a cluster has and lacks for the platform, one line each, with what to do about it.

    cluster_check.py                       on a fresh test cluster, which is removed again
    cluster_check.py --cluster current     on the k3s or kind that kubectl's current context leads to

The last check runs a pod of its own, in a namespace that is removed again. Exits with 1 when something is missing that
every run needs.
"""

from __future__ import annotations

import argparse
import enum
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

if str(Path(__file__).resolve().parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.access import Access, CommandError, DemoError, Object, wait_for
from tests.demo.clusters import REPOSITORY, chart_version, confirm, fresh_cluster, load_command, missing_images
from tests.demo.terminal import Terminal

from azaion_api.layout import UID

#: Kubernetes versions, as minor numbers, that the chart is tested with.
OLDEST, NEWEST = 30, 37
MEMORY_BYTES = 8 * 1024**3
CORES = 2
PROBE_NAMESPACE = "azaion-check"
PROBE_TIMEOUT_S = 120.0

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

#: What the parts do on the volume and in the network, as the user they run as.
_PROBE = """
import os, socket
from pathlib import Path
top = Path("/volume")
first, second, third = top / "a", top / "b", top / "c"
with first.open("w") as file:
    file.write("written")
    file.flush()
    os.fsync(file.fileno())
os.link(first, second)
os.replace(second, third)
os.symlink("c", top / "link")
if (top / "link").read_text() != "written":
    raise SystemExit("what was written to the volume is not what is read back")
socket.getaddrinfo("kubernetes.default.svc", 443)
print("free bytes:", os.statvfs(top).f_bavail * os.statvfs(top).f_frsize)
"""


class Level(enum.StrEnum):
    """GOOD; LACK stops some runs or wants attention; MISSING stops every run."""

    GOOD = "ok"
    LACK = "note"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One line."""

    level: Level
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:8} {self.text}" + (f"\n         -> {self.advice}" if self.advice else "")


def version_finding(server: Object) -> Finding:
    """Whether the chart is tested with this API server; `server` is /version."""
    minor = int(re.match(r"\d+", server["minor"])[0])  # type: ignore[index]
    text = f"Kubernetes {server['gitVersion']}"
    if minor < OLDEST:
        return Finding(Level.MISSING, text, f"the chart needs 1.{OLDEST} or newer: upgrade the cluster")
    if minor > NEWEST:
        return Finding(Level.LACK, text, f"newer than 1.{NEWEST}, the newest that was tested")
    return Finding(Level.GOOD, text)


def node_findings(nodes: Sequence[Object]) -> Iterator[Finding]:
    """Readiness, size, disk and GPU of the nodes."""
    ready = [node for node in nodes if _condition(node, "Ready") == "True"]
    if not ready:
        yield Finding(Level.MISSING, f"{len(nodes)} nodes, none Ready", "kubectl describe nodes says why")
        return
    for node in ready:
        name, has = node["metadata"]["name"], node["status"]["allocatable"]
        cores, memory = quantity(has["cpu"]), quantity(has["memory"])
        text = f"node {name}: {cores:.1f} cores, {memory / 2**30:.0f} GiB of memory"
        if cores < CORES or memory < MEMORY_BYTES:
            yield Finding(
                Level.LACK, text, f"{CORES} cores and {MEMORY_BYTES // 2**30} GiB are what the demo is made for"
            )
        else:
            yield Finding(Level.GOOD, text)
        if (machine := node["status"]["nodeInfo"]["architecture"]) != "amd64":
            yield Finding(Level.LACK, f"node {name} is {machine}", "images have to be built on such a machine")
        if _condition(node, "DiskPressure") == "True":
            yield Finding(Level.MISSING, f"node {name} is short of disk", "free some: pods are being evicted")
    gpus = sum(quantity(node["status"]["allocatable"].get("nvidia.com/gpu", "0")) for node in ready)
    if gpus:
        yield Finding(Level.GOOD, f"{gpus:.0f} nvidia.com/gpu")
    else:
        advice = "runs with device GPU will wait: install NVIDIA's device plugin (docs/install-k3s.md)"
        yield Finding(Level.LACK, "no nvidia.com/gpu", advice)


def storage_finding(classes: Sequence[Object]) -> Finding:
    """Whether a claim without a class is served."""
    mark = "storageclass.kubernetes.io/is-default-class"
    default = [c for c in classes if (c["metadata"].get("annotations") or {}).get(mark) == "true"]
    if default:
        return Finding(
            Level.GOOD, f"default storage class {default[0]['metadata']['name']} ({default[0]['provisioner']})"
        )
    advice = "set storage.storageClassName, storage.existingClaim or storage.hostPath when installing"
    return Finding(Level.LACK, "no default storage class", advice)


def runtime_finding(classes: Sequence[Object]) -> Finding:
    """Whether GPU pods have a RuntimeClass to ask for."""
    if any(c["metadata"]["name"] == "nvidia" for c in classes):
        return Finding(Level.GOOD, "RuntimeClass nvidia: install with --set trainer.runtimeClassName=nvidia")
    advice = (
        "where nvidia is the node's default runtime that is fine; k3s makes it when it finds the toolkit at its start"
    )
    return Finding(Level.LACK, "no RuntimeClass nvidia", advice)


def image_finding(nodes: Sequence[Object]) -> Finding:
    """Whether our images are on the node."""
    missing = missing_images(list(nodes), chart_version())
    if not missing:
        return Finding(Level.GOOD, f"the images of version {chart_version()} are on the node")
    command = load_command(nodes[0])
    how = "docs/install-k3s.md, step 4" if command is None else "make images, then " + " ".join(command)
    return Finding(Level.LACK, f"not on the node: {', '.join(missing)}", how)


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity as a number: `1500m` is 1.5, `8Gi` is 8589934592."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    if found is None:
        raise DemoError(f"{text!r} is no quantity")
    number, unit = Decimal(found[1]), found[2]
    if unit == "m":
        return number / 1000
    return number * _UNITS[unit] if unit else number


def probe(access: Access) -> Finding:
    """Run a pod as the platform's pods run: restricted, on a claim of the default class, with the operator's image."""
    inside = Access(PROBE_NAMESPACE, access.environment)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    inside.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROBE_NAMESPACE, "labels": labels}})
    try:
        inside.apply(*_probe_objects())

        def ended() -> Object | None:
            pod = inside.get("pod", "probe")
            return pod if pod["status"].get("phase") in ("Succeeded", "Failed") else None

        pod = wait_for("a pod of the operator's image, on a claim of its own, ends", ended, PROBE_TIMEOUT_S)
        said = inside.kubectl("logs", "probe").strip()
    except DemoError as error:
        events = inside.kubectl("get", "events", "--sort-by=.lastTimestamp", "-o", "custom-columns=:.message")
        return Finding(Level.MISSING, f"{error}", " | ".join(events.strip().splitlines()[-3:]))
    finally:
        inside.kubectl("delete", "namespace", PROBE_NAMESPACE, "--wait=false")
    if pod["status"]["phase"] == "Failed":
        return Finding(Level.MISSING, "the pod failed on its volume or the cluster's DNS", said.splitlines()[-1])
    free = int(said.rpartition(":")[2])
    return Finding(Level.GOOD, f"a restricted pod wrote, linked and renamed on a new volume ({free / 1e9:.0f} GB free)")


def _probe_objects() -> tuple[Object, Object]:
    metadata = {"name": "probe", "namespace": PROBE_NAMESPACE}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    }
    container = {
        "name": "probe",
        "image": f"{REPOSITORY}/operator:{chart_version()}",
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/azaion/bin/python", "-c", _PROBE],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": UID,
                "runAsGroup": UID,
                "fsGroup": UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": "probe"}}],
        },
    }
    return claim, pod


def _condition(node: Object, type_: str) -> str:
    return next((str(c["status"]) for c in node["status"].get("conditions", []) if c["type"] == type_), "Unknown")


def findings(access: Access, images_wanted: bool) -> Iterator[Finding]:
    """Every check, in order. Raises CommandError when the API server cannot be asked at all."""
    yield version_finding(json.loads(access.kubectl("get", "--raw", "/version")))
    nodes = access.items("nodes")
    yield from node_findings(nodes)
    yield storage_finding(access.items("storageclasses"))
    yield runtime_finding(access.items("runtimeclasses"))
    if images_wanted:
        yield image_finding(nodes)
    for verb, resource in (
        ("create", "namespaces"),
        ("create", "customresourcedefinitions"),
        ("create", "clusterroles"),
    ):
        try:
            access.kubectl("auth", "can-i", verb, resource, "--all-namespaces")
        except CommandError:
            yield Finding(
                Level.MISSING, f"you may not {verb} {resource}", "installing the chart needs an administrator"
            )
    yield probe(access)


def check(access: Access, terminal: Terminal, images_wanted: bool = True) -> int:
    """Print every finding; 1 when something every run needs is missing."""
    found = []
    for finding in findings(access, images_wanted):
        terminal.line(str(finding), indent=0)
        found.append(finding)
    missing = sum(finding.level is Level.MISSING for finding in found)
    terminal.line(f"{missing} missing" if missing else "this cluster can run the platform", indent=0)
    return 1 if missing else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", choices=("test", "current"), default="test", help="where to look (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="do not ask before the pod is run on the current cluster")
    options = parser.parse_args(arguments)
    terminal = Terminal(0)
    try:
        if options.cluster == "current":
            access = Access("default")
            context = access.kubectl("config", "current-context").strip()
            confirm(f"Run a pod in a namespace {PROBE_NAMESPACE} of {context} and remove it again?", options.yes)
            return check(access, terminal)
        with fresh_cluster("check", terminal, images=("operator",)) as access:
            # Only the pod's own image was brought here.
            return check(access, terminal, images_wanted=False)
    except DemoError as error:
        terminal.line(f"cluster-check: {error}", indent=0)
        return 1


if __name__ == "__main__":
    sys.exit(main())
