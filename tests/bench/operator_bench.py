"""`make bench-operator`: the operator before a real API server, against a bare client doing the same writes.

Each run has an operator and a bare client of its own, in namespaces of their own, and yields one line of figures in
build/bench-operator.jsonl. The report is made over the newest runs there, so that a long series may be taken in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
for _directory in (_HERE.parents[1], _HERE, _HERE.parent / "apiserver", _HERE.parent / "cluster"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

import msgspec  # noqa: E402
from bare_client import MERGE_PATCH, BareClient, Document, Watching, side_by_side  # noqa: E402
from cluster import Cluster, UpOptions  # noqa: E402
from figures import Figure, judged, percentile, table  # noqa: E402
from operator_harness import Node, Operator, new_namespace, now_text  # noqa: E402
from real_api import Namespace, RealApi  # noqa: E402

from azaion_api.report import RunReport, TrainingProgress  # noqa: E402
from azaion_api.training_run import Stage  # noqa: E402

ROOT = _HERE.parents[1]
RESULTS = ROOT / "build" / "bench-operator.jsonl"
RECORDED = _HERE / "recorded.json"
MANY = 1000
EPOCHS = 200
REPORTING = 100
ROUNDS = 5
APPLIES = 20
AT_REST_S = 60.0
#: A cluster is idle when what followed from the last deletion is over as well.
IDLE_S = 0.5
#: An operator that started lists everything after 5 and after 35 s once more, and every 5 minutes from then on.
STARTED_S = 45.0
RUNS_PATH = "/apis/azaion.com/v1alpha1/namespaces/{}/trainingruns"
REPORT = "run-report"

Row = dict[str, float]


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def summed(name: str, seconds: list[float]) -> Row:
    """Milliseconds of a series: its median and its slow end."""
    return {f"{name} p50": 1000 * percentile(seconds, 50), f"{name} p99": 1000 * percentile(seconds, 99)}


#: API groups of what is not core.
GROUPS = {
    "jobs": "apis/batch/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
}


def path(namespace: str, resource: str, name: str = "") -> str:
    parts = (GROUPS.get(resource, "api/v1"), "namespaces", namespace, resource, name)
    return "/" + "/".join(part for part in parts if part)


def runs_path(namespace: str, name: str = "", part: str = "") -> str:
    return "/".join(p for p in (RUNS_PATH.format(namespace), name, part) if p)


def a_run(name: str, **spec: Any) -> Document:
    return {"apiVersion": "azaion.com/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}


def report_text(pod_uid: str, epoch: int) -> str:
    """What a training pod writes at the end of an epoch."""
    progress = TrainingProgress(completed_epochs=epoch, epochs=9999, batch=11, map50=0.5, map50to95=0.25)
    report = RunReport(pod_uid=pod_uid, sequence=epoch, time=datetime.now(UTC), stage=Stage.TRAINING, training=progress)
    return msgspec.json.encode(report).decode()


class Bench:
    """One run of all rows."""

    def __init__(self, cluster: Cluster, number: int, directory: Path) -> None:
        self._environment = cluster.environment()
        self._kubeconfig = str(cluster.kubeconfig)
        api = RealApi(self._environment)
        self._namespace = new_namespace(api, f"bench-{os.getpid()}-{number}")
        self._bare = new_namespace(api, f"bench-{os.getpid()}-{number}-bare").name
        self._operator = Operator(self._namespace, directory)
        self._started = 0.0

    @property
    def _node(self) -> Node:
        """On a new connection: the API server closes those that were idle for long."""
        return Node(Namespace(RealApi(self._environment), self._namespace.name))

    @property
    def _ours(self) -> str:
        return self._namespace.name

    async def run(self) -> Row:
        """Every row's figures."""
        self._operator.start()
        self._node.report_storage()
        try:
            async with BareClient.connect(self._kubeconfig) as client:
                row: Row = {}
                for step in (self._applies, self._one_reports, self._many_report, self._thousand, self._rest):
                    say(step.__name__.strip("_").replace("_", " "))
                    row |= await step(client)
                self._operator.require_no_defect()
                say("clean up")
                await self._clean_up(client)
                return row
        except TimeoutError:
            print(self._operator.log[-8000:], flush=True)
            raise
        finally:
            self._operator.kill()

    async def _clean_up(self, client: BareClient) -> None:
        """Until thousands of objects are gone: the next run would be measured beside their deletion."""
        places = [f"/api/v1/namespaces/{namespace}" for namespace in (self._ours, self._bare)]
        for place in places:
            await client.request("DELETE", place)
        async with asyncio.timeout(300):
            for place in places:
                while (await client.request("GET", place, missing_ok=True))["kind"] == "Namespace":
                    await asyncio.sleep(1)

    # From apply to Job

    async def _applies(self, client: BareClient) -> Row:
        ours, theirs = [], []
        async with Watching(client, path(self._ours, "jobs")) as jobs:
            for number in range(APPLIES):
                name = f"apply-{number}"
                began = time.monotonic()
                await client.request("POST", runs_path(self._ours), a_run(name))
                await jobs.until(f"the Job of {name}", lambda o, n=name: f"{n}-prepare-1" in o)
                ours.append(time.monotonic() - began)
                released = (await client.request("GET", runs_path(self._ours, name)))["status"]
                await client.request("DELETE", runs_path(self._ours, name))
                await self._gone(client, jobs)
                await asyncio.sleep(IDLE_S)
        release = partial(self._bare_release, released)
        async with Watching(client, path(self._bare, "jobs")) as jobs, self._bare_operator(client, release):
            for number in range(APPLIES):
                await asyncio.sleep(IDLE_S)
                name = f"apply-{number}"
                began = time.monotonic()
                await client.request("POST", runs_path(self._bare), a_run(name))
                await jobs.until(f"the bare Job of {name}", lambda o, n=name: f"{n}-prepare-1" in o)
                theirs.append(time.monotonic() - began)
                await client.request("DELETE", runs_path(self._bare, name))
        return self._compared("apply to Job", ours, theirs)

    async def _gone(self, client: BareClient, jobs: Watching) -> None:
        """Until nothing is left at the device, and the operator has seen that."""
        await jobs.until("the Job is gone", lambda objects: not objects)
        async with Watching(client, path(self._ours, "pods")) as pods:
            await pods.until("the pods are gone", lambda objects: not objects)
        async with asyncio.timeout(10):
            while "azaion_operator_queue_length 0.0" not in await asyncio.to_thread(self._metrics):
                await asyncio.sleep(0.05)

    def _metrics(self) -> str:
        return self._operator.probe("/metrics")[1]

    async def _bare_release(self, status: Document, client: BareClient, run: Document) -> None:
        """The writes of a release, in the same order, by nobody in particular."""
        if run.get("status"):
            return
        name, namespace = run["metadata"]["name"], self._bare
        owner = {
            "apiVersion": run["apiVersion"],
            "kind": run["kind"],
            "name": name,
            "uid": run["metadata"]["uid"],
            "controller": True,
        }
        meta = {"name": f"{name}-run", "ownerReferences": [owner]}
        group = "rbac.authorization.k8s.io"
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["x"], "verbs": ["get", "patch"]}]
        bodies = {
            "configmaps": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta},
            "serviceaccounts": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            "roles": {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
            "rolebindings": {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": f"{name}-run"},
                "subjects": [{"kind": "ServiceAccount", "name": f"{name}-run", "namespace": namespace}],
            },
            "jobs": _plain_job(f"{name}-prepare-1", {}, owner),
        }

        async def post(*resources: str) -> None:
            for resource in resources:
                await client.request("POST", path(namespace, resource), bodies[resource])

        written = client.request("PUT", runs_path(namespace, name, "status"), {**run, "status": status})
        await asyncio.gather(written, post("configmaps"), post("serviceaccounts"))
        await post("jobs", "roles", "rolebindings")

    @asynccontextmanager
    async def _bare_operator(
        self, client: BareClient, react: Callable[[BareClient, Document], Coroutine[Any, Any, None]], resource: str = ""
    ) -> AsyncIterator[None]:
        """Somebody who does `react` for every change of a run, or of another resource.

        What goes wrong with that ends the bench at once, as an ExceptionGroup: nobody would see the writes left out.
        """
        where = path(self._bare, resource) if resource else runs_path(self._bare)
        listed = await client.request("GET", where)

        async def follow(reactions: asyncio.TaskGroup) -> None:
            async for type_, item in client.watch(where, listed["metadata"]["resourceVersion"]):
                if type_ == "ERROR":
                    raise RuntimeError(f"the watch of {where} ended: {item.get('message')}")
                if type_ != "DELETED":
                    reactions.create_task(react(client, item))
            raise RuntimeError(f"the watch of {where} ended")

        async with asyncio.TaskGroup() as reactions:
            following = reactions.create_task(follow(reactions))
            try:
                yield
            finally:
                following.cancel()

    # From the end of an epoch to the status

    async def _one_reports(self, client: BareClient) -> Row:
        name = "active"
        await client.request("POST", runs_path(self._ours), a_run(name, training={"epochs": 9999}))
        await asyncio.to_thread(self._node.complete, f"{name}-prepare-1")
        node = self._node
        pod = await asyncio.to_thread(lambda: node.start_pod(node.job(f"{name}-train-1")))
        uids = {name: pod["metadata"]["uid"]}
        ours = await self._report(client, self._ours, uids, f"{name}-run-report", range(1, EPOCHS + 1))
        theirs = await self._bare_reports(client, (name,), range(1, EPOCHS + 1))
        await self._delete_run(client, name)
        return self._compared("epoch to status, one run", ours, theirs)

    async def _report(
        self, client: BareClient, namespace: str, uids: dict[str, str], config_map: str, epochs: range
    ) -> list[float]:
        """Seconds from each report's write to the run showing it; all runs report side by side, epoch by epoch."""
        took: list[float] = []

        def shows(objects: dict[str, Document], name: str, epoch: int) -> bool:
            return bool(objects[name].get("status", {}).get("completedEpochs", 0) >= epoch)

        async with Watching(client, runs_path(namespace)) as runs:

            async def one(name: str, epoch: int) -> None:
                began = time.monotonic()
                data = {"data": {"train.json": report_text(uids[name], epoch)}}
                await client.request("PATCH", path(namespace, "configmaps", config_map.format(name)), data, MERGE_PATCH)
                await runs.until(f"{name} shows epoch {epoch}", partial(shows, name=name, epoch=epoch), of=name)
                took.append(time.monotonic() - began)

            for epoch in epochs:
                await asyncio.gather(*(one(name, epoch) for name in uids))
        return took

    async def _bare_reports(self, client: BareClient, names: tuple[str, ...], epochs: range) -> list[float]:
        """The same with somebody who writes the same status and decides nothing."""
        versions: dict[str, Document] = {}
        status = (await client.request("GET", runs_path(self._ours, names[0])))["status"]
        # The watch may show a write, and bring the next report, before the write itself is answered.
        writing = {name: asyncio.Lock() for name in names}

        async def copy(client: BareClient, config_map: Document) -> None:
            name = config_map["metadata"]["name"].removesuffix("-run-report")
            text = config_map.get("data", {}).get("train.json")
            if name not in versions or text is None:
                return
            epoch = json.loads(text)["training"]["completedEpochs"]
            async with writing[name]:
                body = {**versions[name], "status": {**status, "completedEpochs": epoch}}
                versions[name] = await client.request("PUT", runs_path(self._bare, name, "status"), body)

        for name in names:
            versions[name] = await client.request("POST", runs_path(self._bare), a_run(name))
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-run-report"}}
            await client.request("POST", path(self._bare, "configmaps"), body)
        async with self._bare_operator(client, copy, "configmaps"):
            return await self._report(client, self._bare, dict.fromkeys(names, "bare"), "{}-run-report", epochs)

    async def _many_report(self, client: BareClient) -> Row:
        """Runs that report at once, each with a Job and a pod that somebody made behind the queue's back."""
        names = tuple(f"many-{number:03}" for number in range(REPORTING))
        uids: dict[str, str] = {}
        async with Watching(client, path(self._ours, "jobs")) as jobs:
            await jobs.until("the run before is gone", lambda objects: not objects)
        async with Watching(client, path(self._ours, "pods")) as pods:
            await pods.until("its pods are gone", lambda objects: not objects)

            async def make(name: str) -> None:
                run = await client.request("POST", runs_path(self._ours), a_run(name, suspend=True))
                uids[name] = await self._make_training(client, pods, run)

            await side_by_side([partial(make, name) for name in names], 8)
        await self._all_is_told(client)
        ours = await self._report(client, self._ours, uids, "{}-run-report", range(1, ROUNDS + 1))
        theirs = await self._bare_reports(client, names, range(1, ROUNDS + 1))
        await side_by_side([partial(self._delete_run, client, name) for name in names])
        return self._compared("epoch to status, 100 at once", ours, theirs)

    async def _all_is_told(self, client: BareClient) -> None:
        """Wait until the Events of what was just made are all posted."""
        told, before = -1, -2
        while told != before:
            before = told
            await asyncio.sleep(1)
            told = len((await client.request("GET", path(self._ours, "events")))["items"])

    async def _make_training(self, client: BareClient, pods: Watching, run: Document) -> str:
        """A training pod of that run that runs; its UID."""
        name, uid = run["metadata"]["name"], run["metadata"]["uid"]
        labels = {
            "app.kubernetes.io/managed-by": "azaion-operator",
            "app.kubernetes.io/part-of": "azaion",
            "azaion.com/training-run": name,
            "azaion.com/training-run-uid": uid,
            "azaion.com/stage": "publish",
            "azaion.com/attempt": "1",
        }
        owner = {"apiVersion": run["apiVersion"], "kind": run["kind"], "name": name, "uid": uid, "controller": True}
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-run-report", "labels": labels, "ownerReferences": [owner]},
        }
        await client.request("POST", path(self._ours, "configmaps"), config_map)
        await client.request("POST", path(self._ours, "jobs"), _plain_job(f"{name}-publish-1", labels, owner))

        def of_run(objects: dict[str, Document]) -> Document | None:
            found = (p for p in objects.values() if p["metadata"]["labels"].get("azaion.com/training-run") == name)
            return next(found, None)

        await pods.until(f"a pod of {name}", lambda objects: of_run(objects) is not None)
        pod = of_run(pods.objects)
        if pod is None:
            raise RuntimeError(f"the pod of {name} has gone again")
        pod_name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod_name}, "target": target}
        await client.request("POST", path(self._ours, "pods", pod_name) + "/binding", binding)
        container = {
            "name": "trainer",
            "image": "x",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now_text()}},
        }
        status = {"status": {"phase": "Running", "containerStatuses": [container]}}
        await client.request("PATCH", path(self._ours, "pods", pod_name) + "/status", status, MERGE_PATCH)
        return str(pod["metadata"]["uid"])

    async def _delete_run(self, client: BareClient, name: str) -> None:
        await client.request("DELETE", runs_path(self._ours, name), missing_ok=True)
        selector = f"labelSelector=azaion.com/training-run%3D{name}"
        listed = await client.request("GET", f"{path(self._ours, 'pods')}?{selector}")
        for pod in listed["items"]:
            where = path(self._ours, "pods", pod["metadata"]["name"])
            await client.request("DELETE", where, {"gracePeriodSeconds": 0}, missing_ok=True)

    # A thousand at once

    async def _thousand(self, client: BareClient) -> Row:
        await client.request("POST", runs_path(self._ours), a_run("holder"))
        async with Watching(client, path(self._ours, "jobs")) as jobs:
            await jobs.until("the holder's Job", lambda objects: "holder-prepare-1" in objects)
        names = [f"run-{number:04}" for number in range(MANY)]
        took_s = await self._queue_all(client, names)
        ended = await self._statuses(client)
        bare_s = await self._bare_statuses(client, names, ended)
        await side_by_side([partial(client.request, "DELETE", runs_path(self._ours, name)) for name in names])
        async with Watching(client, runs_path(self._ours)) as runs:
            await runs.until("all are gone", lambda objects: set(objects) == {"holder"})
        killed_s = await self._queue_all(client, names, kill_after=MANY // 3)
        if await self._statuses(client) != ended:
            raise RuntimeError("an operator killed in the middle ends in another state")
        return {
            "1,000 queued s": took_s,
            "1,000 queued, bare statuses s": bare_s,
            "1,000 queued x": took_s / bare_s,
            "1,000 queued, killed in the middle s": killed_s,
        }

    async def _queue_all(self, client: BareClient, names: list[str], kill_after: int | None = None) -> float:
        """Seconds from the first apply until all are Queued with their right place."""

        def queued(objects: dict[str, Document], many: int) -> bool:
            return sum(o.get("status", {}).get("phase") == "Queued" for o in objects.values()) >= many

        def placed(objects: dict[str, Document]) -> bool:
            if not queued(objects, MANY):
                return False
            order = sorted(names, key=lambda name: (objects[name]["metadata"]["creationTimestamp"], name))
            return all(
                objects[name]["status"]["message"].startswith(f"place {place} in the queue: ")
                for place, name in enumerate(order, start=1)
            )

        async with Watching(client, runs_path(self._ours)) as runs:
            began = time.monotonic()
            applying = asyncio.ensure_future(
                side_by_side([partial(client.request, "POST", runs_path(self._ours), a_run(name)) for name in names])
            )
            if kill_after is not None:
                await runs.until("some are queued", lambda objects: queued(objects, kill_after))
                self._operator.kill()
                self._operator.start(wait=False)
                self._started = time.monotonic()
            await applying
            await runs.until("all are queued in their places", placed, 120)
            return time.monotonic() - began

    async def _statuses(self, client: BareClient) -> dict[str, tuple[str, str]]:
        """Phase and what follows the place, by name: places follow from when each was applied."""
        listed = await client.request("GET", runs_path(self._ours))
        return {
            item["metadata"]["name"]: (item["status"]["phase"], item["status"]["message"].partition(": ")[2])
            for item in listed["items"]
            if item["metadata"]["name"] != "holder"
        }

    async def _bare_statuses(self, client: BareClient, names: list[str], ended: dict[str, tuple[str, str]]) -> float:
        """Seconds a bare client takes for the statuses the operator wrote."""
        listed = await client.request("GET", runs_path(self._ours))
        written = {item["metadata"]["name"]: item["status"] for item in listed["items"]}
        made: dict[str, Document] = {}

        async def make(name: str) -> None:
            made[name] = await client.request("POST", runs_path(self._bare), a_run(name))

        await side_by_side([partial(make, name) for name in names])

        async def write(name: str) -> None:
            body = {**made[name], "status": written[name]}
            await client.request("PUT", runs_path(self._bare, name, "status"), body)

        began = time.monotonic()
        await side_by_side([partial(write, name) for name in ended])
        return time.monotonic() - began

    # At rest, and started again

    async def _rest(self, client: BareClient) -> Row:
        """A thousand runs, half of them finished."""
        listed = await client.request("GET", runs_path(self._ours))
        queued = [item for item in listed["items"] if item["metadata"]["name"] != "holder"]

        async def finish(item: Document) -> None:
            # A patch: the operator moves those behind it up meanwhile.
            where = runs_path(self._ours, item["metadata"]["name"], "status")
            status = {"status": {"phase": "Succeeded", "message": "published"}}
            await client.request("PATCH", where, status, MERGE_PATCH)

        await side_by_side([partial(finish, item) for item in queued[: MANY // 2]])
        last = queued[-1]["metadata"]["name"]
        await self._placed(client, last, MANY - MANY // 2)
        await asyncio.sleep(max(0.0, self._started + STARTED_S - time.monotonic()))
        cpu_s = await self._cpu_at_rest()
        memory = _resident_bytes(self._operator.pid)
        same_s = await self._restart(client, last, 1)
        # Another pod has to wait until the Lease of the one that was killed runs out.
        self._operator.pod_uid += "-2"
        new_s = await self._restart(client, queued[-2]["metadata"]["name"], 2)
        return {
            "at rest, % of a core": 100 * cpu_s / AT_REST_S,
            "at rest, MiB": memory / (1 << 20),
            "restart, same pod s": same_s,
            "restart, new pod s": new_s,
        }

    async def _placed(self, client: BareClient, name: str, place: int) -> None:
        async with Watching(client, runs_path(self._ours)) as runs:
            start = f"place {place} in the queue"
            await runs.until(f"{name} at {start}", lambda o: o[name]["status"]["message"].startswith(start))

    async def _cpu_at_rest(self) -> float:
        """Seconds of processor time in AT_REST_S, nothing else going on."""
        await asyncio.sleep(5)
        before = _cpu_seconds(self._operator.pid)
        await asyncio.sleep(AT_REST_S)
        return _cpu_seconds(self._operator.pid) - before

    async def _restart(self, client: BareClient, name: str, priority: int) -> float:
        """Seconds from the start of a killed operator until it has done what was asked meanwhile."""
        self._operator.kill()
        patch = {"spec": {"priority": priority}}
        await client.request("PATCH", runs_path(self._ours, name), patch, MERGE_PATCH)
        began = time.monotonic()
        self._operator.start(wait=False)
        await self._placed(client, name, 1)
        return time.monotonic() - began

    def _compared(self, name: str, ours: list[float], theirs: list[float]) -> Row:
        found = summed(f"{name} ms", ours) | summed(f"{name}, bare ms", theirs)
        return found | {f"{name} x": percentile(ours, 50) / percentile(theirs, 50)}


def _plain_job(name: str, labels: dict[str, str], owner: Document) -> Document:
    template = {
        "metadata": {"labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {"backoffLimit": 0, "template": template},
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


#: What was promised, by the name of the figure.
BOUNDS = {
    "epoch to status, one run ms p50": 30.0,
    "epoch to status, one run ms p99": 150.0,
    "epoch to status, 100 at once ms p99": 1000.0,
    "apply to Job ms p50": 35.0,
    "apply to Job ms p99": 150.0,
    "1,000 queued x": 3.0,
    "at rest, % of a core": 0.5,
    "at rest, MiB": 120.0,
    "restart, same pod s": 5.0,
    "restart, new pod s": 15.0,
}


def figures_of(rows: list[Row]) -> list[Figure]:
    return [
        Figure(
            name=name.removesuffix(" x"),
            unit="x" if name.endswith(" x") else "",
            values=tuple(row[name] for row in rows),
            bound=BOUNDS.get(name),
            is_ratio=name.endswith(" x"),
        )
        for name in rows[0]
    ]


def measure(runs: int) -> None:
    """Take that many runs, each appended to RESULTS as it ends."""
    cluster = Cluster(f"bench-operator-{os.getpid()}")
    cluster.up(UpOptions(control_plane_only=True))
    try:
        api = RealApi(cluster.environment())
        api.output("apply", "--server-side", "-f", str(ROOT / "crds"))
        api.output("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
        RESULTS.parent.mkdir(exist_ok=True)
        for number in range(runs):
            say(f"run {number + 1} of {runs}")
            with tempfile.TemporaryDirectory() as directory:
                row = asyncio.run(Bench(cluster, number, Path(directory)).run())
            with RESULTS.open("a") as results:
                results.write(json.dumps(row) + "\n")
    finally:
        cluster.down()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs to take now; 0 only reports")
    parser.add_argument("--last", type=int, default=5, help="runs to report over")
    parser.add_argument("--record", action="store_true", help="keep the ratios as what later ones are compared with")
    chosen = parser.parse_args()
    if chosen.runs:
        measure(chosen.runs)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()][-chosen.last :]
    found = figures_of(rows)
    print(f"\n{len(rows)} runs on {os.cpu_count()} cores, Python {platform.python_version()}\n\n{table(found)}\n")
    return judged(RECORDED, found, keep=chosen.record)


if __name__ == "__main__":
    sys.exit(main())
