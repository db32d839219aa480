"""What a new cluster's API server is given: the marker, DNS, the storage class and the rights of their processes."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from testcluster.components import PROVISIONER_ACCOUNT, PROVISIONER_CONFIG_MAP, PROVISIONER_NAMESPACE
from testcluster.layout import DNS_SERVICE_ADDRESS, FIRST_NODE, MARKER_NAME, MARKER_NAMESPACE, ClusterError, Layout

_FIELD_MANAGER = "azaion-test-cluster"

# (apiVersion, kind) -> the path of its collection; `{namespace}` where it is namespaced.
_COLLECTIONS: Mapping[tuple[str, str], str] = {
    ("v1", "ConfigMap"): "/api/v1/namespaces/{namespace}/configmaps",
    ("v1", "Service"): "/api/v1/namespaces/{namespace}/services",
    ("v1", "ServiceAccount"): "/api/v1/namespaces/{namespace}/serviceaccounts",
    ("discovery.k8s.io/v1", "EndpointSlice"): "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
    ("node.k8s.io/v1", "RuntimeClass"): "/apis/node.k8s.io/v1/runtimeclasses",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    ("storage.k8s.io/v1", "StorageClass"): "/apis/storage.k8s.io/v1/storageclasses",
}


def _check(status: int, request: str, answer: object) -> None:
    if status >= http.client.INTERNAL_SERVER_ERROR or status == http.client.TOO_MANY_REQUESTS:
        raise OSError(f"the API server is not able to serve {request} now ({status}): {answer}")
    if status >= http.client.BAD_REQUEST:
        raise ClusterError(f"the API server refuses {request} ({status}): {answer}")


class Api:
    """The API server of one cluster, spoken to from the machine as the cluster's administrator."""

    def __init__(self, layout: Layout, port: int) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        self._tls.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer of one request; a text that is not JSON is returned as it is. Raises OSError."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=10)
        try:
            headers = {"Content-Type": "application/apply-patch+yaml"} if method == "PATCH" else {}
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content.decode(errors="replace")

    def get(self, path: str) -> Any:
        """The object or list at the path, or None when there is none. Raises OSError to be retried, ClusterError."""
        status, answer = self.request("GET", path)
        if status == http.client.NOT_FOUND:
            return None
        _check(status, f"GET {path}", answer)
        return answer

    def apply(self, document: Mapping[str, Any]) -> None:
        """Make the object what the document says (server-side apply). Raises OSError to be retried, ClusterError."""
        metadata = document["metadata"]
        collection = _COLLECTIONS[document["apiVersion"], document["kind"]]
        path = f"{collection.format(namespace=metadata.get('namespace'))}/{metadata['name']}"
        status, answer = self.request("PATCH", f"{path}?fieldManager={_FIELD_MANAGER}&force=true", document)
        _check(status, f"{document['kind']} {metadata['name']}", answer)


def _object(api_version: str, kind: str, name: str, namespace: str | None = None, **fields: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata |= fields.pop("metadata", {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def _rights(user: str, rules: Sequence[Mapping[str, Sequence[str]]]) -> list[dict[str, Any]]:
    rbac = "rbac.authorization.k8s.io"
    return [
        _object(f"{rbac}/v1", "ClusterRole", user, rules=list(rules)),
        _object(
            f"{rbac}/v1",
            "ClusterRoleBinding",
            user,
            roleRef={"apiGroup": rbac, "kind": "ClusterRole", "name": user},
            subjects=[{"apiGroup": rbac, "kind": "User", "name": user}],
        ),
    ]


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


_READ = ("get", "list", "watch")


def marker(marker_id: str) -> dict[str, Any]:
    """The object by which destructive tests know a cluster as one they may destroy."""
    return _object("v1", "ConfigMap", MARKER_NAME, MARKER_NAMESPACE, data={"id": marker_id})


def _dns() -> list[dict[str, Any]]:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    return [
        *_rights(
            "system:coredns",
            [
                _rule("", ("endpoints", "services", "pods", "namespaces"), ("list", "watch")),
                _rule("discovery.k8s.io", ("endpointslices",), ("list", "watch")),
            ],
        ),
        # Without a selector: CoreDNS is a process of the first node, so its endpoint is written here by hand.
        _object(
            "v1",
            "Service",
            "kube-dns",
            "kube-system",
            metadata={"labels": labels},
            spec={"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        ),
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "kube-dns",
            "kube-system",
            metadata={
                "labels": {
                    "kubernetes.io/service-name": "kube-dns",
                    "endpointslice.kubernetes.io/managed-by": _FIELD_MANAGER,
                }
            },
            addressType="IPv4",
            endpoints=[{"addresses": [FIRST_NODE.address], "conditions": {"ready": True}}],
            ports=ports,
        ),
    ]


def _storage() -> list[dict[str, Any]]:
    return [
        *_rights(
            "system:local-path-provisioner",
            [
                _rule("", ("nodes", "persistentvolumeclaims", "configmaps", "pods", "pods/log"), _READ),
                _rule("", ("persistentvolumes", "pods"), (*_READ, "create", "patch", "update", "delete")),
                _rule("", ("endpoints",), (*_READ, "create", "update", "patch")),
                _rule("", ("events",), ("create", "patch")),
                _rule("storage.k8s.io", ("storageclasses",), _READ),
            ],
        ),
        _object("v1", "ServiceAccount", PROVISIONER_ACCOUNT, PROVISIONER_NAMESPACE),
        _object(
            "v1",
            "ConfigMap",
            PROVISIONER_CONFIG_MAP,
            PROVISIONER_NAMESPACE,
            data={
                "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\nchmod 0777 "$VOL_DIR"\n',
                "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
            },
        ),
        _object(
            "storage.k8s.io/v1",
            "StorageClass",
            "local-path",
            metadata={"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            provisioner="rancher.io/local-path",
            reclaimPolicy="Delete",
            volumeBindingMode="WaitForFirstConsumer",
        ),
    ]


def node_objects() -> list[dict[str, Any]]:
    """Everything a cluster with a node has beyond what Kubernetes makes by itself."""
    return [*_dns(), *_storage(), _object("node.k8s.io/v1", "RuntimeClass", "nvidia", handler="nvidia")]
