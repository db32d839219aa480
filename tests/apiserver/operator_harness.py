"""The operator as its own process before a real control plane, and the kubelet's part played by the test.

API server, Job controller and garbage collector are real. There is no kubelet: `Node` writes what it would write, so a
test decides when a pod starts, what it reports and how it ends. The operator has the rights the chart gives it and no
others.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from real_api import MERGE_PATCH, Document, Namespace, RealApi
from tests.loopback import free_ports

from azaion_api.names import JobStage, Kind, report_key, run_report
from azaion_api.outcome import AttemptReason, Termination
from azaion_api.report import IngestReport, RunReport, StorageReport
from azaion_api.training_run import DatasetStatus, EvaluationStatus, PublishedModel, Scores, Stage

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
IMAGE = "docker.io/azaion/trainer:0.1.0"
NODE = "node-1"
STAGES = {
    JobStage.PREPARE: Stage.PREPARING,
    JobStage.TRAIN: Stage.TRAINING,
    JobStage.EVALUATE: Stage.EVALUATING,
    JobStage.PUBLISH: Stage.PUBLISHING,
    JobStage.UPLOAD: Stage.PUBLISHING,
}
#: Of a run that uploads nowhere.
RUN_STAGES = tuple(stage for stage in STAGES if stage is not JobStage.UPLOAD)
DATASET = DatasetStatus(path="datasets/azaion-2026-11-22", train=70, valid=20, test=10)
SCORES = Scores(map50="0.95", map50to95="0.7", precision="0.9", recall="0.8", f1="0.85")


def eventually(
    what: str, look: Callable[[], T | None], timeout_s: float = 20, hint: Callable[[], str] = lambda: ""
) -> T:
    """The first truthy answer of `look`; fails saying what did not happen."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if answer := look():
            return answer
        if time.monotonic() > deadline_s:
            raise AssertionError(f"within {timeout_s:.0f} s this did not happen: {what}. {hint()}")
        time.sleep(0.02)


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_namespace(api: RealApi, name: str) -> Namespace:
    """A namespace of one test module's own."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert api.request("POST", "/api/v1/namespaces", body).status in (201, 409)
    return Namespace(api, name)


class Operator:
    """The operator's process. Its rights are the chart's Role in the test's namespace."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._directory = directory
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._kubeconfig = _with_the_charts_rights(namespace, directory)
        self.port = 0
        self.status_port = 0
        self.trainer_image = IMAGE
        #: More of the process's environment.
        self.environment: dict[str, str] = {}
        #: As in a pod: a restarted container keeps its pod's UID, and its Lease.
        self.pod_uid = "operator-pod"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self._directory.glob("operator-*.log")))

    def require_no_defect(self, told: int = 0) -> None:
        """Nothing told from that character of the log on is a defect, and nothing that was asked for was refused."""
        log = self.log[told:]
        assert "forbidden" not in log, log
        assert '"trace"' not in log, log

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        number = next(self._numbers)
        self.port, self.status_port = free_ports(2)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}
        environment |= {
            "KUBECONFIG": str(self._kubeconfig),
            "AZAION_NAMESPACE": self._namespace.name,
            "AZAION_POD_NAME": f"azaion-operator-{number}",
            "AZAION_POD_UID": self.pod_uid,
            "AZAION_TRAINER_IMAGE": self.trainer_image,
            "AZAION_CONSUMER_IMAGE": "docker.io/azaion/consumer:0.1.0",
            "AZAION_CLAIM": "azaion",
            "AZAION_HTTP_PORT": str(self.port),
            "AZAION_STATUS_PORT": str(self.status_port),
            **self.environment,
        }
        with (self._directory / f"operator-{number:03}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "azaion_operator", "run"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        if wait:
            eventually("the operator is ready", lambda: self.probe("/readyz")[0] == 200, 60, lambda: self.log[-3000:])

    def page(self, path: str = "/") -> tuple[int, str]:
        """Status and text of the status page."""
        return self._ask(self.status_port, path)

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a probe; 0 when nobody listens."""
        return self._ask(self.port, path)

    @staticmethod
    def _ask(port: int, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def kill(self) -> None:
        """As a power cut does it."""
        self._end(signal.SIGKILL)

    def stop(self) -> float:
        """As the kubelet does it; the seconds it took."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


def _with_the_charts_rights(namespace: Namespace, directory: Path) -> Path:
    """A kubeconfig of the operator's ServiceAccount, bound to the Role the chart gives it."""
    api = namespace.api
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "azaion-operator"}}
    api.output("apply", "-n", namespace.name, "-f", "-", stdin=account)
    for document in api.rendered("templates/operator-rights.yaml", namespace.name):
        api.output("apply", "-n", namespace.name, "-f", "-", stdin=document)
    token = api.output("create", "token", "-n", namespace.name, "azaion-operator", "--duration=2h").strip()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}],
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://{api.host}:{api.port}",
                    "certificate-authority-data": base64.b64encode(api.authority).decode(),
                },
            }
        ],
        "users": [{"name": "operator", "user": {"token": token}}],
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


class Node:
    """What controller manager and kubelet would write about the operator's Jobs."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._api = namespace.api
        self._sequences = itertools.count(1)
        # Pods on a node that does not exist are soon removed as orphans.
        self._api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})

    def path(self, resource: str, name: str = "", subresource: str = "") -> str:
        group = {"jobs": "/apis/batch/v1", "deployments": "/apis/apps/v1"}.get(resource, "/api/v1")
        parts = [f"{group}/namespaces/{self._namespace.name}/{resource}", name, subresource]
        return "/".join(part for part in parts if part)

    def clear(self) -> None:
        """Nothing is left of a test; the kubelet's part of deleting pods included."""
        for kind in Kind:
            self._api.request("DELETE", self._namespace.path(kind))
        self._api.request("DELETE", self.path("configmaps", "azaion-storage-report"))

        def gone() -> bool:
            for pod in self.items("pods"):
                self._api.request("DELETE", self.path("pods", pod["metadata"]["name"]), {"gracePeriodSeconds": 0})
            left = [*self.items("pods"), *self.items("jobs"), *self.items("deployments")]
            reports = [name for name in self.names("configmaps") if name.endswith("-report")]
            runs = self._api.request("GET", self._namespace.path(Kind.TRAINING_RUN)).object["items"]
            return not (left or reports or runs)

        eventually("everything of the test is gone", gone, 60, hint=self._story)

    def items(self, resource: str) -> list[Document]:
        items: list[Document] = self._api.request("GET", self.path(resource)).object["items"]
        return items

    def names(self, resource: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.items(resource))

    def get(self, resource: str, name: str) -> Document | None:
        answer = self._api.request("GET", self.path(resource, name))
        return None if answer.status == 404 else answer.object

    def patch(self, resource: str, name: str, patch: Document, subresource: str = "") -> bool:
        """Merge-patch; whether the object is there."""
        answer = self._api.request("PATCH", self.path(resource, name, subresource), patch, MERGE_PATCH)
        assert answer.status < 300 or answer.status == 404, answer.body
        return answer.status != 404

    # Storage

    def report_storage(self, **fields: Any) -> None:
        """What the storage pod would report; the chart makes the ConfigMap."""
        values: dict[str, Any] = {
            "pod_uid": "storage",
            "sequence": next(self._sequences),
            "time": datetime.now(UTC),
            "base_models": ("yolo26m.pt", "yolo26n.pt"),
            "images": {"data": 100},
            "capacity_bytes": 1000,
            "available_bytes": 500,
            "classes_present": True,
        } | fields
        data = {"storage.json": msgspec.json.encode(StorageReport(**values)).decode()}
        metadata = {"name": "azaion-storage-report", "labels": {"app.kubernetes.io/part-of": "azaion"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        answer = self._api.request("POST", self.path("configmaps"), body)
        if answer.status == 409:
            self.patch("configmaps", "azaion-storage-report", {"data": data})

    # Pods of runs

    def job(self, name: str) -> Document:
        """The Job, as soon as it is there."""
        return eventually(f"Job {name} is made", lambda: self.get("jobs", name), hint=self._story)

    def _story(self) -> str:
        """What is there, for a test that fails."""
        runs = self._api.request("GET", self._namespace.path(Kind.TRAINING_RUN)).object["items"]
        told = {run["metadata"]["name"]: brief(run.get("status", {})) for run in runs}
        jobs = {job["metadata"]["name"]: job.get("status", {}) for job in self.items("jobs")}
        return f"Runs: {told}. Jobs: {jobs}."

    def pod_of(self, job: Document) -> Document | None:
        """The newest pod the Job controller made for that Job."""
        uid = job["metadata"]["uid"]
        pods = [p for p in self.items("pods") if p["metadata"].get("ownerReferences", [{}])[0].get("uid") == uid]
        return max(pods, key=lambda p: p["metadata"]["creationTimestamp"], default=None)

    def bound_pod(self, job: Document) -> Document:
        """The Job's pod on the node, not started yet."""
        name = job["metadata"]["name"]
        pod = eventually(f"Job {name} has a pod", lambda: self.pod_of(job), hint=self._story)
        assert pod is not None
        self.bind(pod)
        return pod

    def bind(self, pod: Document) -> None:
        """As the scheduler does it; from now on a deletion of the pod waits for the kubelet."""
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        answer = self._api.request("POST", self.path("pods", name, "binding"), binding)
        assert answer.status < 300, answer.body

    def start_pod(self, job: Document) -> Document:
        """The Job's pod, running."""
        pod = self.bound_pod(job)
        self.set_pod(pod, "Running", {"running": {"startedAt": now_text()}})
        return pod

    def set_pod(self, pod: Document, phase: str, state: Document, **status: Any) -> None:
        container = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            # A merge patch keeps what it does not name.
            "state": {"running": None, "waiting": None, "terminated": None} | state,
        }
        values = {"phase": phase, "containerStatuses": [container]} | status
        self.patch("pods", pod["metadata"]["name"], {"status": values}, "status")

    def report(self, pod: Document, **fields: Any) -> None:
        """What the pod reports, written as its own reporter writes it."""
        labels = pod["metadata"]["labels"]
        stage = JobStage(labels["azaion.com/stage"])
        values: dict[str, Any] = {
            "pod_uid": pod["metadata"]["uid"],
            "sequence": next(self._sequences),
            "time": datetime.now(UTC),
            "stage": STAGES[stage],
        } | fields
        text = msgspec.json.encode(RunReport(**values)).decode()
        name = run_report(labels["azaion.com/training-run"])
        patch = {"data": {report_key(stage): text}}

        def written() -> bool:
            if self.patch("configmaps", name, patch):
                return True
            # What a pod of a deleted run says is for nobody.
            now = self.get("pods", pod["metadata"]["name"])
            return now is None or "deletionTimestamp" in now["metadata"]

        # The ConfigMap of a first run is made after its Job: a reporter tries again until it is there.
        eventually(f"the report of pod {pod['metadata']['name']} is written to {name}", written, hint=self._story)

    def end_pod(self, pod: Document, code: int = 0, word: str = "") -> None:
        """The pod's end as the kubelet writes it."""
        terminated: Document = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": pod["metadata"]["creationTimestamp"],
            "finishedAt": now_text(),
        }
        if word:
            terminated["message"] = Termination(reason=AttemptReason.CRASHED, message=word).encode().decode()
        self.set_pod(pod, "Succeeded" if code == 0 else "Failed", {"terminated": terminated})

    def remove(self, pod: Document) -> None:
        """The kubelet is done with a pod that was deleted."""
        path = self.path("pods", pod["metadata"]["name"])
        self._api.request("DELETE", path, {"gracePeriodSeconds": 0})
        # Its Job's controller lets go of it, which in a cluster that was just started takes a while.
        eventually("the pod is gone", lambda: self._api.request("GET", path).status == 404, 60, self._story)

    def complete(self, job_name: str) -> Document:
        """The whole life of a stage's pod that ends well."""
        job = self.job(job_name)
        pod = self.start_pod(job)
        self.report(pod, outcome=AttemptReason.COMPLETED, **last_words(pod))
        self.end_pod(pod)
        return pod

    def complete_run(self, run: str) -> None:
        """Every stage of a run that uploads nowhere."""
        for stage in RUN_STAGES:
            self.complete(f"{run}-{stage}-1")


def last_words(pod: Document) -> dict[str, Any]:
    """What the last report of a stage that ends well holds."""
    stage = JobStage(pod["metadata"]["labels"]["azaion.com/stage"])
    run = pod["metadata"]["labels"]["azaion.com/training-run"]
    trained = PublishedModel(role="trained", format="PyTorch", path=f"runs/{run}/best.pt", sha256="a" * 64)
    exported = PublishedModel(role="exported", format="ONNX", path=f"runs/{run}/best.onnx", sha256="b" * 64)
    deployed = PublishedModel(role="deployed", format="PyTorch", path=f"models/{run}/azaion.pt", sha256="a" * 64)
    found: dict[JobStage, dict[str, Any]] = {
        JobStage.PREPARE: {"dataset": DATASET},
        JobStage.TRAIN: {"models": (trained,)},
        JobStage.EVALUATE: {"evaluation": EvaluationStatus(new=SCORES, images=10), "models": (exported,)},
        JobStage.PUBLISH: {"models": (deployed,), "model_name": run},
    }
    return found[stage]


class BusyNode(threading.Thread):
    """A node that works by itself: it starts a pod for each Job, ends it one way or another, and watches the device.

    `endings` are exit codes drawn at random; 0 ends well. More than one live pod at the device at any moment is noted
    in `overlaps`.
    """

    def __init__(self, namespace: Namespace, endings: Sequence[int], seed: int) -> None:
        super().__init__(name="node", daemon=True)
        self._node = Node(namespace)
        self._endings = endings
        self._random = random.Random(seed)
        self._live: dict[str, tuple[Document, float]] = {}
        self._seen: set[str] = set()
        self._stopping = threading.Event()
        self.overlaps: list[list[str]] = []
        self.pods_made = 0
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.is_alive(), "the node did not stop"

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (AssertionError, OSError, http.client.HTTPException) as error:
                self.failure = error
                return

    def _look(self) -> None:
        for job in self._node.items("jobs"):
            pod = self._node.pod_of(job)
            if pod is None or pod["metadata"]["uid"] in self._seen or "deletionTimestamp" in pod["metadata"]:
                continue
            self._seen.add(pod["metadata"]["uid"])
            self._node.start_pod(job)
            self.pods_made += 1
            self._live[pod["metadata"]["name"]] = (pod, time.monotonic() + self._random.uniform(0, 0.05))
        self._watch_the_device()
        for name, (pod, end_s) in list(self._live.items()):
            if time.monotonic() >= end_s:
                self._end(pod)
                del self._live[name]

    def _watch_the_device(self) -> None:
        at_device = [
            pod["metadata"]["name"]
            for pod in self._node.items("pods")
            if pod["metadata"]["labels"].get("azaion.com/device") and pod["status"]["phase"] in ("Pending", "Running")
        ]
        if len(at_device) > 1:
            self.overlaps.append(at_device)

    def _end(self, pod: Document) -> None:
        code = self._random.choice(self._endings)
        if code == 0:
            self._node.report(pod, outcome=AttemptReason.COMPLETED, **last_words(pod))
        self._node.end_pod(pod, code)


@contextmanager
def busy(namespace: Namespace, endings: Sequence[int] = (0,), seed: int = 1) -> Iterator[BusyNode]:
    """A node that works by itself, on a connection of its own."""
    node = BusyNode(Namespace(RealApi(namespace.api.environment), namespace.name), endings, seed)
    node.start()
    try:
        yield node
    finally:
        node.stop()
        assert node.failure is None, node.failure


class Runs:
    """TrainingRuns of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def create(self, name: str, **spec: Any) -> Document:
        return self._namespace.create(Kind.TRAINING_RUN, name, spec).object

    def get(self, name: str) -> Document:
        return self._namespace.get(Kind.TRAINING_RUN, name)

    def patch(self, name: str, **spec: Any) -> None:
        answer = self._namespace.patch(Kind.TRAINING_RUN, name, {"spec": spec})
        assert answer.status == 200, answer.body

    def status(self, name: str) -> Document:
        found: Document = self.get(name).get("status", {})
        return found

    def until(self, name: str, timeout_s: float = 20, **wanted: Any) -> Document:
        """The status once it has these fields."""

        def look() -> Document | None:
            status = self.status(name)
            return status if all(status.get(k) == v for k, v in wanted.items()) else None

        found = eventually(
            f"run {name} shows {wanted}", look, timeout_s, lambda: f"It shows {brief(self.status(name))}"
        )
        assert found is not None
        return found

    def conditions(self, name: str) -> dict[str, tuple[str, str]]:
        return {c["type"]: (c["status"], c["reason"]) for c in self.status(name).get("conditions", ())}


def brief(status: Document) -> Document:
    """What matters of a status when a test fails."""
    attempts = [(a["stage"], a["number"], a.get("reason")) for a in status.get("attempts", ())]
    return {name: status.get(name) for name in ("phase", "stage", "message")} | {"attempts": attempts}


def ingest_report(pod_uid: str, sequence: int, **fields: Any) -> str:
    """What a consumer reports when all is well."""
    good = {"status": True, "reason": "Good", "message": ""}
    values = {
        "version": 1,
        "podUid": pod_uid,
        "sequence": sequence,
        "time": now_text(),
        "connected": good,
        "storageWritable": good,
        "caughtUp": good,
    } | fields
    return msgspec.json.encode(msgspec.convert(values, IngestReport)).decode()
