"""The platform on a real node, as a user handles it: kubectl, helm and nothing else."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import yaml
from tests.demo.access import ROOT, Access, DemoError, Object, output_of, wait_for
from tests.demo.annotations import Broker, publish
from tests.demo.clusters import NAMESPACE, RELEASE, TestCluster, chart_version
from tests.demo.story import BROKER_SECRET, COLOURS, STREAM_PORT, diagnosis, document

STREAM: Final = "azaion-annotations"
BROKER_USER: Final = "azaion_receiver"
OURS: Final = "app.kubernetes.io/part-of=azaion"
#: Nobody is there: that alerts are posted is tested with an Alertmanager of its own.
WEBHOOK: Final = "http://webhook.invalid/alerts"


class NotYetError(DemoError):
    """A status did not become what was wanted within its time."""


class Platform:
    """A release of the chart with a broker beside it, in one namespace of a test cluster."""

    def __init__(self, place: TestCluster, access: Access, *, monitored: bool = False) -> None:
        self.place = place
        self.access = access
        self._monitored = monitored

    # ---- installing ----

    def install(self, *settings: str, chart: Path = ROOT / "charts" / "azaion") -> None:
        """`helm upgrade --install --wait` of a chart with the values of the tests and `--set` settings."""
        values = ROOT / "build" / f"e2e-{self.place.name}.yaml"
        values.parent.mkdir(exist_ok=True)
        monitoring = {"monitoring": bundled_monitoring()} if self._monitored else {}
        classes = [{"Id": n, "Name": f"Digit{n}", "ShortName": str(n), "Color": c} for n, c in enumerate(COLOURS)]
        wanted = {"storage": {"size": "5Gi"}, "classes": classes, **monitoring, **self.place.values()}
        # An older chart refuses values it does not know.
        known = yaml.safe_load((chart / "values.yaml").read_text())
        values.write_text(yaml.safe_dump({key: wanted[key] for key in wanted if key in known}, sort_keys=False))
        flags = [flag for setting in settings for flag in ("--set", setting)]
        waiting = ("--wait", "--timeout", "5m")
        self.access.helm("upgrade", "--install", RELEASE, str(chart), *waiting, "-f", str(values), *flags)

    def start_broker(self) -> None:
        """The namespace, which enforces the restricted pod security level, the broker and its Secret."""
        labels = {"azaion.com/demo": "true", "pod-security.kubernetes.io/enforce": "restricted"}
        self.access.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
        if self.access.find("secret", BROKER_SECRET) is None:
            self.apply_secret(BROKER_SECRET, username=BROKER_USER, password=secrets.token_urlsafe(18))
        self.access.kubectl("apply", "-f", str(ROOT / "tests" / "broker" / "broker.yaml"))
        self.access.kubectl("rollout", "status", "deployment/rabbitmq", "--timeout=180s")

    def apply_secret(self, name: str, **data: str) -> None:
        self.access.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "stringData": data}
        )

    def password(self) -> str:
        """What the broker takes from the user of the tests."""
        template = "{{.data.password | base64decode}}"
        return self.access.kubectl("get", "secret", BROKER_SECRET, "-o", f"go-template={template}")

    def publish(self, entries: Sequence[bytes], stream: str = STREAM) -> None:
        """Stream entries, in order, confirmed by the broker."""
        with self.access.forward("service/rabbitmq", STREAM_PORT) as port:
            publish(Broker("127.0.0.1", port, BROKER_USER, self.password()), stream, entries, lambda _sent: None)

    # ---- resources ----

    def apply(self, kind: str, name: str, spec: Object) -> None:
        self.access.apply({"apiVersion": "azaion.com/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})

    def wait_status(
        self, kind: str, name: str, what: str, holds: Callable[[Object], object], timeout_s: float
    ) -> Object:
        """The status once `holds` it; the error shows the last one and what a person would look at."""
        seen: Object = {}

        def look() -> Object | None:
            seen.clear()
            seen.update(self.access.status(kind, name))
            return dict(seen) if holds(seen) else None

        try:
            return wait_for(f"{kind}/{name}: {what}", look, timeout_s, 0.5)
        except DemoError as error:
            shown = json.dumps(seen, indent=1)
            raise NotYetError(f"{error}\nstatus: {shown}\n{diagnosis(self.access)}") from error

    def wait_phase(self, name: str, phase: str, timeout_s: float) -> Object:
        """The run's status in that phase. A run that fails while something else is awaited ends the wait at once."""

        def holds(status: Object) -> bool:
            now = status.get("phase")
            if now == "Failed" and phase != "Failed":
                raise NotYetError(
                    f"trainingrun/{name} failed instead of {phase}: {status.get('message')}\n{diagnosis(self.access)}"
                )
            return bool(now == phase)

        return self.wait_status("trainingrun", name, f"phase {phase}", holds, timeout_s)

    def run_pods(self, run: str, stage: str) -> list[Object]:
        """The pods of a stage, oldest first."""
        selector = f"azaion.com/training-run={run},azaion.com/stage={stage}"
        return sorted(self.access.items("pods", "-l", selector), key=lambda p: str(p["metadata"]["creationTimestamp"]))

    def delete_run(self, name: str) -> None:
        self.access.kubectl("delete", "trainingrun", name, "--wait", "--ignore-not-found")

    def kill(self, pod: Object) -> None:
        """SIGKILL every process of the pod's containers, as the kernel or a crash would."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        for process in wait_for(f"a process of pod {name} runs", lambda: processes_of(uid), 240, 0.5):
            os.kill(process, signal.SIGKILL)

    # ---- looking ----

    def shell(self, script: str) -> str:
        """Output of a shell script at the storage's root, in the storage pod."""
        return self.access.on_volume("sh", "-c", f"cd /azaion && {script}").decode()

    def sha256(self, path: str) -> str:
        return self.shell(f"sha256sum {path}").split()[0]

    def series(self) -> str:
        """kube-state-metrics' text; on a busy machine its readiness probe may have failed for a moment."""
        service = f"/api/v1/namespaces/{NAMESPACE}/services/azaion-kube-state-metrics:http-metrics"
        return wait_for(
            "kube-state-metrics answers", lambda: self.access.kubectl("get", "--raw", f"{service}/proxy/metrics"), 60
        )

    def value(self, metric: str, **labels: str) -> float | None:
        """Value of the first series of that name with these labels."""
        for line in self.series().splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == metric and all(f'{key}="{wanted}"' in head for key, wanted in labels.items()):
                return float(value)
        return None

    def device_log(self) -> str:
        """What the test device's plugin handed out, a line each."""
        return self.cluster("logs", "gpu-events")

    # ---- breaking ----

    def cluster(self, *arguments: str) -> str:
        """A command of the test cluster: stop or start one of its components, cut its power, enter it."""
        name = ["--name", self.place.name]
        program = ["python3", "tests/cluster/cluster.py", arguments[0], *name, *arguments[1:]]
        return output_of(program, {}).decode()

    def drain(self, node: str) -> None:
        """Take what is the platform's off a node; the broker of the tests keeps its stream in the pod and stays."""
        self.access.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--pod-selector={OURS}",
            "--timeout=300s",
        )  # fmt: skip

    def epochs_on_disk(self, status: Object) -> list[int]:
        """The epochs that a run's results.csv holds, a row each."""
        rows = self.shell(f"cut -d, -f1 {status['directory']}/train/results.csv").split()[1:]
        return [int(row) for row in rows]

    def kill_operator(self) -> None:
        """SIGKILL the operator's processes; its pod is then removed, or the kubelet would back off ever longer."""
        for pod in self.access.items("pods", "-l", "app.kubernetes.io/component=operator"):
            for process in processes_of(pod["metadata"]["uid"]):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.access.kubectl(
            "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force"
        )


def bundled_monitoring() -> Object:
    """The chart's monitoring with the programs Debian ships; Grafana, Loki and Alloy are in no such package."""

    def image(name: str) -> Object:
        return {"image": {"registry": "docker.io", "repository": f"azaion/{name}", "tag": chart_version()}}

    return {
        "enabled": True,
        "prometheus": {**image("prometheus"), "storage": {"size": "1Gi"}},
        "alertmanager": {**image("alertmanager"), "webhook": {"url": WEBHOOK}},
        "nodeExporter": image("node-exporter"),
        "grafana": {"enabled": False},
        "dashboards": {"enabled": True},
    }


def processes_of(pod_uid: str) -> list[int]:
    """Processes on this machine that were started with that pod's UID in their environment."""
    wanted = f"AZAION_POD_UID={pod_uid}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if wanted in environment:
            found.append(int(entry.name))
    return found


def trains(status: Object) -> list[Object]:
    """A run's attempts at training, in order."""
    return [attempt for attempt in status["attempts"] if attempt["stage"] == "train"]


def condition(status: Object, type_: str) -> Object:
    """The condition of that type; empty when absent."""
    return next((dict(c) for c in status.get("conditions", []) if c["type"] == type_), {})


def sample(name: str) -> Object:
    """The spec of a file in samples/."""
    spec: Object = document(ROOT / "samples" / name)["spec"]
    return spec
