"""The first process of a node: it makes the node's mounts and network, and keeps the components running.

It is process 1 of a PID namespace of its own. The kernel ends everything in that namespace, and with the last process
goes its network and its mounts: whoever kills this process removes the whole node, however many pods it runs. The
namespaces of all other nodes are within the first one's: whoever kills that one's removes the whole cluster.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testcluster import components as parts
from testcluster.components import Component, NodeSpec
from testcluster.layout import (
    DNS_SERVICE_ADDRESS,
    FIRST_NODE,
    NODE_INTERFACE,
    NODE_PREFIX,
    SERVICE_CIDR,
    Layout,
    Node,
    ProcessIdentity,
    start_ticks,
)

_STOP_TIMEOUT_S = 15.0
_WAIT_FOR_TIMEOUT_S = 60.0
_FIRST_RESTART_DELAY_S = 0.5
_LONGEST_RESTART_DELAY_S = 5.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def _log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{stamp} {text}", flush=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _run("mount", "--bind", str(source), str(target))


def _bind_file(source: Path, target: Path) -> None:
    if target.exists():
        _run("mount", "--bind", str(source), str(target.resolve()))


def make_mounts(layout: Layout, boot_id: str) -> None:
    """Give the node a /run, /var and /proc of its own, without leaving so much as a mount point on the machine.

    /var is laid over the machine's with a layer in memory, and the node's own directories are bound into it where
    a node has them; that way paths like /var/lib/kubelet, which are compiled into device plugins, exist for every
    node separately.
    """
    # Before /run and /var change: the cluster's files may lie below either.
    with contextlib.ExitStack() as stack:
        opened = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (layout.directory, layout.data)}
        for descriptor in opened.values():
            stack.callback(os.close, descriptor)
        _run("mount", "-t", "proc", "proc", "/proc")
        resolv_conf = Path("/etc/resolv.conf").resolve()
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        layers = Path("/run/var-layers")
        (layers / "upper").mkdir(parents=True)
        (layers / "work").mkdir()
        options = f"lowerdir=/var,upperdir={layers / 'upper'},workdir={layers / 'work'}"
        _run("mount", "-t", "overlay", "-o", options, "overlay", "/var")
        for path, descriptor in opened.items():
            path.mkdir(parents=True, exist_ok=True)
            # Unless told not to, mount looks up where the descriptor's link points, which is below /var again.
            command = ["mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{descriptor}", str(path)]
            subprocess.run(command, pass_fds=[descriptor], check=True)
    for source, target in {
        layout.node_data / "kubelet": parts.KUBELET_ROOT,
        layout.node_data / "containerd": parts.CONTAINERD_ROOT,
        layout.node_data / "volumes": parts.VOLUMES,
        layout.node_data / "pod-logs": Path("/var/log/pods"),
        layout.node_data / "container-logs": Path("/var/log/containers"),
        layout.shared: parts.SHARED,
    }.items():
        source.mkdir(parents=True, exist_ok=True)
        _bind(source, target)
    _bind_file(layout.config / "hosts", Path("/etc/hosts"))
    if resolv_conf.is_relative_to("/run"):
        resolv_conf.parent.mkdir(parents=True, exist_ok=True)
        resolv_conf.touch()
    _bind_file(layout.config / "resolv.conf", resolv_conf)
    # This is a boot of the node: a power cut is told from a crash by this id.
    shown = Path("/run/boot_id")
    shown.write_text(f"{boot_id}\n")
    _bind_file(shown, Path("/proc/sys/kernel/random/boot_id"))
    # As on a real node; pods that mount volumes for others depend on it.
    _run("mount", "--make-rshared", "/")


def _ip(*lines: str, within: int | None = None) -> str:
    """What commands of ip(8) print, run here or in the network namespace of that descriptor."""
    enter = [] if within is None else ["nsenter", f"--net=/proc/self/fd/{within}"]
    descriptors = [] if within is None else [within]
    text = "".join(f"{line}\n" for line in lines)
    command = [*enter, "ip", "-batch", "-"]
    return subprocess.run(
        command, input=text, text=True, pass_fds=descriptors, stdout=subprocess.PIPE, check=True
    ).stdout


def make_network(node: Node, others: Mapping[Node, int]) -> None:
    """The node's address, its way to the other nodes, and routes that end here: there is nothing beyond the cluster.

    The first node has a bridge, to which every other one has a cable. `others` are the nodes that run already, each
    with a descriptor of its network namespace.
    """
    _run("hostname", node.name)
    if node.first:
        # With an address of its own it does not take over that of a cable, which others would look for in vain later.
        _ip(f"link add {NODE_INTERFACE} address 02:00:00:00:00:01 type bridge")
    else:
        bridge = others[FIRST_NODE]
        if f" {node.name}@" in _ip("link show", within=bridge):
            # The kernel takes its time to remove the cable of a node that lost its power.
            _ip(f"link del {node.name}", within=bridge)
        _ip(f"link add {node.name} type veth peer name {NODE_INTERFACE} netns {os.getpid()}", within=bridge)
        _ip(f"link set {node.name} master {NODE_INTERFACE} up", within=bridge)
    _ip(
        "link set lo up",
        f"addr add {node.address}/{NODE_PREFIX} dev {NODE_INTERFACE}",
        f"link set {NODE_INTERFACE} up",
        # Locally made packets need a route before the Service rules can rewrite where they go.
        f"route add {SERVICE_CIDR} dev {NODE_INTERFACE}",
        # Everything else fails at once instead of after a timeout.
        "route add unreachable default metric 4278198272",
        *(f"route add {other.pod_cidr} via {other.address}" for other in others),
    )
    for network in others.values():
        _ip(f"route replace {node.pod_cidr} via {node.address}", within=network)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def listen_locally(port: int) -> socket.socket:
    """A listening socket at the node's own 127.0.0.1."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


def cgroup_directories(name: str) -> Sequence[Path]:
    """Where a cgroup of this name is, or would be, in every hierarchy mounted on the machine."""
    roots = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            roots.append(Path(mount_point))
    return [root / name for root in roots]


def make_cgroups(name: str) -> None:
    """The cgroup all pods live under; the kubelet wants it to exist."""
    for directory in cgroup_directories(name):
        directory.mkdir(exist_ok=True)
        # In the first version of cgroups a new cpuset is empty, and nothing can run in it.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            inherited, own = directory.parent / setting, directory / setting
            if inherited.exists() and own.exists() and not own.read_text().strip():
                own.write_text(inherited.read_text())


@dataclass
class _Process:
    """A component and, while it runs, its process."""

    component: Component
    wanted: bool = False
    pid: int | None = None
    started_s: float = 0.0
    restart_delay_s: float = _FIRST_RESTART_DELAY_S
    restart_at_s: float = 0.0
    restarts: int = 0


class Supervisor:
    """Starts the components in order, restarts what ends by itself, and obeys the control socket."""

    def __init__(self, spec: NodeSpec, listener_descriptor: int, boot_id: str) -> None:
        self._spec = spec
        self._boot_id = boot_id
        self._listener_descriptor = listener_descriptor
        self._processes = {component.name: _Process(component) for component in parts.components(spec)}
        self._selector = selectors.DefaultSelector()
        self._stopping = False

    def run(self) -> None:
        """Run until told to shut down."""
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, self._on_terminate)
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(4096))
        self._listen()
        for process in self._processes.values():
            self._start(process)
            self._await(process)
            if self._stopping:
                break
        while not self._stopping:
            self._turn(timeout_s=self._until_next_restart_s())
        self._shut_down()

    def _on_terminate(self, *_: object) -> None:
        self._stopping = True

    def _until_next_restart_s(self) -> float | None:
        due = [process.restart_at_s for process in self._processes.values() if process.wanted and process.pid is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _turn(self, timeout_s: float | None) -> None:
        for key, _ in self._selector.select(timeout_s):
            handle: Callable[[], object] = key.data
            handle()
        self._reap()
        now_s = time.monotonic()
        for process in self._processes.values():
            if process.wanted and process.pid is None and process.restart_at_s <= now_s and not self._stopping:
                self._start(process)

    # Processes

    def _start(self, process: _Process) -> None:
        component = process.component
        log = str(self._spec.layout.logs / f"{component.name}.log")
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        if component.needs_listener:
            actions.append((os.POSIX_SPAWN_DUP2, self._listener_descriptor, parts.LISTENER_DESCRIPTOR))
        process.pid = os.posix_spawn(
            component.command[0],
            list(component.command),
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **component.environment},
            file_actions=actions,
            setsid=True,
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE],
        )
        process.wanted = True
        process.started_s = time.monotonic()
        _log(f"{component.name}: started as {process.pid}")

    def _await(self, process: _Process) -> None:
        """Let the cluster go on until the component answers, so that what depends on it need not retry."""
        wanted = process.component.wait_for
        if wanted is None:
            return
        deadline_s = time.monotonic() + _WAIT_FOR_TIMEOUT_S
        tls = ssl.create_default_context(cafile=str(self._spec.layout.pki / "ca.crt"))
        while not self._stopping:
            if _listens(wanted) if isinstance(wanted, Path) else _api_is_ready(wanted, tls):
                return
            if time.monotonic() > deadline_s:
                _log(f"{process.component.name}: still not answering at {wanted}; going on without it")
                return
            self._turn(timeout_s=0.02)

    def _reap(self) -> None:
        """Collect every ended process, components and the orphans of pods alike."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in self._processes.values():
                if process.pid == pid:
                    self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, exit_code: int) -> None:
        process.pid = None
        name = process.component.name
        if not process.wanted:
            _log(f"{name}: stopped ({exit_code})")
            return
        now_s = time.monotonic()
        if now_s - process.started_s > 10 * _LONGEST_RESTART_DELAY_S:
            process.restart_delay_s = _FIRST_RESTART_DELAY_S
        process.restart_at_s = now_s + process.restart_delay_s
        process.restart_delay_s = min(2 * process.restart_delay_s, _LONGEST_RESTART_DELAY_S)
        process.restarts += 1
        _log(f"{name}: ended by itself ({exit_code}); see {name}.log; starting it again")

    def _stop(self, processes: Sequence[_Process], *, kill: bool = False) -> None:
        for process in processes:
            process.wanted = False
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        while any(process.pid is not None for process in processes):
            if time.monotonic() > deadline_s:
                for process in processes:
                    if process.pid is not None:
                        _log(f"{process.component.name}: does not stop; killing it")
                        os.kill(process.pid, signal.SIGKILL)
                deadline_s = time.monotonic() + _STOP_TIMEOUT_S
            time.sleep(0.02)
            self._reap()

    def _shut_down(self) -> None:
        """Stop what writes data in an order that loses none; everything else ends with this process."""
        _log("shutting down")
        everything = list(self._processes.values())
        by_name = self._processes
        self._stop([process for process in everything if process.component.name not in ("kube-apiserver", "kine")])
        for name in ("kube-apiserver", "kine"):
            if name in by_name:
                # The API server drains for up to a minute, for clients that are gone by now.
                self._stop([by_name[name]], kill=name == "kube-apiserver")
        os.sync()

    # Control

    def _listen(self) -> None:
        path = self._spec.layout.control_socket
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # By way of the directory's descriptor: a socket's path may have 107 bytes only.
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._serve(listener))

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            connection.settimeout(5)
            try:
                request = json.loads(stream.readline())
                answer = self._answer(request)
            except (OSError, ValueError, KeyError) as error:
                answer = {"error": f"not understood: {error}"}
            with contextlib.suppress(OSError):
                stream.write(json.dumps(answer) + "\n")
                stream.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request["command"]
        if command == "status":
            return {
                "components": {
                    name: {"pid": process.pid, "wanted": process.wanted, "restarts": process.restarts}
                    for name, process in self._processes.items()
                },
                "bootId": self._boot_id,
                "dns": _dns_answers(),
            }
        if command == "shutdown":
            self._stopping = True
            return {}
        process = self._processes.get(request["component"])
        if process is None:
            return {"error": f"no component {request['component']!r}; there are {', '.join(self._processes)}"}
        if command == "stop":
            self._stop([process], kill=request.get("kill", False))
            return {}
        if command == "start":
            if process.pid is None:
                process.restart_delay_s = _FIRST_RESTART_DELAY_S
                self._start(process)
            return {}
        return {"error": f"no command {command!r}"}


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _api_is_ready(port: int, tls: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# One question for the A record of kubernetes.default.svc.cluster.local.
_DNS_QUESTION = (
    b"\x2a\x2a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    + b"".join(bytes([len(label)]) + label for label in b"kubernetes.default.svc.cluster.local".split(b"."))
    + b"\x00\x00\x01\x00\x01"
)


def _dns_answers() -> bool:
    """Whether the cluster's DNS, reached by its own Service, knows the API server's Service."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect((DNS_SERVICE_ADDRESS, 53))
            probe.send(_DNS_QUESTION)
            reply = probe.recv(512)
        except OSError:
            return False
    # No error code, and at least one answer.
    return reply[3] & 0x0F == 0 and reply[6:8] != b"\x00\x00"


def main(arguments: Sequence[str]) -> None:
    """Entry of the first process: a JSON description of the node, with descriptors that came along by their numbers.

    `listener` is a socket in the machine's network, or null where this node's is to be used; `networks` has the
    namespace of each running node by its number.
    """
    description = json.loads(arguments[0])
    layout = Layout(description["name"], Path(description["directory"]), Path(description["data"]))
    spec = NodeSpec(
        layout=layout.on(Node(description["node"])),
        binaries=Path(description["binaries"]),
        port=description["port"],
        control_plane_only=description["control_plane_only"],
        audit=description["audit"],
    )
    # /proc is still the machine's, so this is the id the machine knows this process by.
    host_pid = int(os.readlink("/proc/self"))
    identity = ProcessIdentity(host_pid, start_ticks(Path("/proc/self/stat").read_text()))
    identity.write(spec.layout.process)
    boot_id = str(uuid.uuid4())
    make_mounts(spec.layout, boot_id)
    others = {Node(int(number)): descriptor for number, descriptor in description["networks"].items()}
    make_network(spec.node, others)
    for descriptor in others.values():
        # Held open, here or by a component, it would keep the network of a node that has lost its power.
        os.close(descriptor)
    make_cgroups(spec.layout.cgroup)
    listener = description["listener"]
    Supervisor(spec, listen_locally(spec.port).detach() if listener is None else listener, boot_id).run()


if __name__ == "__main__":
    main(sys.argv[1:])
