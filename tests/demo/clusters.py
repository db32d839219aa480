"""Where the demo runs: on a test cluster of its own, or on the k3s or kind that kubectl's current context leads to."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tests.demo.access import (
    ROOT,
    Access,
    CommandError,
    DemoError,
    Object,
    environment_of,
    output_of,
    stream_output,
)
from tests.demo.terminal import Terminal

from azaion_api.names import GROUP, PLURALS

NAMESPACE = "azaion"
RELEASE = "azaion"
#: On the namespace the demo made: nothing without it is touched.
DEMO_LABEL = "azaion.com/demo"
REPOSITORY = "docker.io/azaion"
#: Lines of an image build that matter only when it fails; then the last of them are shown.
CHATTER = re.compile(
    r"(\[\d+/\d+] )?(STEP |COMMIT |--> |Successfully |#\d+ |Getting |Copying |Writing )|[0-9a-f]{11,}$"
)
IMAGES = ("operator", "consumer", "trainer", "broker")


class Place(Protocol):
    """A cluster to run on."""

    def start(self, terminal: Terminal) -> Access:
        """Ready to be installed on. Raises DemoError."""

    def bring_images(self, access: Access, terminal: Terminal) -> None:
        """Every image of ours on the node. Raises DemoError."""

    def values(self) -> Object:
        """What the chart has to be told here."""

    def remove(self, terminal: Terminal) -> None:
        """Remove what the demo made, and nothing else. Raises DemoError."""

    def hints(self) -> list[str]:
        """Commands that get a person there."""


@dataclass(frozen=True)
class TestCluster:
    """A cluster of the demo's own, from the programs in tests/cluster."""

    #: Not a test class, whatever pytest makes of its name.
    __test__: ClassVar[bool] = False

    name: str
    keep: bool
    #: Whether the API server writes down every request.
    audit: bool = False
    nodes: int = 1

    def start(self, terminal: Terminal) -> Access:
        _stream(terminal, "tests/cluster/cluster.py", "build")
        if self._states() and not self.keep:
            terminal.line(f"the cluster {self.name} of earlier is replaced (--keep goes on with it)")
            _stream(terminal, "tests/cluster/cluster.py", "down", "--name", self.name)
        if "up" not in self._states():
            flags = ["--nodes", str(self.nodes), *(["--audit"] if self.audit else [])]
            _stream(terminal, "tests/cluster/cluster.py", "up", "--name", self.name, *flags)
        return Access(NAMESPACE, environment_of(self.name))

    def bring_images(self, access: Access, terminal: Terminal) -> None:
        _stream(terminal, "tests/cluster/images.py", "build")
        _stream(terminal, "tests/cluster/images.py", "load", "--name", self.name)

    def values(self) -> Object:
        """kube-state-metrics is built here as well: there is no registry to get it from."""
        image = {"registry": "docker.io", "repository": "azaion/kube-state-metrics", "tag": chart_version()}
        return {"kubeStateMetrics": {"image": image}}

    def remove(self, terminal: Terminal) -> None:
        _stream(terminal, "tests/cluster/cluster.py", "down", "--name", self.name)

    def hints(self) -> list[str]:
        return [f"make cluster-shell NAME={self.name}"]

    def _states(self) -> list[str]:
        """Empty when there is no such cluster; `down` is one that was killed and left its data."""
        known = output_of([sys.executable, "tests/cluster/cluster.py", "list"], {}).decode()
        return [line.split()[1] for line in known.splitlines() if line.split()[:1] == [self.name]]


@dataclass(frozen=True)
class CurrentCluster:
    """Somebody's own cluster: asked before anything is changed, and only what the demo made is removed."""

    yes: bool

    def start(self, terminal: Terminal) -> Access:
        access = Access(NAMESPACE)
        context = access.kubectl("config", "current-context").strip()
        namespace = access.find("namespace", NAMESPACE)
        if namespace is not None and not _made_by_demo(namespace):
            raise DemoError(
                f"the namespace {NAMESPACE} of {context} is in use, and the demo's annotations would be mixed with "
                "those there; use another cluster, or the demo's own (make demo)",
                [f"kubectl -n {NAMESPACE} get azaion", f"helm -n {NAMESPACE} list"],
            )
        terminal.line(access.kubectl("get", "nodes", "-o", "wide"))
        confirm(
            f"Install into the namespace {NAMESPACE} of {context} (the chart with its CRDs, a RabbitMQ) "
            "and train on its CPU?",
            self.yes,
        )
        return access

    def bring_images(self, access: Access, terminal: Terminal) -> None:
        nodes = access.items("nodes")
        missing = missing_images(nodes, chart_version())
        if not missing:
            terminal.line(f"all of {', '.join(IMAGES)} are there")
            return
        terminal.line(f"not on the node: {', '.join(missing)}")
        names = [reference.rpartition("/")[2].partition(":")[0] for reference in missing]
        build = [sys.executable, "tests/cluster/images.py", "build", *names]
        load = load_command(nodes[0])
        if load is None:
            raise DemoError(
                f"the node {nodes[0]['metadata']['name']} is neither k3s nor kind: bring the images there by hand",
                [shlex.join(["python3", *build[1:]]), "python3 tests/cluster/images.py save build/images"],
            )
        load += names
        for command in (build, load):
            terminal.line("$ " + shlex.join(command))
        confirm("Run these two commands?", self.yes)
        for command in (build, load):
            _stream_command(terminal, command)

    def values(self) -> Object:
        return {}

    def remove(self, terminal: Terminal) -> None:
        access = Access(NAMESPACE)
        context = access.kubectl("config", "current-context").strip()
        namespace = access.find("namespace", NAMESPACE)
        if namespace is None:
            terminal.line(f"{context} has no namespace {NAMESPACE}: there is nothing to remove", indent=0)
            return
        if not _made_by_demo(namespace):
            raise DemoError(f"the namespace {NAMESPACE} of {context} was not made by the demo: it stays")
        confirm(f"Delete the namespace {NAMESPACE} of {context} with its annotations, runs and models?", self.yes)
        claims = access.items("persistentvolumeclaims")
        with suppress(CommandError):  # the definitions may be gone already
            access.kubectl("delete", ",".join(PLURALS.values()), "--all", "--wait")
        with suppress(CommandError):  # the install may have failed
            access.helm("uninstall", RELEASE, "--wait")
        access.kubectl("delete", "namespace", NAMESPACE, "--wait")
        for claim in claims:
            if volume := claim["spec"].get("volumeName"):
                access.kubectl("delete", "persistentvolume", volume, "--ignore-not-found", "--wait=false")
        self._remove_definitions(access)
        terminal.line(f"{context} is as it was; the images stay on the node", indent=0)

    def hints(self) -> list[str]:
        return []

    @staticmethod
    def _remove_definitions(access: Access) -> None:
        """The CRDs, unless somebody else has resources of our kinds."""
        names = [f"{plural}.{GROUP}" for plural in PLURALS.values()]
        there = [name for name in names if access.find("customresourcedefinition", name) is not None]
        if there and not any(access.items(name, "--all-namespaces") for name in there):
            access.kubectl("delete", "customresourcedefinition", *there)


@contextmanager
def fresh_cluster(name: str, terminal: Terminal, images: Sequence[str]) -> Iterator[Access]:
    """A fresh test cluster with these images, removed at the end."""
    cluster = TestCluster(name, keep=False)
    try:
        access = cluster.start(terminal)
        _stream(terminal, "tests/cluster/images.py", "build", *images)
        _stream(terminal, "tests/cluster/images.py", "load", "--name", name, *images)
        yield access
    finally:
        cluster.remove(terminal)


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal; DemoError when the answer is not yes or there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise DemoError(f"{question} Nobody can be asked here; --yes goes on without asking")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise DemoError("stopped before anything was done")


def chart_version() -> str:
    """The chart's appVersion, which tags the images."""
    found = re.search(r"^appVersion: *[\"']?([^\s\"']+)", (ROOT / "charts/azaion/Chart.yaml").read_text(), re.MULTILINE)
    if found is None:
        raise DemoError("charts/azaion/Chart.yaml has no appVersion")
    return found[1]


def missing_images(nodes: list[Object], version: str) -> list[str]:
    """References of ours that no node lists."""
    there = {name for node in nodes for image in node["status"].get("images", []) for name in image.get("names", [])}
    wanted = [f"{REPOSITORY}/{name}:{version}" for name in IMAGES]
    return [reference for reference in wanted if reference not in there]


def load_command(node: Object) -> list[str] | None:
    """How images get onto that node from this machine; None when it is neither k3s nor kind."""
    load = [sys.executable, "tests/cluster/images.py", "load"]
    provider = node["spec"].get("providerID", "")
    if provider.startswith("kind://"):
        # kind://docker/CLUSTER/NODE
        return [*load, "--kind", provider.split("/")[3]]
    if "+k3s" in node["status"]["nodeInfo"]["kubeletVersion"]:
        return [*([] if os.geteuid() == 0 else ["sudo"]), *load, "--k3s"]
    return None


def _made_by_demo(namespace: Object) -> bool:
    return DEMO_LABEL in (namespace["metadata"].get("labels") or {})


def _stream(terminal: Terminal, *arguments: str) -> None:
    """Run one of the repository's programs, its lines below the step."""
    _stream_command(terminal, [sys.executable, *arguments])


def _stream_command(terminal: Terminal, command: Sequence[str]) -> None:
    def show(line: str) -> None:
        if CHATTER.match(line):
            terminal.passing(line)
        else:
            terminal.line(f"| {line}")

    stream_output(command, {}, show)
