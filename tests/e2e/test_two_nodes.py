"""docs/scaling.md, tried: two nodes and a volume that both have; whoever works on one of them goes on on the other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster import Cluster
from testcluster.components import SHARED
from tests.demo.access import Object, wait_for
from tests.demo.annotations import messages_for
from tests.demo.clusters import NAMESPACE, TestCluster
from tests.demo.scenes import Scene, make_scenes, scene_names
from tests.demo.terminal import Terminal
from tests.e2e.observer import DeviceObserver
from tests.e2e.platform import OURS, Platform, condition, sample, trains
from tests.e2e.story import COUNT, IMAGE_SIZE, INGEST, VALIDATED_LATER, small_run

from azaion_api.layout import GID, UID
from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SplitPlan, assign

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

HERE, THERE = "node-1", "node-2"
CLAIM = "shared"
#: Kubernetes' own taint for a node that is known to be off: its pods are given up and start elsewhere.
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
EPOCHS = 6
#: Messages filed before the run starts. The others are sent while its node is drained, a few at a time.
FILED, SLICE = 60, 5


@pytest.fixture(scope="module")
def pair() -> Iterator[Platform]:
    """The platform on a claim that two nodes can mount; all of it on the first, for the second takes no pods yet."""
    place = TestCluster("two-nodes", keep=False, nodes=2)
    terminal = Terminal(3)
    try:
        access = place.start(terminal)
        place.bring_images(access, terminal)
        found = Platform(place, access)
        access.kubectl("cordon", THERE)
        found.start_broker()
        share_directory(found)
        found.install(f"storage.existingClaim={CLAIM}")
        yield found
    finally:
        place.remove(terminal)


@pytest.fixture
def never_two_at_work(pair: Platform) -> Iterator[None]:
    """Each node has a device of its own, and yet there is one run at a time."""
    observer = DeviceObserver(pair.access)
    observer.start()
    try:
        yield
    finally:
        observer.stop()
    assert observer.pods.overlaps == [], "two pods that ask for a GPU were there at once"


def share_directory(platform: Platform) -> None:
    """A claim on a directory that lies at the same place in both nodes, as a file server's does."""
    directory = Cluster(platform.place.name).layout.shared / "azaion"
    directory.mkdir()
    os.chown(directory, UID, GID)
    directory.chmod(0o2775)
    spec: Object = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "5Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": CLAIM},
        "spec": {
            **spec,
            "capacity": size,
            "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
            "hostPath": {"path": str(SHARED / directory.name), "type": "Directory"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {**spec, "resources": {"requests": size}},
    }
    platform.access.apply(volume, claim)


def places(platform: Platform) -> dict[str, str]:
    """Node of each Deployment's running pod, by its component."""
    return {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["spec"]["nodeName"]
        for pod in platform.access.items("pods", "-l", OURS, "--field-selector=status.phase=Running")
        if pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet" and "deletionTimestamp" not in pod["metadata"]
    }


def devices_held(platform: Platform, node: str) -> list[tuple[str, str]]:
    """What the node's device plugin saw: Held or Released, and the pod."""
    events = [json.loads(line) for line in platform.cluster("logs", "--node", node, "gpu-events").splitlines()]
    return [(event["event"], event["pod"]) for event in events if event["event"] in ("Held", "Released")]


def ingested(platform: Platform, images: int, processed: int) -> Object:
    """The ingest's status once it has filed that many; more messages than there are would be some filed twice."""
    return platform.wait_status(
        "annotationingest",
        INGEST,
        f"{processed} messages processed and {images} images filed",
        lambda s: s.get("lag") == 0 and (s.get("processed"), s.get("images", {}).get("data")) == (processed, images),
        240,
    )


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(make_scenes(assign(scene_names(COUNT), SplitPlan(0, Split(), GroupBy.NAME), {}), IMAGE_SIZE))


@pytest.fixture(scope="module")
def entries(pair: Platform, scenes: list[Scene]) -> list[bytes]:
    """Every message there is going to be; the first ones are filed."""
    found = messages_for(scenes, VALIDATED_LATER)
    pair.publish(found[:FILED])
    pair.apply("AnnotationIngest", INGEST, sample("annotationingest.yaml"))
    ingested(pair, FILED, FILED)
    return found


def test_a_run_and_an_ingest_whose_node_is_drained_go_on_on_the_other(
    pair: Platform, scenes: list[Scene], entries: list[bytes], never_two_at_work: None
) -> None:
    name = "moved"
    pair.apply("TrainingRun", name, small_run(epochs=EPOCHS, checkpointIntervalSeconds=10))
    pair.wait_status("trainingrun", name, "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    before = places(pair)
    assert {"operator", "storage", "consumer"} <= before.keys()
    assert set(before.values()) == {HERE}, before

    pair.access.kubectl("uncordon", THERE)
    sent = FILED
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(pair.drain, HERE)
        while not drained.done() and sent < len(entries):
            pair.publish(entries[sent : sent + SLICE])
            sent += SLICE
        drained.result()
    pair.publish(entries[sent:])

    status = pair.wait_phase(name, "Succeeded", 900)
    first, *later = trains(status)
    assert (first["node"], first["reason"] in ("Preempted", "Evicted")) == (HERE, True), first
    assert [(attempt["node"], attempt["reason"]) for attempt in later] == [(THERE, "Completed")]
    assert later[0]["firstEpoch"] <= first["lastEpoch"] + 1
    assert later[0]["podUid"] != first["podUid"]
    assert status["completedEpochs"] == EPOCHS
    assert pair.epochs_on_disk(status) == list(range(1, EPOCHS + 1))
    assert status.get("restarts", 0) == 0, "a drain is no fault of the run"
    assert [event for event, pod in devices_held(pair, HERE) if pod == first["pod"]] == ["Held", "Released"]
    assert ("Held", later[0]["pod"]) in devices_held(pair, THERE)

    ingest = ingested(pair, COUNT, len(entries))
    assert condition(ingest, "Ready")["status"] == "True"
    listed = pair.shell("sha256sum data/images/*").splitlines()
    assert {line.split()[1]: line.split()[0] for line in listed} == {
        f"data/images/{scene.name}.jpg": hashlib.sha256(scene.jpeg).hexdigest() for scene in scenes
    }
    wanted = dict.fromkeys(before, THERE)
    wait_for("everything that runs for good does so on the other node", lambda: places(pair) == wanted, 120)


@pytest.fixture
def powered_again(pair: Platform) -> Iterator[None]:
    yield
    pair.cluster("up")
    pair.access.kubectl("taint", "nodes", THERE, f"{OUT_OF_SERVICE}-")


def test_a_run_whose_node_is_gone_for_good_goes_on_on_the_other_once_that_is_said(
    pair: Platform, entries: list[bytes], never_two_at_work: None, powered_again: None
) -> None:
    name = "lost"
    pair.access.kubectl("uncordon", THERE)
    pair.drain(HERE)
    pair.apply("TrainingRun", name, small_run(epochs=EPOCHS, checkpointIntervalSeconds=10))
    pair.wait_status("trainingrun", name, "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    pair.access.kubectl("uncordon", HERE)
    pair.cluster("power-cut", "--node", THERE)
    wait_for("the control plane misses the node", lambda: not is_ready(pair, THERE), 120)
    # What a kubelet that is merely away might still be doing, nobody knows: pods stay until a person says otherwise.
    pair.access.kubectl("taint", "nodes", THERE, f"{OUT_OF_SERVICE}=nodeshutdown:NoExecute")

    status = pair.wait_phase(name, "Succeeded", 900)
    first, *later = trains(status)
    assert (first["node"], first["reason"]) == (THERE, "NodeLost"), first
    assert [(attempt["node"], attempt["reason"]) for attempt in later] == [(HERE, "Completed")]
    assert later[0]["firstEpoch"] >= 2, "at most one interval may be lost"
    assert pair.epochs_on_disk(status) == list(range(1, EPOCHS + 1))
    assert status.get("restarts", 0) == 0, "a lost node is no fault of the run"
    pair.wait_status("annotationingest", INGEST, "ready", lambda s: condition(s, "Ready").get("status") == "True", 240)
    assert set(places(pair).values()) == {HERE}


def is_ready(platform: Platform, node: str) -> bool:
    return condition(platform.access.get("node", node)["status"], "Ready")["status"] == "True"
