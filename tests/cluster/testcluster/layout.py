"""Names, addresses and directories of a test cluster, and the record it keeps of itself."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent

# Every cluster has network namespaces of its own, so all of them use the same addresses: k3s's ranges.
NODE_PREFIX = 24
NODE_INTERFACE = "node0"
CLUSTER_CIDR = "10.42.0.0/16"
SERVICE_CIDR = "10.43.0.0/16"
API_SERVICE_ADDRESS = "10.43.0.1"
DNS_SERVICE_ADDRESS = "10.43.0.10"
CLUSTER_DOMAIN = "cluster.local"

PAUSE_IMAGE = "localhost/azaion-test/pause:1"
BUSYBOX_IMAGE = "localhost/azaion-test/busybox:1"

MARKER_NAME = "azaion-test-cluster"
MARKER_NAMESPACE = "kube-system"

DEFAULT_NAME = "default"
# At most 30 characters: the name becomes part of a control socket's path, of a context and of cgroup names.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")

# What the addresses of nodes and the subnets of their pods have room for.
MOST_NODES = 250


class ClusterError(Exception):
    """Something about the test cluster failed; the text says what, where, and what to do."""


@dataclass(frozen=True, order=True)
class Node:
    """A node of a cluster by its number, from 1. The first one runs the control plane as well."""

    number: int

    @property
    def first(self) -> bool:
        return self.number == 1

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return f"10.44.0.{self.number}"

    @property
    def pod_cidr(self) -> str:
        """Where its pods have their addresses."""
        return f"10.42.{self.number - 1}.0/24"


FIRST_NODE = Node(1)


def cache_directory() -> Path:
    """Where built binaries are kept: AZAION_CACHE, else ~/.cache/azaion-training."""
    return Path(os.environ.get("AZAION_CACHE") or Path.home() / ".cache" / "azaion-training").absolute()


def state_directory() -> Path:
    """Where clusters keep their state: AZAION_STATE, else /var/lib/azaion-training."""
    return Path(os.environ.get("AZAION_STATE") or "/var/lib/azaion-training").absolute()


def clusters_directory() -> Path:
    """The directory that has one subdirectory per cluster."""
    return state_directory() / "clusters"


@dataclass(frozen=True)
class Layout:
    """Where a cluster keeps what, and one of its nodes, the first unless `on` another.

    `directory` is the state of this start, `data` what a later start finds again.
    """

    name: str
    directory: Path
    data: Path
    node: Node = FIRST_NODE

    def on(self, node: Node) -> Layout:
        """The same cluster as seen from that node."""
        return replace(self, node=node)

    # The cluster's

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def record(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def audit_log(self) -> Path:
        return self.on(FIRST_NODE).logs / "audit.log"

    @property
    def tool_cache(self) -> Path:
        """kubectl's discovery cache: kept per cluster, or a new cluster on an old port would answer from it."""
        return self.directory / "tool-cache"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

    @property
    def data_marker(self) -> Path:
        return self.data / "azaion-test-cluster.json"

    @property
    def context(self) -> str:
        return f"azaion-test-{self.name}"

    @property
    def shared(self) -> Path:
        """A directory that every node has at the same place, as machines have one of a file server."""
        return self.data / "shared"

    # The node's; the first one's lies where that of a cluster with a single node does

    def _of_node(self, directory: Path) -> Path:
        return directory if self.node.first else directory / "nodes" / self.node.name

    @property
    def node_directory(self) -> Path:
        return self._of_node(self.directory)

    @property
    def node_data(self) -> Path:
        return self._of_node(self.data)

    @property
    def node_pki(self) -> Path:
        """Where the kubelet's certificates are."""
        return self._of_node(self.pki)

    @property
    def process(self) -> Path:
        """The id and start time of the node's first process, written by itself."""
        return self.node_directory / "process.json"

    @property
    def control_socket(self) -> Path:
        return self.node_directory / "control.sock"

    @property
    def logs(self) -> Path:
        return self.node_directory / "logs"

    @property
    def gpu_log(self) -> Path:
        return self.logs / "gpu-events.jsonl"

    @property
    def config(self) -> Path:
        return self.node_directory / "config"

    @property
    def cgroup(self) -> str:
        """The cgroup, below every controller's root, that holds the node's pods; the first one's holds the others'."""
        cluster = f"azaion-test-{self.name}"
        return cluster if self.node.first else f"{cluster}/{self.node.name}"


@dataclass(frozen=True)
class Record:
    """What `up` wrote down about a cluster. `marker` is the random id by which destructive tests know it as ours."""

    name: str
    data: str
    data_is_external: bool
    port: int
    marker: str
    control_plane_only: bool
    audit: bool
    binaries: str
    nodes: int = 1

    def write(self, path: Path) -> None:
        fields = asdict(self)
        if self.nodes == 1:
            # As before there were several: the sources of an earlier release load their images by this file.
            del fields["nodes"]
        _replace(path, json.dumps(fields, indent=2) + "\n")

    @staticmethod
    def read(path: Path) -> Record | None:
        """The record in the file, or None when there is none. Raises ClusterError when it cannot be understood."""
        try:
            return Record(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ClusterError(
                f"{path} is not a record this version can read ({error}); remove the cluster with "
                f"`cluster.py down --name {path.parent.name}`"
            ) from error


def check_name(name: str) -> str:
    """The name, when a cluster may have it. Raises ClusterError."""
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"{name!r} cannot name a cluster: use at most 30 lower-case letters, digits and inner dashes"
        )
    return name


def layout_of(name: str, data: Path | None = None) -> Layout:
    """The layout of the named cluster; without `data` the data lies within the cluster's own directory."""
    directory = clusters_directory() / check_name(name)
    return Layout(name=name, directory=directory, data=data.absolute() if data else directory / "data")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process told apart from a later one with the same id by when it started, in clock ticks since boot."""

    pid: int
    start_ticks: int

    def write(self, path: Path) -> None:
        _replace(path, json.dumps(asdict(self)) + "\n")

    @staticmethod
    def read(path: Path) -> ProcessIdentity | None:
        """The identity in the file, or None when there is none or the file was torn by a power cut."""
        try:
            return ProcessIdentity(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def alive(self) -> bool:
        try:
            fields = stat_fields(Path(f"/proc/{self.pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(fields[_START_TIME]) == self.start_ticks and fields[_STATE] not in "ZX"


# Positions within stat_fields(), which begins at proc(5)'s third field.
_STATE = 0
_PARENT = 1
_START_TIME = 19


def stat_fields(stat: str) -> list[str]:
    """The fields of a /proc/PID/stat after the command's name, which may itself hold spaces and brackets."""
    return stat.rpartition(")")[2].split()


def start_ticks(stat: str) -> int:
    """When the process of a /proc/PID/stat started, in clock ticks since boot."""
    return int(stat_fields(stat)[_START_TIME])


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One at a time. The lock is on the directory itself, so nothing is left behind and it goes with it."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
