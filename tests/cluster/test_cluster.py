"""The test cluster is what it says: quick to start, real inside, hard to confuse with another, gone when it is down."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, ClusterError, UpOptions, is_ours, list_clusters
from testcluster import binaries
from testcluster.components import SHARED
from testcluster.layout import BUSYBOX_IMAGE, FIRST_NODE, Node
from testcluster.supervisor import cgroup_directories

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAME = "selftest"
NAMESPACE = "selftest"


def eventually(what: str, ready: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The first truthy answer of `ready`; fails saying what did not happen."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if answer := ready():
            return answer
        if time.monotonic() > deadline_s:
            pytest.fail(f"within {timeout_s:.0f} s {what} did not happen")
        time.sleep(0.1)


class Kubectl:
    """kubectl as a user has it on the machine, outside of the cluster's namespaces."""

    def __init__(self, cluster: Cluster) -> None:
        self._environment = {**os.environ, **cluster.environment()}

    def attempt(self, *arguments: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *arguments],
            env=self._environment,
            input=None if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def __call__(self, *arguments: str, stdin: object = None) -> str:
        result = self.attempt(*arguments, stdin=stdin)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr}"
        return result.stdout.strip()

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "--output=json"))

    def apply(self, *documents: dict[str, Any]) -> None:
        self("apply", "--filename=-", stdin={"apiVersion": "v1", "kind": "List", "items": list(documents)})

    def phase(self, pod: str) -> str:
        return self("get", "pod", pod, f"--namespace={NAMESPACE}", "--output=jsonpath={.status.phase}")


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": BUSYBOX_IMAGE,
        "command": ["/bin/sh", "-ec", script],
        **spec.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            **spec,
        },
    }


def gpu_pod(name: str, script: str) -> dict[str, Any]:
    return pod(name, script, container={"resources": {"limits": {"nvidia.com/gpu": "1"}}})


def gpu_events(cluster: Cluster, node: Node = FIRST_NODE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cluster.layout.on(node).gpu_log.read_text().splitlines()]


def fresh(name: str) -> Cluster:
    if binaries.built() is None:
        pytest.fail("the test cluster is not built: run `make cluster-build`")
    cluster = Cluster(name)
    cluster.down()
    return cluster


@pytest.fixture(scope="module")
def first_start() -> Iterator[tuple[Cluster, float]]:
    """A cluster, and the seconds its first start took."""
    cluster = fresh(NAME)
    try:
        yield cluster, cluster.up(report=print)
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def cluster(first_start: tuple[Cluster, float]) -> Cluster:
    return first_start[0]


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster) -> Kubectl:
    kubectl = Kubectl(cluster)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return kubectl


def test_a_cluster_is_ready_within_a_minute(first_start: tuple[Cluster, float]) -> None:
    seconds = first_start[1]
    # 20 s are promised on a machine that does nothing else; where others compute too, a start gets its share.
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"ready after {seconds:.1f} s, with {busy:.1f} processes waiting for each core")
    assert seconds < 60 * busy


def test_the_node_is_ready_and_offers_one_gpu(cluster: Cluster, kubectl: Kubectl) -> None:
    [node] = kubectl.get("nodes")["items"]
    assert node["metadata"]["name"] == FIRST_NODE.name
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "1"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.37.2"


def test_starting_a_running_cluster_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.pid
    cluster.up()
    assert cluster.pid == before


def test_a_running_cluster_refuses_to_be_started_with_other_options(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="runs with other options"):
        cluster.up(UpOptions(control_plane_only=True))


def test_a_pod_writes_to_a_claim_and_reaches_a_service_by_its_name(cluster: Cluster, kubectl: Kubectl) -> None:
    server = pod(
        "server",
        "mkdir /tmp/www; echo from the service > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www",
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "files", "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    client = pod(
        "client",
        "until wget -q -O /files/answer http://server; do sleep 0.2; done\n"
        "nslookup kubernetes.default.svc.cluster.local\n"
        "id -u > /files/uid",
        securityContext={"runAsUser": 1000, "runAsNonRoot": True},
        volumes=[{"name": "files", "persistentVolumeClaim": {"claimName": "files"}}],
        container={"volumeMounts": [{"name": "files", "mountPath": "/files"}]},
    )
    kubectl.apply(server, service, claim, client)
    eventually("the client to finish", lambda: kubectl.phase("client") == "Succeeded")

    volume = kubectl.get("pvc", "files", f"--namespace={NAMESPACE}")["spec"]["volumeName"]
    [directory] = (cluster.layout.data / "volumes").glob(f"{volume}_*")
    assert (directory / "answer").read_text() == "from the service\n"
    assert (directory / "uid").read_text() == "1000\n"
    assert "10.43.0.1" in kubectl("logs", "client", f"--namespace={NAMESPACE}")


def test_names_of_services_resolve_for_commands_run_in_the_cluster(cluster: Cluster, kubectl: Kubectl) -> None:
    script = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    answer = cluster.run(["python3", "-c", script], capture_output=True, text=True)
    assert answer.stdout.strip() == "10.43.0.1", answer.stderr
    script = "import socket; socket.gethostbyname('broker.example.com')"
    answer = cluster.run(["python3", "-c", script], capture_output=True, text=True)
    assert "Name or service not known" in answer.stderr, "the world outside does not exist, and is not asked for long"


def test_logs_exec_and_port_forward_work_from_the_machine(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(pod("talker", "echo ready; echo hello > /tmp/index.html; exec httpd -f -p 7000 -h /tmp"))
    eventually("the talker to run", lambda: kubectl.phase("talker") == "Running")
    in_namespace = f"--namespace={NAMESPACE}"
    assert eventually("a line of log", lambda: kubectl("logs", "talker", in_namespace)) == "ready"
    assert kubectl("exec", "talker", in_namespace, "--", "echo", "inside") == "inside"
    with subprocess.Popen(
        ["kubectl", "port-forward", in_namespace, "pod/talker", ":7000"],
        env={**os.environ, **cluster.environment()},
        stdout=subprocess.PIPE,
        text=True,
    ) as forward:
        assert forward.stdout is not None
        port = int(forward.stdout.readline().split(" -> ")[0].rpartition(":")[2])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            text = answer.read()
        forward.terminate()
    assert text == b"hello\n"


def test_the_gpu_is_given_to_one_pod_at_a_time_and_every_holder_is_on_record(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    kubectl.apply(gpu_pod("gpu-first", "exec sleep 600"))
    eventually("the first pod to hold the GPU", lambda: kubectl.phase("gpu-first") == "Running")
    kubectl.apply(gpu_pod("gpu-second", "exec sleep 600"))
    reason = eventually(
        "the scheduler's word on the second pod",
        lambda: kubectl(
            "get", "pod", "gpu-second", f"--namespace={NAMESPACE}", "--output=jsonpath={.status.conditions[0].message}"
        ),
    )
    assert "Insufficient nvidia.com/gpu" in reason
    kubectl("delete", "pod", "gpu-first", f"--namespace={NAMESPACE}")
    eventually("the second pod to hold the GPU", lambda: kubectl.phase("gpu-second") == "Running")

    def seen() -> list[tuple[str, str]]:
        events = [event for event in gpu_events(cluster) if event["event"] in ("Held", "Released")]
        return [(event["event"], event["pod"]) for event in events]

    wanted = [("Held", "gpu-first"), ("Released", "gpu-first"), ("Held", "gpu-second")]
    eventually("the record of both holders", lambda: seen() == wanted)
    kubectl("delete", "pod", "gpu-second", f"--namespace={NAMESPACE}")
    assert [event["devices"] for event in gpu_events(cluster) if event["event"] == "Allocated"] == [["GPU-test-0"]] * 2


def test_a_restart_of_the_kubelet_hurts_no_pod_and_the_gpu_comes_back(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(pod("steady", "exec sleep 600"))
    eventually("the pod to run", lambda: kubectl.phase("steady") == "Running")
    before = kubectl.get("pod", "steady", f"--namespace={NAMESPACE}")["status"]["containerStatuses"]
    cluster.stop("kubelet")
    assert cluster.control("status")["components"]["kubelet"]["pid"] is None
    registrations = (cluster.layout.logs / "gpu-device-plugin.log").read_text().count("registered 1")
    cluster.start("kubelet")
    eventually(
        "the device plugin to register again",
        lambda: (cluster.layout.logs / "gpu-device-plugin.log").read_text().count("registered 1") > registrations,
    )
    eventually(
        "the GPU to be allocatable",
        lambda: kubectl.get("node", FIRST_NODE.name)["status"]["allocatable"].get("nvidia.com/gpu") == "1",
    )
    kubectl.apply(gpu_pod("after-restart", "true"))
    eventually("a pod to get the GPU", lambda: kubectl.phase("after-restart") == "Succeeded")
    assert kubectl.get("pod", "steady", f"--namespace={NAMESPACE}")["status"]["containerStatuses"] == before


def test_a_killed_component_is_started_again_and_a_stopped_one_is_not(cluster: Cluster, kubectl: Kubectl) -> None:
    scheduler = cluster.control("status")["components"]["kube-scheduler"]
    cluster.run(["kill", "-KILL", str(scheduler["pid"])], check=True)

    def started_again() -> bool:
        now = cluster.control("status")["components"]["kube-scheduler"]
        return now["pid"] not in (None, scheduler["pid"]) and now["restarts"] == scheduler["restarts"] + 1

    eventually("the scheduler to be started again", started_again)
    cluster.stop("apiserver", kill=True)
    assert kubectl.attempt("get", "--raw=/readyz", "--request-timeout=2s").returncode != 0
    cluster.start("apiserver")
    eventually(
        "the API server to be ready again",
        lambda: kubectl.attempt("get", "--raw=/readyz", "--request-timeout=2s").returncode == 0,
    )


def test_pod_security_is_enforced(kubectl: Kubectl) -> None:
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    hostile = pod("hostile", "true", hostPID=True)
    hostile["metadata"]["namespace"] = "strict"
    refused = kubectl.attempt("apply", "--filename=-", stdin=hostile)
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr


def test_an_imported_image_is_pinned_and_its_layers_are_not_kept_twice(cluster: Cluster) -> None:
    assert BUSYBOX_IMAGE in cluster.images()
    listed = cluster.run(["ctr", "images", "list", f"name=={BUSYBOX_IMAGE}"], capture_output=True, text=True).stdout
    assert "io.cri-containerd.pinned=pinned" in listed
    blobs = cluster.layout.data / "containerd" / "io.containerd.content.v1.content" / "blobs"
    layer_bytes = binaries.build().images[BUSYBOX_IMAGE].stat().st_size
    eventually(
        "the unpacked layers to be collected",
        lambda: sum(path.stat().st_size for path in blobs.rglob("*") if path.is_file()) < layer_bytes / 2,
    )


def test_a_cluster_made_here_is_told_from_any_other(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
    assert is_ours(cluster.kubeconfig)
    assert not is_ours(cluster.kubeconfig, context="somebody-elses")
    merged = tmp_path / "config"
    merged.write_text(kubectl("config", "view", "--raw"))
    assert is_ours(merged)
    marker = kubectl.get("configmap", "azaion-test-cluster", "--namespace=kube-system")
    kubectl("delete", "configmap", "azaion-test-cluster", "--namespace=kube-system")
    assert not is_ours(cluster.kubeconfig), "a cluster without the marker"
    marker["metadata"] = {"name": "azaion-test-cluster", "namespace": "kube-system"}
    kubectl.apply({**marker, "data": {"id": "of another cluster"}})
    assert not is_ours(cluster.kubeconfig), "a cluster with another's marker"
    kubectl.apply(marker)
    assert is_ours(cluster.kubeconfig)


def test_two_clusters_run_side_by_side_and_know_nothing_of_each_other(cluster: Cluster, kubectl: Kubectl) -> None:
    other = fresh(f"{NAME}-2")
    try:
        other.up()
        others = Kubectl(other)
        others.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        others.apply(gpu_pod("only-here", "exec sleep 600"))
        eventually("a pod of the second cluster to run", lambda: others.phase("only-here") == "Running")
        assert kubectl.attempt("get", "pod", "only-here", f"--namespace={NAMESPACE}").returncode != 0
        kubectl.apply(gpu_pod("first-still-works", "true"))
        eventually("a pod of the first to get its own GPU", lambda: kubectl.phase("first-still-works") == "Succeeded")
        assert {NAME, other.name} <= {each.name for each in list_clusters() if each.running}
    finally:
        other.down()
    assert kubectl("get", "--raw=/readyz") == "ok"


@pytest.mark.parametrize("way", ["down with its data kept", "a power cut"])
def test_objects_volumes_and_images_are_found_again_after(way: str, cluster: Cluster, kubectl: Kubectl) -> None:
    name = "kept-by-" + way.split()[-1]
    kubectl("create", "configmap", name, f"--namespace={NAMESPACE}", "--from-literal=answer=42")
    writer = pod("survivor", "exec sleep 600")
    writer["spec"]["restartPolicy"] = "Always"
    kubectl.apply(writer)
    eventually("the pod to run", lambda: kubectl.phase("survivor") == "Running")
    boot_id = kubectl.get("node", FIRST_NODE.name)["status"]["nodeInfo"]["bootID"]
    address = kubectl("config", "view", "--output=jsonpath={.clusters[0].cluster.server}")
    gpu_events_before = len(gpu_events(cluster))

    if way == "a power cut":
        cluster.power_cut()
    else:
        cluster.down(keep_data=True)
    assert not cluster.running
    cluster.up()

    data = kubectl.get("configmap", name, f"--namespace={NAMESPACE}")["data"]
    assert data == {"answer": "42"}
    assert kubectl("config", "view", "--output=jsonpath={.clusters[0].cluster.server}") == address
    assert kubectl.get("node", FIRST_NODE.name)["status"]["nodeInfo"]["bootID"] != boot_id
    assert BUSYBOX_IMAGE in cluster.images()
    assert [event["event"] for event in gpu_events(cluster)[gpu_events_before:]][:1] == ["Started"]

    def restarted() -> bool:
        [status] = kubectl.get("pod", "survivor", f"--namespace={NAMESPACE}")["status"]["containerStatuses"]
        return bool(status["restartCount"] >= 1 and status["ready"])

    eventually("the pod's container to be started again", restarted)
    kubectl("delete", "pod", "survivor", f"--namespace={NAMESPACE}", "--now")


def test_data_kept_elsewhere_is_found_by_a_cluster_of_another_name(tmp_path: Path) -> None:
    first, second = fresh(f"{NAME}-3"), fresh(f"{NAME}-4")
    options = UpOptions(data=tmp_path / "data", control_plane_only=True)
    try:
        first.up(options)
        Kubectl(first)("create", "configmap", "kept", "--from-literal=answer=42")
        first.down(keep_data=True)
        second.up(options)
        assert Kubectl(second).get("configmap", "kept")["data"] == {"answer": "42"}
    finally:
        second.down()
        first.down()
    assert not (tmp_path / "data").exists()


def test_a_directory_with_somebodys_files_is_refused_as_data_and_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    cluster = fresh(f"{NAME}-5")
    with pytest.raises(ClusterError, match="is not empty"):
        cluster.up(UpOptions(data=tmp_path))
    cluster.down()
    assert precious.read_text() == "mine"


def test_a_control_plane_without_a_node_answers_and_logs_who_asked_what() -> None:
    cluster = fresh(f"{NAME}-6")
    try:
        seconds = cluster.up(UpOptions(control_plane_only=True, audit=True))
        print(f"control plane ready after {seconds:.1f} s")
        kubectl = Kubectl(cluster)
        assert kubectl.get("nodes")["items"] == []
        kubectl("create", "job", "waiting", "--image=none", "--as=somebody", "--as-group=system:masters")
        eventually(
            "the controllers to make the Job's pod", lambda: kubectl.get("pods", "-l", "job-name=waiting")["items"]
        )

        def audited() -> list[dict[str, Any]]:
            lines = cluster.layout.audit_log.read_text().splitlines(keepends=True)
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
            return [
                entry
                for entry in entries
                if entry["verb"] == "create" and entry.get("impersonatedUser", {}).get("username") == "somebody"
            ]

        [entry] = eventually("the audit log's entry", audited)
        assert entry["level"] == "Metadata"
        assert entry["objectRef"]["resource"] == "jobs"
    finally:
        cluster.down()


def _processes_of(cluster: Cluster) -> set[int]:
    """Every process in the PID namespaces of the cluster's nodes or one below them, as the machine counts."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = set(), [cluster.pid_of(node) for node in cluster.nodes]
    while waiting:
        process = waiting.pop()
        found.add(process)
        waiting += children.get(process, [])
    return found


def _host_state(cluster: Cluster) -> dict[str, object]:
    def lines(command: Sequence[str]) -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    ignored = ("valid_lft",)
    return {
        "addresses": [line for line in lines(["ip", "-o", "address"]) if not any(word in line for word in ignored)],
        "links": [line.split(":")[1] for line in lines(["ip", "-o", "link"])],
        "mounts": [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cluster.layout.directory) in line
        ],
        "cgroups": [str(path) for path in cgroup_directories(cluster.layout.cgroup) if path.exists()],
        "state": cluster.layout.directory.exists(),
        "node directories": {
            path: Path(path).exists()
            for path in ("/var/lib/kubelet", "/var/lib/containerd", "/var/lib/rancher", "/var/lib/cni", "/run/cni",
                         "/run/containerd", "/var/log/pods", "/var/log/containers", "/etc/cni", "/run/kine.sock",
                         "/var/run/netns", "/usr/libexec/kubernetes")
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "way"),
    [(1, "down"), (1, "SIGKILL of the first process and down"), (2, "SIGKILL of the first process and down")],
)
def test_nothing_is_left_on_the_machine_after(nodes: int, way: str) -> None:
    cluster = fresh(f"{NAME}-7")
    before = _host_state(cluster)
    try:
        cluster.up(UpOptions(nodes=nodes))
        kubectl = Kubectl(cluster)
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        kubectl.apply(pod("busy", "exec sleep 600"))
        eventually("a pod to run", lambda: kubectl.phase("busy") == "Running")
        cluster.detach("bystander", ["sleep", "600"])
        eventually(
            "the detached command to run",
            lambda: (
                cluster.run(["pgrep", "-x", "-f", shlex.join(["sleep", "600"])], capture_output=True).returncode == 0
            ),
        )
        processes = _processes_of(cluster)
        assert len(processes) > 10 * nodes
        if way != "down":
            os.kill(cluster.pid, 9)
            eventually("everything to end with the first process", lambda: not cluster.running)
            eventually("every process to end", lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
    finally:
        cluster.down()
    eventually("every process to end", lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
    assert _host_state(cluster) == before


SECOND = Node(2)


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """A cluster that a second node has joined while it ran."""
    cluster = fresh(f"{NAME}-8")
    try:
        cluster.up()
        seconds = cluster.up(UpOptions(nodes=2), report=print)
        print(f"a second node is ready after {seconds:.1f} s")
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def kubectl_of_pair(pair: Cluster) -> Kubectl:
    kubectl = Kubectl(pair)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return kubectl


def at(node: Node, document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "spec": {**document["spec"], "nodeSelector": {"kubernetes.io/hostname": node.name}}}


def test_a_second_node_is_as_good_as_the_first_and_offers_a_gpu_of_its_own(
    pair: Cluster, kubectl_of_pair: Kubectl
) -> None:
    nodes = {node["metadata"]["name"]: node["status"] for node in kubectl_of_pair.get("nodes")["items"]}
    assert {name: status["allocatable"]["nvidia.com/gpu"] for name, status in nodes.items()} == {
        FIRST_NODE.name: "1",
        SECOND.name: "1",
    }
    assert len({status["nodeInfo"]["bootID"] for status in nodes.values()}) == 2
    assert BUSYBOX_IMAGE in pair.images(SECOND)
    for node in (FIRST_NODE, SECOND):
        kubectl_of_pair.apply(
            at(node, gpu_pod(f"gpu-on-{node.name}", "hostname > /dev/termination-log; exec sleep 600"))
        )
    for node in (FIRST_NODE, SECOND):
        name = f"gpu-on-{node.name}"
        eventually("both to hold a GPU at the same time", lambda name=name: kubectl_of_pair.phase(name) == "Running")
        held = eventually(
            "the record of the holder",
            lambda node=node: [e["pod"] for e in gpu_events(pair, node) if e["event"] == "Held"],
        )
        assert held == [name]
        kubectl_of_pair("delete", "pod", name, f"--namespace={NAMESPACE}", "--now")
    with pytest.raises(ClusterError, match="has 2 nodes, and none is ever taken away"):
        pair.up(UpOptions(nodes=1))


@pytest.mark.parametrize(
    ("server", "client"), [(FIRST_NODE, SECOND), (SECOND, FIRST_NODE)], ids=["a server in node-1", "a server in node-2"]
)
def test_pods_of_two_nodes_reach_each_other_by_a_service_and_share_a_directory(
    server: Node, client: Node, pair: Cluster, kubectl_of_pair: Kubectl
) -> None:
    kubectl, name, in_namespace = kubectl_of_pair, f"on-{server.name}", f"--namespace={NAMESPACE}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "claimRef": {"namespace": NAMESPACE, "name": name},
            "hostPath": {"path": str(SHARED)},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    mounted = {
        "volumes": [{"name": "files", "persistentVolumeClaim": {"claimName": name}}],
        "container": {"volumeMounts": [{"name": "files", "mountPath": "/files"}]},
    }
    serve = f"mkdir /files/{name}; echo from {name} > /files/{name}/index.html; exec httpd -f -p 8080 -h /files/{name}"
    ask = f"until wget -q -O- http://{name}; do sleep 0.2; done; cat /files/{name}/index.html; hostname"
    kubectl.apply(volume, claim, service, at(server, pod(name, serve, **mounted)))
    kubectl.apply(at(client, pod(f"client-of-{name}", ask, **mounted)))
    eventually("the client to finish", lambda: kubectl.phase(f"client-of-{name}") == "Succeeded")
    said = kubectl("logs", f"client-of-{name}", in_namespace).splitlines()
    assert said == [f"from {name}", f"from {name}", f"client-of-{name}"]
    assert (pair.layout.shared / name / "index.html").read_text() == f"from {name}\n"
    assert kubectl("exec", name, in_namespace, "--", "echo", "inside") == "inside"
    placed = kubectl.get("pod", name, in_namespace)
    assert (placed["spec"]["nodeName"], placed["status"]["hostIP"]) == (server.name, server.address)
    kubectl("delete", "pod", name, f"client-of-{name}", in_namespace, "--now")


def test_what_runs_on_a_drained_node_goes_to_the_other(pair: Cluster, kubectl_of_pair: Kubectl) -> None:
    kubectl, in_namespace = kubectl_of_pair, f"--namespace={NAMESPACE}"
    template = pod("mover", "exec sleep 600")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "mover", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "mover"}},
            "template": {
                "metadata": {"labels": {"app": "mover"}},
                "spec": {**template["spec"], "restartPolicy": "Always"},
            },
        },
    }

    def place() -> str:
        pods = kubectl.get("pods", in_namespace, "--selector=app=mover", "--field-selector=status.phase=Running")[
            "items"
        ]
        return pods[0]["spec"]["nodeName"] if len(pods) == 1 else ""

    kubectl.apply(deployment)
    before = eventually("the pod to run", place)
    kubectl("drain", before, "--ignore-daemonsets", "--force", "--timeout=60s")
    try:
        after = eventually("the pod to run elsewhere", lambda: place() if place() != before else "")
        assert {before, after} == {FIRST_NODE.name, SECOND.name}
    finally:
        kubectl("uncordon", before)
        kubectl("delete", "deployment", "mover", in_namespace, "--wait")


def test_a_power_cut_of_the_second_node_leaves_the_first_alone(pair: Cluster, kubectl_of_pair: Kubectl) -> None:
    kubectl, in_namespace = kubectl_of_pair, f"--namespace={NAMESPACE}"
    for node in (FIRST_NODE, SECOND):
        steady = at(node, pod(f"steady-{node.number}", "exec sleep 600"))
        steady["spec"]["restartPolicy"] = "Always"
        kubectl.apply(steady)
    for node in (FIRST_NODE, SECOND):
        name = f"steady-{node.number}"
        eventually("both pods to run", lambda name=name: kubectl.phase(name) == "Running")

    def restarts(name: str) -> int:
        [status] = kubectl.get("pod", name, in_namespace)["status"]["containerStatuses"]
        return int(status["restartCount"]) if status["ready"] else -1

    def boot_id(node: Node) -> str:
        return str(kubectl.get("node", node.name)["status"]["nodeInfo"]["bootID"])

    before = [boot_id(FIRST_NODE), boot_id(SECOND)]
    kubectl("cordon", SECOND.name)
    pair.power_cut(SECOND)
    assert [pair.runs(FIRST_NODE), pair.runs(SECOND)] == [True, False]
    assert kubectl("get", "--raw=/readyz") == "ok"
    pair.up()
    kubectl("uncordon", SECOND.name)
    assert boot_id(FIRST_NODE) == before[0]
    assert boot_id(SECOND) != before[1]
    eventually("the second node's pod to be started again", lambda: restarts("steady-2") >= 1)
    assert restarts("steady-1") == 0
    kubectl("delete", "pod", "steady-1", "steady-2", in_namespace, "--now")


def test_both_nodes_are_there_again_after_the_cluster_was_down(pair: Cluster, kubectl_of_pair: Kubectl) -> None:
    pair.down(keep_data=True)
    assert not any(pair.runs(node) for node in pair.nodes)
    pair.up()
    kubectl_of_pair.apply(at(SECOND, gpu_pod("at-last", "true")))
    eventually("a pod of the second node to end", lambda: kubectl_of_pair.phase("at-last") == "Succeeded")


KIND = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KIND + "nodes:\n- role: control-plane\n", None),
        (KIND + "nodes:\n- role: control-plane\n  extraMount: []\n", "field extraMount not found"),
        (KIND + "networking:\n  podSubnet: nonsense\n", "invalid pod subnet"),
        (KIND.replace("v1alpha4", "v9"), "unknown apiVersion"),
    ],
)
def test_a_kind_configuration_is_judged_as_kind_itself_would(text: str, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / "kind-config.yaml"
    path.write_text(text)
    built = binaries.built()
    assert built is not None, "run `make cluster-build`"
    result = subprocess.run([built.bin / "kindcheck", path], capture_output=True, text=True, check=False)
    if expected is None:
        assert result.returncode == 0, result.stderr
        assert "1 node(s)" in result.stdout
    else:
        assert result.returncode == 1
        assert expected in result.stderr
