"""Starts Debian's Prometheus with a configuration that discovers targets in Kubernetes, which Debian leaves out.

A child process asks the API server every few seconds, with the pod's own token, for what `role: pod` and `role: node`
would find, and writes it with the same meta labels as files; the configuration is changed to read those. Standard
library only.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
INTERVAL_S = 3.0
Object = dict[str, Any]
Target = dict[str, Any]


def translated(config: str, directory: Path) -> str:
    """The configuration with files in the place of discovery; targets of a role are in DIRECTORY/ROLE.json."""
    lines, roles, skipping = [], {}, None
    source = config.splitlines()
    for number, line in enumerate(source):
        indent = len(line) - len(line.lstrip())
        if skipping is not None and line.strip() and indent > skipping:
            continue
        skipping = None
        found = re.match(r"\s*kubernetes_sd_configs: *([&*])(\w+)", line)
        if found is None:
            lines.append(line)
            continue
        if found[1] == "&":
            role = re.search(r"role: *(\w+)", source[number + 1])
            if role is None:
                raise ValueError(f"line {number + 2}: a role is expected: {source[number + 1]}")
            roles[found[2]] = role[1]
            skipping = indent
        path = directory / f"{roles[found[2]]}.json"
        lines.append(f"{' ' * indent}file_sd_configs: [{{files: [{path}], refresh_interval: 5s}}]")
    return "\n".join(lines) + "\n"


def pod_targets(pods: list[Object]) -> Iterator[Target]:
    """One target for each port of each container, as `role: pod` has it."""
    for pod in pods:
        address = pod["status"].get("podIP")
        if not address:
            continue
        labels = {
            "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_node_name": pod["spec"].get("nodeName", ""),
            "__meta_kubernetes_pod_phase": pod["status"].get("phase", ""),
            **{
                f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value
                for key, value in pod["metadata"].get("labels", {}).items()
            },
        }
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                own = {
                    "__meta_kubernetes_pod_container_name": container["name"],
                    "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                }
                yield {"targets": [f"{address}:{port['containerPort']}"], "labels": {**labels, **own}}


def node_targets(nodes: list[Object]) -> Iterator[Target]:
    """Each kubelet, as `role: node` has it."""
    for node in nodes:
        addresses = {found["type"]: found["address"] for found in node["status"]["addresses"]}
        port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        labels = {"__meta_kubernetes_node_name": node["metadata"]["name"]}
        yield {"targets": [f"{addresses['InternalIP']}:{port}"], "labels": labels}


def items(path: str) -> list[Object]:
    """A list of the API server. Raises OSError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(f"https://{host}:{port}{path}")
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text().strip()}")
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
        found: list[Object] = json.load(answer)["items"]
        return found


def write(path: Path, found: list[Target]) -> None:
    """Replace the file when it says something new."""
    text = json.dumps(found, sort_keys=True)
    if not path.exists() or path.read_text() != text:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.rename(path)


def discover(directory: Path, parent: int) -> None:
    """For as long as the parent lives."""
    namespace = (ACCOUNT / "namespace").read_text().strip()
    while os.getppid() == parent:
        try:
            write(directory / "pod.json", list(pod_targets(items(f"/api/v1/namespaces/{namespace}/pods"))))
            write(directory / "node.json", list(node_targets(items("/api/v1/nodes"))))
        except OSError as error:
            print(json.dumps({"level": "warn", "msg": f"targets cannot be discovered: {error}"}), flush=True)
        time.sleep(INTERVAL_S)


def main(arguments: list[str]) -> None:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments if "=" in argument)
    directory = Path(options["storage.tsdb.path"]) / "discovered"
    directory.mkdir(exist_ok=True)
    config = directory / "prometheus.yaml"
    config.write_text(translated(Path(options["config.file"]).read_text(), directory))
    parent = os.getpid()
    if os.fork() == 0:
        discover(directory, parent)
        os._exit(0)
    changed = [f"--config.file={config}" if a.startswith("--config.file=") else a for a in arguments]
    os.execv("/bin/prometheus", ["prometheus", *changed])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
