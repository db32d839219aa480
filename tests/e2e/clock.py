"""A clock that a test can move: of the operator and of a run's pods, which start with libfaketime before everything.

The library and the offset lie on the platform's volume; an admission policy of the API server gives them to pods. The
kubelet and the control plane keep the machine's clock, which belongs to whoever runs the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cluster import Cluster
from tests import faketime
from tests.demo.clusters import NAMESPACE
from tests.e2e.platform import Platform

_NAME: Final = "azaion-test-clock"
_MOUNT: Final = Path("/clock")
_LIBRARY: Final = "libfaketime.so"
_OFFSET: Final = "offset"
_GROUP: Final = "admissionregistration.k8s.io/v1"
_ENVIRONMENT: Final = faketime.environment(_MOUNT / _LIBRARY, _MOUNT / _OFFSET, cached_s=1)


class Clock:
    """The clock of the pods that start while it is there."""

    def __init__(self, platform: Platform, claim: str = "azaion") -> None:
        volume = platform.access.get("pvc", claim)["spec"]["volumeName"]
        volumes = Cluster(platform.place.name).layout.data / "volumes"
        self._platform, self._claim = platform, claim
        self._directory = volumes / f"{volume}_{NAMESPACE}_{claim}" / ".clock"

    def put_up(self) -> None:
        """From now on pods of runs, and the operator, start with this clock, which shows the right time."""
        self._directory.mkdir(exist_ok=True)
        (self._directory / _LIBRARY).write_bytes(faketime.library().read_bytes())
        self.move(0)
        self._platform.access.apply(self._policy(), self._binding())

    def take_down(self) -> None:
        """What runs by it keeps it until it ends."""
        self.move(0)
        kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings"
        self._platform.access.kubectl("delete", kinds, _NAME, "--ignore-not-found")

    def move(self, hours: int) -> None:
        """Set it so far from the right time; within a second everybody sees it."""
        beside = self._directory / ".offset"
        beside.write_text(f"{hours:+d}h\n")
        beside.replace(self._directory / _OFFSET)

    def _policy(self) -> dict[str, object]:
        variables = ", ".join(
            f'Object.spec.containers.env{{name: "{name}", value: "{value}"}}' for name, value in _ENVIRONMENT.items()
        )
        claim = f'Object.spec.volumes.persistentVolumeClaim{{claimName: "{self._claim}"}}'
        mount = f'{{name: "clock", mountPath: "{_MOUNT}", subPath: "{self._directory.name}", readOnly: true}}'
        expression = (
            "Object{spec: Object.spec{"
            f'volumes: [Object.spec.volumes{{name: "clock", persistentVolumeClaim: {claim}}}], '
            "containers: object.spec.containers.map(c, Object.spec.containers{"
            f"name: c.name, env: [{variables}], volumeMounts: [Object.spec.containers.volumeMounts{mount}]"
            "})}}"
        )
        pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        ours = (
            "has(object.metadata.labels) && ('azaion.com/training-run' in object.metadata.labels || "
            "object.metadata.labels[?'app.kubernetes.io/component'].orValue('') == 'operator')"
        )
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
        return {
            "apiVersion": _GROUP,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": _NAME},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {"namespaceSelector": namespace, "resourceRules": [pods]},
                "matchConditions": [{"name": "ours", "expression": ours}],
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
            },
        }

    @staticmethod
    def _binding() -> dict[str, object]:
        return {
            "apiVersion": _GROUP,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": _NAME},
            "spec": {"policyName": _NAME},
        }
