"""Watches that never two pods share the GPU: by the pods themselves, and by what the test device handed out.

It asks nothing of the operator and looks at none of its labels: a pod counts when it asks for nvidia.com/gpu.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.demo.access import Access

_COLUMNS = (
    "{.type} {.object.metadata.uid} {.object.metadata.name} {.object.status.phase}"
    " {.object.spec.containers[*].resources.limits.nvidia\\.com/gpu}{'\\n'}"
)


@dataclass
class GpuPods:
    """The pods that ask for the GPU and have not ended, and every moment when there was more than one."""

    live: dict[str, str] = field(default_factory=dict)
    overlaps: list[tuple[str, ...]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def see(self, line: str) -> None:
        """One line of a watch: type, UID, name, phase, and the GPUs it asks for."""
        type_, uid, name, phase, *gpus = line.split()
        if not gpus:
            return
        self.seen.add(uid)
        if type_ == "DELETED" or phase in ("Succeeded", "Failed"):
            self.live.pop(uid, None)
            return
        self.live[uid] = name
        if len(self.live) > 1:
            self.overlaps.append(tuple(sorted(self.live.values())))


def shared_devices(log: Iterable[str]) -> list[tuple[str, ...]]:
    """Every moment when the test device was held by more than one pod, by its own log."""
    holders: dict[str, set[str]] = {}
    found = []
    for line in log:
        event = json.loads(line)
        if event["event"] == "Started":
            holders.clear()  # a boot ended every pod; those that only outlived the plugin are Held anew
        if event["event"] not in ("Held", "Released"):
            continue
        pods = holders.setdefault(event["device"], set())
        (pods.add if event["event"] == "Held" else pods.discard)(event["pod"])
        if len(pods) > 1:
            found.append(tuple(sorted(pods)))
    return found


class Watch(threading.Thread, ABC):
    """`kubectl get --watch` line by line; begins anew whenever it breaks, as it does when the API server goes."""

    def __init__(self, access: Access, *command: str) -> None:
        super().__init__(name="watch", daemon=True)
        self._access = access
        self._command = ("kubectl", "-n", access.namespace, "get", *command, "--watch")
        self._stopping = threading.Event()
        self._watch: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Before each watch, whose first lines are what there is."""

    @abstractmethod
    def see(self, line: str) -> None:
        """One line that is not empty."""

    def run(self) -> None:
        while not self._stopping.is_set():
            self.begin()
            self._watch = subprocess.Popen(
                self._command,
                env={**os.environ, **self._access.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for line in self._watch.stdout or ():
                if line.strip():
                    self.see(line)
            self._watch.wait()
            self._stopping.wait(0.5)

    def stop(self) -> None:
        self._stopping.set()
        if self._watch is not None:
            self._watch.terminate()
        self.join(10)


class DeviceObserver(Watch):
    """Follows all pods of a namespace."""

    def __init__(self, access: Access) -> None:
        super().__init__(access, "pods", "--output-watch-events", "-o", f"jsonpath={_COLUMNS}")
        self.pods = GpuPods()

    def begin(self) -> None:
        # What ended meanwhile is no longer among the pods there are.
        self.pods.live.clear()

    def see(self, line: str) -> None:
        self.pods.see(line)
