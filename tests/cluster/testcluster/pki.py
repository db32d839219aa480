"""Who is who in a cluster: its authorities and its processes' certificates, and those of the nodes that join it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from testcluster.layout import API_SERVICE_ADDRESS, FIRST_NODE, ClusterError, Layout

# As long as the authority's own: a cluster kept on disk must start again after a year as well.
_LIFETIME_DAYS = 3650


def make_cluster_certificates(layout: Layout, node_tools: Path) -> None:
    """Every key and certificate of a cluster with one node. Raises ClusterError."""
    addresses = f"{FIRST_NODE.address},{API_SERVICE_ADDRESS}"
    flags = [f"--dir={layout.pki}", f"--node={FIRST_NODE.name}", f"--addresses={addresses}"]
    _run([str(node_tools), "pki", *flags])


def make_node_certificates(layout: Layout) -> None:
    """What the kubelet of a further node shows the API server, and those who ask it. Raises ClusterError."""
    node = layout.node
    layout.node_pki.mkdir(parents=True, exist_ok=True)
    hosts = f"DNS:{node.name},DNS:localhost,IP:127.0.0.1,IP:{node.address}"
    _issue(layout, "node", "extendedKeyUsage = clientAuth")
    _issue(layout, "kubelet-serving", f"extendedKeyUsage = serverAuth\nsubjectAltName = {hosts}")


def _issue(layout: Layout, name: str, extensions: str) -> None:
    certificate, key = layout.node_pki / f"{name}.crt", layout.node_pki / f"{name}.key"
    if certificate.exists():
        return
    wanted = f"""
[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
[subject]
O = system:nodes
CN = system:node:{layout.node.name}
[extensions]
keyUsage = critical, digitalSignature
{extensions}
"""
    command = [
        "openssl", "req", "-x509", "-config", "/dev/stdin", "-CA", str(layout.pki / "ca.crt"),
        "-CAkey", str(layout.pki / "ca.key"), "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
        "-days", str(_LIFETIME_DAYS), "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    _run(command, wanted)


def _run(command: Sequence[str], text: str = "") -> None:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ClusterError(f"{' '.join(command[:2])} made no certificates: {result.stderr.strip()[-1000:]}")
