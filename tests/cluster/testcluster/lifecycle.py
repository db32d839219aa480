"""Starting, entering, breaking and removing a cluster."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from testcluster import binaries, components, objects, pki
from testcluster.layout import (
    DEFAULT_NAME,
    FIRST_NODE,
    MARKER_NAME,
    MARKER_NAMESPACE,
    MOST_NODES,
    SOURCE,
    ClusterError,
    Layout,
    Node,
    ProcessIdentity,
    Record,
    check_name,
    clusters_directory,
    layout_of,
    locked,
    state_directory,
)
from testcluster.supervisor import cgroup_directories

_READY_TIMEOUT_S = 180.0
_DOWN_TIMEOUT_S = 60.0
_PORT_TIMEOUT_S = 3.0
_PIN_LABEL = "io.cri-containerd.pinned=pinned"


def _wait(what: str, ready: Callable[[], bool], timeout_s: float, hint: str, interval_s: float = 0.05) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline_s:
            raise ClusterError(f"{what} did not happen within {timeout_s:.0f} s; {hint}")
        time.sleep(interval_s)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listener(preferred_port: int) -> socket.socket:
    """A listening socket in the machine's network, at the port of the last start unless somebody else has it now."""
    # The last start's processes may still be closing theirs.
    deadline_s = time.monotonic() + _PORT_TIMEOUT_S
    while True:
        port = preferred_port if time.monotonic() < deadline_s else 0
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if port == 0:
                raise ClusterError(f"no port of 127.0.0.1 can be listened on: {error}") from error
            time.sleep(0.05)
        else:
            return listener


@dataclass(frozen=True)
class UpOptions:
    """How a cluster is started. `data` keeps its objects and volumes elsewhere than with the rest of its state.

    None `nodes` are as many as it has, one when it is new; more than it has are added.
    """

    data: Path | None = None
    control_plane_only: bool = False
    audit: bool = False
    nodes: int | None = None


class Cluster:
    """One test cluster by its name, whether it runs or not."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        self.name = check_name(name)

    # What there is

    @property
    def record(self) -> Record | None:
        """What the last start wrote down, or None when there is no such cluster."""
        return Record.read(layout_of(self.name).record)

    @property
    def layout(self) -> Layout:
        """Where the cluster keeps what."""
        record = self.record
        return layout_of(self.name, Path(record.data) if record else None)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, good on the machine and within the cluster. Raises ClusterError."""
        self._need_record()
        return self.layout.kubeconfig

    @property
    def nodes(self) -> list[Node]:
        """Its nodes, whether they run or not; one where there is a control plane alone. Raises ClusterError."""
        return [Node(number) for number in range(1, self._need_record().nodes + 1)]

    def node(self, name: str) -> Node:
        """The node of that name. Raises ClusterError."""
        known = {node.name: node for node in self.nodes}
        if name not in known:
            raise ClusterError(f"cluster {self.name!r} has no node {name!r}; it has {', '.join(known)}")
        return known[name]

    @property
    def running(self) -> bool:
        """Whether the first process of the cluster, that of its first node, lives."""
        return _runs(self.layout)

    def runs(self, node: Node) -> bool:
        """Whether the first process of the node lives."""
        return _runs(self.layout.on(node))

    @property
    def pid(self) -> int:
        """The first process, as the machine counts. Raises ClusterError when the cluster does not run."""
        return self.pid_of(FIRST_NODE)

    def pid_of(self, node: Node) -> int:
        """The node's first process, as the machine counts. Raises ClusterError when the node does not run."""
        process = ProcessIdentity.read(self.layout.on(node).process)
        if process is None or not process.alive:
            what = f"cluster {self.name!r}" if node.first else f"{node.name} of cluster {self.name!r}"
            raise ClusterError(f"{what} does not run; start it with `cluster.py up --name {self.name}`")
        return process.pid

    def api(self) -> objects.Api:
        """The API server as the cluster's administrator sees it."""
        return objects.Api(self.layout, self._need_record().port)

    def _need_record(self) -> Record:
        record = self.record
        if record is None:
            raise ClusterError(f"there is no cluster {self.name!r}; start it with `cluster.py up --name {self.name}`")
        return record

    # Start

    def up(self, options: UpOptions | None = None, report: Callable[[str], None] = lambda _text: None) -> float:
        """Start the cluster unless it runs; returns the seconds until it was ready. Raises ClusterError."""
        options = options or UpOptions()
        _need_root()
        built = binaries.built()
        if built is None:
            raise ClusterError("the test cluster is not built yet: run `cluster.py build`")
        binaries.install_packages()
        started_s = time.monotonic()
        with locked(layout_of(self.name).directory):
            record = self.record
            self._check_nodes(record, options)
            if self.running and record is not None:
                self._check_same(record, options)
                report(f"cluster {self.name} is up already")
            else:
                record = self._prepare(record, options, built)
                self._launch_first(record)
            self._launch_others(options.nodes)
            self._wait_until_ready(built, started_s, report)
        return time.monotonic() - started_s

    def _check_same(self, record: Record, options: UpOptions) -> None:
        if record.control_plane_only != options.control_plane_only or record.audit != options.audit:
            raise ClusterError(
                f"cluster {self.name!r} runs with other options (control plane only: {record.control_plane_only}, "
                f"audit: {record.audit}); run `cluster.py down --keep-data --name {self.name}` first"
            )

    def _check_nodes(self, previous: Record | None, options: UpOptions) -> None:
        there = previous.nodes if previous else 1
        wanted = there if options.nodes is None else options.nodes
        if not 1 <= wanted <= MOST_NODES:
            raise ClusterError(f"a cluster has 1 to {MOST_NODES} nodes, not {wanted}")
        if options.control_plane_only and wanted > 1:
            raise ClusterError(f"cluster {self.name!r} cannot have {wanted} nodes and be a control plane only")
        if wanted < there:
            raise ClusterError(
                f"cluster {self.name!r} has {there} nodes, and none is ever taken away: drain and power-cut one "
                f"instead, or begin anew after `cluster.py down --name {self.name}`"
            )

    def _prepare(self, previous: Record | None, options: UpOptions, built: binaries.Binaries) -> Record:
        if options.data is None and previous is not None and previous.data_is_external:
            options = replace(options, data=Path(previous.data))
        layout = layout_of(self.name, options.data)
        if layout.data.exists() and any(layout.data.iterdir()) and not layout.data_marker.exists():
            raise ClusterError(f"{layout.data} is not empty and holds no test cluster's data; choose another directory")
        for directory in (layout.directory, layout.data, layout.tool_cache):
            directory.mkdir(parents=True, exist_ok=True)
        layout.directory.chmod(0o700)
        if not layout.data_marker.exists():
            _make_pki(layout, built)
            layout.data_marker.write_text(json.dumps({"id": secrets.token_hex(16)}))
        record = Record(
            name=self.name,
            data=str(layout.data),
            data_is_external=options.data is not None,
            port=previous.port if previous else _free_port(),
            marker=json.loads(layout.data_marker.read_text())["id"],
            control_plane_only=options.control_plane_only,
            audit=options.audit,
            binaries=str(built.directory),
            nodes=previous.nodes if previous else 1,
        )
        record.write(layout.record)
        return record

    def _launch_first(self, record: Record) -> None:
        with _listener(record.port) as listener:
            port = listener.getsockname()[1]
            if port != record.port:
                record = replace(record, port=port)
                record.write(self.layout.record)
            _write_kubeconfig(self.layout, port)
            self._launch(FIRST_NODE, record, listener=listener.fileno())

    def _launch_others(self, nodes: int | None) -> None:
        """Start every further node that does not run, and note how many there are now."""
        record = self._need_record()
        if nodes is not None and nodes > record.nodes:
            record = replace(record, nodes=nodes)
            record.write(self.layout.record)
        waiting = [node for node in self.nodes if not self.runs(node)]
        if waiting:
            first = partial(self._answers, FIRST_NODE)
            _wait(f"the network of {FIRST_NODE.name}", first, 30, self._log_hint(FIRST_NODE))
        for node in waiting:
            pki.make_node_certificates(self.layout.on(node))
            self._launch(node, record)
            # The next one is told of this one's network.
            _wait(f"the network of {node.name}", partial(self._answers, node), 30, self._log_hint(node))

    def _answers(self, node: Node) -> bool:
        if not self.runs(node):
            raise ClusterError(f"{node.name} ended while starting; {self._log_hint(node)}")
        try:
            return bool(self._ask("status", node))
        except OSError:
            return False

    def _log_hint(self, node: Node) -> str:
        return f"see {self.layout.on(node).logs / 'supervisor.log'}"

    def _launch(self, node: Node, record: Record, listener: int | None = None) -> None:
        layout = self.layout.on(node)
        _remove_cgroups(layout)
        layout.logs.mkdir(parents=True, exist_ok=True)
        for leftover in (layout.process, layout.control_socket):
            leftover.unlink(missing_ok=True)
        components.write_configs(_spec(layout, record))
        running = [other for other in self.nodes if self.runs(other)]
        with contextlib.ExitStack() as stack:
            networks = {
                other.number: stack.enter_context(Path(f"/proc/{self.pid_of(other)}/ns/net").open("rb")).fileno()
                for other in running
            }
            description = {
                **asdict(record),
                "directory": str(layout.directory),
                "binaries": f"{record.binaries}/bin",
                "node": node.number,
                "listener": listener,
                "networks": networks,
            }
            # Within the processes of the first node: when that ends, so does everything.
            within = [] if node.first else ["nsenter", "--target", str(self.pid), "--pid", "--"]
            namespaces = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=SIGKILL", "--"]
            supervisor = [sys.executable, "-B", "-m", "testcluster.supervisor", json.dumps(description)]
            log = stack.enter_context((layout.logs / "supervisor.log").open("ab"))
            # In a session of its own it outlives the shell; killing `unshare` kills what it started.
            subprocess.run(
                ["setsid", "--fork", *within, *namespaces, *supervisor],
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[*networks.values(), *([] if listener is None else [listener])],
                check=True,
            )
        _wait(
            f"the start of the first process of {node.name}",
            lambda: ProcessIdentity.read(layout.process) is not None,
            timeout_s=30,
            hint=self._log_hint(node),
        )

    def _wait_until_ready(self, built: binaries.Binaries, started_s: float, report: Callable[[str], None]) -> None:
        layout = self.layout
        record = self._need_record()
        api = self.api()

        def step(what: str, ready: Callable[[], bool], log: Path) -> None:
            def attempt() -> bool:
                for node in self.nodes:
                    if not self.runs(node):
                        raise ClusterError(f"{node.name} ended while starting; {self._log_hint(node)}")
                try:
                    return ready()
                except OSError:
                    return False

            left_s = started_s + _READY_TIMEOUT_S - time.monotonic()
            _wait(what, attempt, left_s, hint=f"see {log}")
            report(f"{time.monotonic() - started_s:5.1f} s  {what}")

        apiserver, controllers = layout.logs / "kube-apiserver.log", layout.logs / "kube-controller-manager.log"
        step("the API server is ready", lambda: api.request("GET", "/readyz")[0] == 200, apiserver)
        step("namespaces exist", lambda: api.get("/api/v1/namespaces/kube-system") is not None, apiserver)
        documents = [objects.marker(record.marker), *([] if record.control_plane_only else objects.node_objects())]

        def applied() -> bool:
            for document in documents:
                api.apply(document)
            return True

        step("the cluster's own objects are there", applied, apiserver)
        if not record.control_plane_only:
            for node in self.nodes:
                self._import_stand_ins(built, node)
            report(f"{time.monotonic() - started_s:5.1f} s  the stand-in images are imported")
            for node in self.nodes:
                logs = layout.on(node).logs
                step(f"{node.name} is Ready and offers its GPU", partial(self._is_ready, node), logs / "kubelet.log")
                step("Services and cluster DNS answer there", partial(self._has_dns, node), logs / "kube-proxy.log")
        step(
            "pods may be created",
            lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            controllers,
        )

    def _is_ready(self, node: Node) -> bool:
        found = self.api().get(f"/api/v1/nodes/{node.name}")
        if found is None:
            return False
        status = found["status"]
        conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
        taints = {taint["key"] for taint in found["spec"].get("taints", [])}
        return (
            # On data of an earlier start the node is still Ready by what its kubelet said then.
            status["nodeInfo"]["bootID"] == self._ask("status", node)["bootId"]
            and conditions.get("Ready") == "True"
            # What a person said of a node stays so over a reboot.
            and taints <= {"node.kubernetes.io/unschedulable", "node.kubernetes.io/out-of-service"}
            and status["allocatable"].get("nvidia.com/gpu") == "1"
        )

    def _has_dns(self, node: Node) -> bool:
        return bool(self._ask("status", node)["dns"])

    def _import_stand_ins(self, built: binaries.Binaries, node: Node) -> None:
        listed = self.run(["ctr", "images", "list", "--quiet"], node, capture_output=True, text=True)
        present = listed.stdout.split() if listed.returncode == 0 else []
        for reference, archive in built.images.items():
            if reference not in present:
                with archive.open("rb") as stream:
                    self.import_image(stream, node)

    # Inside

    def environment(self) -> dict[str, str]:
        """KUBECONFIG, PATH and what else the cluster's tools need, on the machine and within the cluster."""
        record = self._need_record()
        layout = self.layout
        return {
            "KUBECONFIG": str(layout.kubeconfig),
            "KUBECACHEDIR": str(layout.tool_cache / "kubectl"),
            "HELM_CACHE_HOME": str(layout.tool_cache / "helm"),
            "CONTAINERD_NAMESPACE": "k8s.io",
            "PATH": f"{record.binaries}/bin:{os.environ.get('PATH', '/usr/bin:/bin')}",
        }

    def enter(self, command: Sequence[str], node: Node = FIRST_NODE) -> list[str]:
        """The command line that runs the command within the node's network, mounts and processes."""
        # nsenter forgets the working directory with the old mounts, and a killed nsenter would leave the command.
        script = 'cd "$1" 2>/dev/null || cd /; shift; exec setpriv --pdeathsig TERM -- "$@"'
        return [
            "nsenter", "--target", str(self.pid_of(node)), "--net", "--mount", "--pid", "--uts", "--",
            "/bin/sh", "-c", script, "enter", os.getcwd(), *command,
        ]  # fmt: skip

    def run(self, command: Sequence[str], node: Node = FIRST_NODE, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command within the node; options and answer are subprocess.run's."""
        environment = {**os.environ, **self.environment()}
        return subprocess.run(self.enter(command, node), env=environment, check=options.pop("check", False), **options)

    def execute(self, command: Sequence[str], node: Node = FIRST_NODE) -> NoReturn:
        """Become the command, within the node."""
        arguments = self.enter(command, node)
        os.execvpe(arguments[0], arguments, {**os.environ, **self.environment()})  # noqa: S606 - no shell is wanted

    def detach(self, log: str, command: Sequence[str], node: Node = FIRST_NODE) -> None:
        """Run a command within the node until it or the node ends; its output goes to the node's log of that name."""
        with (self.layout.on(node).logs / f"{check_name(log)}.log").open("ab") as output:
            arguments = self.enter(command, node)
            subprocess.run(
                ["setsid", "--fork", *arguments],
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
            )

    def import_image(self, stream: IO[bytes], node: Node = FIRST_NODE) -> None:
        """Import an image archive, pinned against the kubelet's image collection. Raises ClusterError.

        Layers are thrown away once unpacked, so an image takes its size on disk once.
        """
        result = self.run(
            ["ctr", "images", "import", "--local", "--discard-unpacked-layers", "--label", _PIN_LABEL, "-"],
            node,
            stdin=stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode != 0:
            raise ClusterError(f"the image could not be imported into {node.name}: {result.stdout.strip()[-1000:]}")

    def images(self, node: Node = FIRST_NODE) -> list[str]:
        """References of the images on the node."""
        result = self.run(["ctr", "images", "list", "--quiet"], node, capture_output=True, text=True)
        if result.returncode != 0:
            raise ClusterError(f"the images of {node.name} could not be listed: {result.stderr.strip()}")
        return sorted(line for line in result.stdout.split() if not line.startswith("sha256:"))

    # Break

    def control(self, command: str, node: Node = FIRST_NODE, **fields: object) -> dict[str, Any]:
        """Tell or ask the first process of a node. Raises ClusterError when it refuses or does not answer."""
        self.pid_of(node)
        try:
            return self._ask(command, node, **fields)
        except OSError as error:
            what = f"{node.name} of cluster {self.name!r}"
            raise ClusterError(f"the first process of {what} does not answer: {error}") from error

    def _ask(self, command: str, node: Node, **fields: object) -> dict[str, Any]:
        path = self.layout.on(node).control_socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(60)
            # By way of the directory's descriptor: a socket's path may have 107 bytes only.
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
            with connection.makefile("rw") as stream:
                stream.write(json.dumps({"command": command, **fields}) + "\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.readline() or "{}")
        if "error" in answer:
            raise ClusterError(answer["error"])
        return answer

    def stop(self, component: str, node: Node = FIRST_NODE, *, kill: bool = False) -> None:
        """Stop a component of a node, which stays stopped until `start`; `kill` gives it no chance to end well."""
        self.control("stop", node, component=self._component(component, node), kill=kill)

    def start(self, component: str, node: Node = FIRST_NODE) -> None:
        """Start a stopped component of a node."""
        self.control("start", node, component=self._component(component, node))

    def _component(self, name: str, node: Node) -> str:
        # People say apiserver, scheduler, proxy.
        known = {path.stem for path in self.layout.on(node).logs.glob("*.log")}
        return f"kube-{name}" if name not in known and f"kube-{name}" in known else name

    def power_cut(self, node: Node = FIRST_NODE) -> None:
        """End every process at once, as a power cut does. Data stays; `up` starts the nodes again.

        With the first node, in which the network and the control plane are, all others go.
        """
        with locked(layout_of(self.name).directory):
            layout = self.layout.on(node)
            self._kill(layout)
            _remove_cgroups(layout)

    def down(self, *, keep_data: bool = False) -> bool:
        """End the cluster and remove everything of it, or all but its data; False when there was nothing."""
        directory = layout_of(self.name).directory
        if not directory.exists():
            return False
        _need_root()
        with locked(layout_of(self.name).directory):
            try:
                layout, nodes = self.layout, self.nodes
            except ClusterError:
                # A record that cannot be read must not keep the cluster from being removed.
                layout, nodes = layout_of(self.name), [FIRST_NODE]
            # While the API server still answers the others, the first one at last.
            for node in reversed(nodes if keep_data else []):
                if self.runs(node):
                    with contextlib.suppress(OSError):
                        self._ask("shutdown", node)
                        self._wait_for_end(layout.on(node))
            self._kill(layout)
            _remove_cgroups(layout)
            for node in nodes:
                layout.on(node).process.unlink(missing_ok=True)
                layout.on(node).control_socket.unlink(missing_ok=True)
            if not keep_data:
                if layout.data_marker.exists():
                    _remove(layout.data)
                _remove(layout.directory)
                for parent in (clusters_directory(), state_directory()):
                    with contextlib.suppress(OSError):
                        parent.rmdir()
        return True

    def _kill(self, layout: Layout) -> None:
        process = ProcessIdentity.read(layout.process)
        if process is not None and process.alive:
            os.kill(process.pid, signal.SIGKILL)
            self._wait_for_end(layout)

    def _wait_for_end(self, layout: Layout) -> None:
        process = ProcessIdentity.read(layout.process)

        # The first process ends last: the kernel waits for every other one of its namespace.
        def ended() -> bool:
            return process is None or not process.alive

        _wait(f"the end of {layout.node.name}", ended, _DOWN_TIMEOUT_S, hint="some process cannot be killed")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs namespaces, mounts and cgroups of its own: run this as root")


def _runs(layout: Layout) -> bool:
    process = ProcessIdentity.read(layout.process)
    return process is not None and process.alive


def _spec(layout: Layout, record: Record) -> components.NodeSpec:
    return components.NodeSpec(
        layout=layout,
        binaries=Path(record.binaries) / "bin",
        port=record.port,
        control_plane_only=record.control_plane_only,
        audit=record.audit,
    )


def _make_pki(layout: Layout, built: binaries.Binaries) -> None:
    if layout.pki.exists():
        _remove(layout.pki)
    pki.make_cluster_certificates(layout, built.bin / "node-tools")


def _write_kubeconfig(layout: Layout, port: int) -> None:
    def encoded(name: str) -> str:
        return base64.b64encode((layout.pki / name).read_bytes()).decode()

    context = layout.context
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": context,
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority-data": encoded("ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": context,
                "user": {
                    "client-certificate-data": encoded("admin.crt"),
                    "client-key-data": encoded("admin.key"),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(json.dumps(document, indent=2) + "\n")


def _remove(path: Path) -> None:
    """Remove a directory tree, which may hold millions of files of images."""
    result = subprocess.run(["rm", "-rf", "--", str(path)], capture_output=True, text=True, check=False)
    if result.returncode != 0 and path.exists():
        shutil.rmtree(path)


def _remove_cgroups(layout: Layout) -> None:
    """Remove what the kernel does not take with the processes: the cgroups of the pods."""
    deadline_s = time.monotonic() + 10
    for root in cgroup_directories(layout.cgroup):
        while root.is_dir():
            try:
                for directory, _, _ in os.walk(root, topdown=False):
                    os.rmdir(directory)
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise ClusterError(f"the cgroup {root} cannot be removed: {error}") from error
                time.sleep(0.05)


def list_clusters() -> list[Cluster]:
    """Every cluster there is, running or not."""
    return [Cluster(path.parent.name) for path in sorted(clusters_directory().glob("*/cluster.json"))]


def is_ours(kubeconfig: str | Path, context: str | None = None) -> bool:
    """Whether this kubeconfig leads to a cluster made here: its marker's id must be one of ours, and it must answer.

    Destructive tests ask this first; any doubt is False.
    """
    built = binaries.built()
    kubectl = str(built.bin / "kubectl") if built else shutil.which("kubectl")
    known = {record.marker for cluster in list_clusters() if (record := cluster.record) is not None}
    if kubectl is None or not known:
        return False
    command = [
        kubectl, f"--kubeconfig={kubeconfig}", "--request-timeout=10s", f"--namespace={MARKER_NAMESPACE}",
        "get", "configmap", MARKER_NAME, "--output=jsonpath={.data.id}",
    ]  # fmt: skip
    if context is not None:
        command.append(f"--context={context}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode == 0 and result.stdout.strip() in known
