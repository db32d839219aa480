"""How each process of a node is started: its command line and configuration. Pure, but for `write_configs`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testcluster.binaries import CNI_DIRECTORY
from testcluster.layout import (
    BUSYBOX_IMAGE,
    CLUSTER_CIDR,
    CLUSTER_DOMAIN,
    DNS_SERVICE_ADDRESS,
    FIRST_NODE,
    PAUSE_IMAGE,
    SERVICE_CIDR,
    Layout,
    Node,
)

# Inside a node's own mounts; see supervisor.py.
KINE_SOCKET = Path("/run/kine.sock")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
KUBELET_ROOT = Path("/var/lib/kubelet")
CONTAINERD_ROOT = Path("/var/lib/containerd")
# Where k3s keeps the volumes of its local-path storage class.
VOLUMES = Path("/var/lib/rancher/k3s/storage")
# The one directory all nodes have in common.
SHARED = Path("/var/lib/azaion-test-shared")

LISTENER_DESCRIPTOR = 3
# kine's own defaults, which k3s runs with; naming a file drops them, so they are said again.
_SQLITE_OPTIONS = (
    "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
)
PROVISIONER_NAMESPACE = "kube-system"
PROVISIONER_CONFIG_MAP = "local-path-config"
PROVISIONER_ACCOUNT = "local-path-provisioner-service-account"


@dataclass(frozen=True)
class Component:
    """A process of a node, kept running until it is told to stop."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_listener: bool = False
    # What must answer before the next component is worth starting: a socket, or the API server's port.
    wait_for: Path | int | None = None


@dataclass(frozen=True)
class NodeSpec:
    """What a node is started with: the first one with the control plane, or that alone; `layout` is seen from it."""

    layout: Layout
    binaries: Path
    port: int
    control_plane_only: bool
    audit: bool

    @property
    def node(self) -> Node:
        return self.layout.node


def _kubeconfig(spec: NodeSpec, user: str, certificates: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "local",
                "cluster": {
                    "server": f"https://127.0.0.1:{spec.port}",
                    "certificate-authority": str(spec.layout.pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate": str(certificates / f"{user}.crt"),
                    "client-key": str(certificates / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "current-context": "local",
    }


def _kubelet_config(spec: NodeSpec) -> dict[str, Any]:
    pki = spec.layout.node_pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(spec.layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-serving.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-serving.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(spec.layout.config / "resolv.conf"),
        "volumePluginDir": str(KUBELET_ROOT / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{spec.layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        # How soon a device that came or went is seen in the node's status.
        "nodeStatusUpdateFrequency": "2s",
        # A developer's disk is often nearly full, and an image collected here cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "200Mi",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "200Mi",
            "imagefs.inodesFree": "0%",
        },
    }


def _containerd_config(spec: NodeSpec) -> str:
    runtime = 'runtime_type = "io.containerd.runc.v2"'
    return f"""version = 3
root = "{CONTAINERD_ROOT}"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Lowering a score is not allowed in every container this cluster itself may run in.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_DIRECTORY}"]
  conf_dir = "{spec.layout.config / "cni"}"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  {runtime}

# k3s offers this handler where it finds the GPU toolkit; pods with runtimeClassName nvidia start here as well.
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia]
  {runtime}
"""


def _cni_config(node: Node) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "azaion-test",
        "plugins": [
            {
                # Routed, not bridged: packets between pods of one node pass the Service rules without br_netfilter.
                "type": "ptp",
                "ipMasq": False,
                # In a tmpfs: after a restart every pod gets a new sandbox, and old leases would only leak.
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": node.pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def _corefile(spec: NodeSpec) -> str:
    return f""".:53 {{
    bind {FIRST_NODE.address}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {spec.layout.config / "coredns.kubeconfig"}
        ttl 5
    }}
    # A name outside of the cluster does not exist, as a name server with a world behind it would say.
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def provisioner_config() -> dict[str, Any]:
    """The local-path-provisioner's config.json."""
    return {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [str(VOLUMES)]}]}


def provisioner_helper_pod() -> dict[str, Any]:
    """The pod that makes and removes a volume's directory on the node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {
            "priorityClassName": "system-node-critical",
            "tolerations": [{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [{"name": "helper-pod", "image": BUSYBOX_IMAGE, "imagePullPolicy": "Never"}],
        },
    }


def config_files(spec: NodeSpec) -> Mapping[Path, str]:
    """Every configuration file of the node's processes, by path."""
    config, node = spec.layout.config, spec.node
    files = {
        config / "kube-proxy.kubeconfig": json.dumps(_kubeconfig(spec, "kube-proxy", spec.layout.pki)),
        config / "node.kubeconfig": json.dumps(_kubeconfig(spec, "node", spec.layout.node_pki)),
        config / "kubelet.json": json.dumps(_kubelet_config(spec), indent=1),
        config / "containerd.toml": _containerd_config(spec),
        config / "cni" / "10-azaion-test.conflist": json.dumps(_cni_config(node)),
        # There is no network beyond the cluster's own, so its DNS is the only server there is.
        config / "resolv.conf": f"nameserver {DNS_SERVICE_ADDRESS}\n",
        config / "hosts": f"127.0.0.1 localhost\n{node.address} {node.name}\n",
    }
    return files | _control_plane_files(spec) if node.first else files


def _control_plane_files(spec: NodeSpec) -> dict[Path, str]:
    config = spec.layout.config
    users = ["kube-controller-manager", "kube-scheduler", "coredns", "local-path-provisioner"]
    return {
        **{config / f"{user}.kubeconfig": json.dumps(_kubeconfig(spec, user, spec.layout.pki)) for user in users},
        config / "Corefile": _corefile(spec),
        config / "audit-policy.json": json.dumps(
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived"],
                "rules": [{"level": "Metadata"}],
            }
        ),
        config / "local-path" / "config.json": json.dumps(provisioner_config()),
        config / "local-path" / "helperPod.yaml": json.dumps(provisioner_helper_pod()),
    }


def write_configs(spec: NodeSpec) -> None:
    """Write every configuration file."""
    for path, text in config_files(spec).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _apiserver(spec: NodeSpec) -> Component:
    pki, config = spec.layout.pki, spec.layout.config
    audit = (
        [
            f"--audit-policy-file={config / 'audit-policy.json'}",
            f"--audit-log-path={spec.layout.audit_log}",
            "--audit-log-maxsize=500",
            "--audit-log-maxbackup=2",
        ]
        if spec.audit
        else []
    )
    return Component(
        name="kube-apiserver",
        command=[
            str(spec.binaries / "kube-apiserver"),
            f"--etcd-servers=unix://{KINE_SOCKET}",
            f"--advertise-address={FIRST_NODE.address}",
            # The same port inside and outside, so that one kubeconfig serves both.
            f"--secure-port={spec.port}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy.key'}",
            "--enable-aggregator-routing=true",
            *audit,
        ],
        wait_for=spec.port,
    )


def _controller_manager(spec: NodeSpec) -> Component:
    pki, kubeconfig = spec.layout.pki, spec.layout.config / "kube-controller-manager.kubeconfig"
    return Component(
        name="kube-controller-manager",
        command=[
            str(spec.binaries / "kube-controller-manager"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
        ],
    )


def _kine(spec: NodeSpec) -> Component:
    return Component(
        name="kine",
        command=[
            str(spec.binaries / "kine"),
            f"--endpoint=sqlite://{spec.layout.data / 'kine.db'}?{_SQLITE_OPTIONS}",
            f"--listen-address=unix://{KINE_SOCKET}",
            "--metrics-bind-address=0",
        ],
        wait_for=KINE_SOCKET,
    )


def _forward(spec: NodeSpec, to: str, wait_for: int | None = None) -> Component:
    return Component(
        name="forward",
        command=[
            str(spec.binaries / "node-tools"),
            "forward",
            f"--listen-fd={LISTENER_DESCRIPTOR}",
            f"--to={to}:{spec.port}",
        ],
        needs_listener=True,
        wait_for=wait_for,
    )


def _containerd(spec: NodeSpec) -> Component:
    return Component(
        name="containerd",
        command=[str(spec.binaries / "containerd"), f"--config={spec.layout.config / 'containerd.toml'}"],
        # containerd finds its shim on the PATH.
        environment={"PATH": f"{spec.binaries}:/usr/sbin:/usr/bin:/sbin:/bin"},
        wait_for=CONTAINERD_SOCKET,
    )


def _kubelet(spec: NodeSpec) -> Component:
    config = spec.layout.config
    return Component(
        name="kubelet",
        command=[
            str(spec.binaries / "kubelet"),
            f"--config={config / 'kubelet.json'}",
            f"--kubeconfig={config / 'node.kubeconfig'}",
            f"--hostname-override={spec.node.name}",
            f"--node-ip={spec.node.address}",
            f"--root-dir={KUBELET_ROOT}",
            f"--cert-dir={KUBELET_ROOT / 'pki'}",
        ],
    )


def _scheduler(spec: NodeSpec) -> Component:
    kubeconfig = spec.layout.config / "kube-scheduler.kubeconfig"
    return Component(
        name="kube-scheduler",
        command=[
            str(spec.binaries / "kube-scheduler"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
        ],
    )


def _proxy(spec: NodeSpec) -> Component:
    return Component(
        name="kube-proxy",
        command=[
            str(spec.binaries / "kube-proxy"),
            f"--kubeconfig={spec.layout.config / 'kube-proxy.kubeconfig'}",
            f"--hostname-override={spec.node.name}",
            f"--cluster-cidr={CLUSTER_CIDR}",
            "--proxy-mode=nftables",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ],
    )


def _coredns(spec: NodeSpec) -> Component:
    return Component(
        name="coredns", command=[str(spec.binaries / "coredns"), "-conf", str(spec.layout.config / "Corefile")]
    )


def _provisioner(spec: NodeSpec) -> Component:
    config = spec.layout.config
    return Component(
        name="local-path-provisioner",
        command=[
            str(spec.binaries / "local-path-provisioner"),
            "start",
            f"--config={config / 'local-path' / 'config.json'}",
            f"--helper-pod-file={config / 'local-path' / 'helperPod.yaml'}",
            f"--configmap-name={PROVISIONER_CONFIG_MAP}",
            f"--namespace={PROVISIONER_NAMESPACE}",
            f"--service-account-name={PROVISIONER_ACCOUNT}",
            f"--helper-image={BUSYBOX_IMAGE}",
            f"--kubeconfig={config / 'local-path-provisioner.kubeconfig'}",
        ],
        environment={"CONFIG_MOUNT_PATH": str(config / "local-path")},
    )


def _gpu(spec: NodeSpec) -> Component:
    return Component(
        name="gpu-device-plugin",
        command=[str(spec.binaries / "node-tools"), "gpu-device-plugin", f"--log={spec.layout.gpu_log}"],
    )


def components(spec: NodeSpec) -> Sequence[Component]:
    """Every process of the node, in the order of starting."""
    if not spec.node.first:
        return [
            _containerd(spec),
            # As on an agent of k3s: what runs here finds the API server at the address it has on the first node.
            _forward(spec, FIRST_NODE.address, wait_for=spec.port),
            _kubelet(spec),
            _proxy(spec),
            _gpu(spec),
        ]
    control_plane = [_kine(spec), _apiserver(spec), _forward(spec, "127.0.0.1"), _controller_manager(spec)]
    if spec.control_plane_only:
        return control_plane
    return [
        _containerd(spec),
        *control_plane,
        _kubelet(spec),
        _scheduler(spec),
        _proxy(spec),
        _coredns(spec),
        _provisioner(spec),
        _gpu(spec),
    ]
