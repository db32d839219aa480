"""Everything that may happen to a training, done to one on a real node.

AZAION_FAULTS scales the counts of the long series. Whatever happens, epochs stay gap-free and only grow,
and no two pods share the device, which every test here is watched for.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from tests.demo.access import Object, wait_for
from tests.e2e.clock import Clock
from tests.e2e.observer import DeviceObserver, Watch
from tests.e2e.platform import Platform, trains
from tests.e2e.story import Story, small_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.timeout(14_400),
    pytest.mark.usefixtures("never_two_at_the_gpu"),
]

COUNT = int(os.environ.get("AZAION_FAULTS", "50"))
POWER_CUTS = max(1, COUNT // 5)
MINUTES_WITHOUT_KUBELET = 6


class Epochs(Watch):
    """Completed epochs of a run in the order in which its status showed them, through every break of the watch."""

    def __init__(self, platform: Platform, run: str) -> None:
        super().__init__(platform.access, "trainingrun", run, "-o", "jsonpath={.status.completedEpochs}{'\\n'}")
        self.seen: list[int] = []

    def see(self, line: str) -> None:
        if not self.seen or self.seen[-1] != int(line):
            self.seen.append(int(line))


@contextmanager
def training(platform: Platform, name: str, epochs: int, **spec: object) -> Iterator[Epochs]:
    """A run in training, its epochs watched; afterwards it is removed."""
    run = small_run(epochs=epochs, checkpointIntervalSeconds=10)
    platform.apply("TrainingRun", name, {**run, "recovery": {"maxRestarts": 1000}, **spec})
    platform.wait_status("trainingrun", name, "an epoch", lambda s: s.get("completedEpochs", 0) >= 1, 900)
    watching = Epochs(platform, name)
    watching.start()
    try:
        yield watching
    finally:
        watching.stop()
        platform.delete_run(name)
        wait_for("its pods are gone", lambda: not platform.run_pods(name, "train"), 240)


def ended_well(platform: Platform, name: str, epochs: Epochs, total: int, timeout_s: float = 1800) -> Object:
    """The run's status once it succeeded, its epochs gap-free in the file and never falling in the status."""
    status = platform.wait_phase(name, "Succeeded", timeout_s)
    assert platform.epochs_on_disk(status) == list(range(1, total + 1))
    assert epochs.seen == sorted(epochs.seen), "the epochs in the status fell"
    assert status["completedEpochs"] == total
    return status


def reasons(status: Object) -> list[str]:
    return [attempt.get("reason", "") for attempt in trains(status)]


def status_of(platform: Platform, name: str) -> Object:
    return platform.access.status("trainingrun", name)


def one_training_pod(platform: Platform, name: str, other_than: str = "") -> Object:
    """The training pod that runs. A pod that was killed still says so for a moment: `other_than` is its UID."""

    def look() -> Object | None:
        pods = platform.run_pods(name, "train")
        running = [p for p in pods if p["status"]["phase"] == "Running" and p["metadata"]["uid"] != other_than]
        return running[0] if running else None

    return wait_for(f"a training pod of {name} runs", look, 400)


def test_an_evicted_pod_a_job_deleted_by_hand_and_a_spoilt_report_cost_nothing_but_the_time(
    platform: Platform, story: Story
) -> None:
    with training(platform, "battered", 14) as epochs:
        pod = one_training_pod(platform, "battered")["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{platform.access.namespace}/pods/{pod}/eviction"
        platform.access.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(eviction))
        platform.wait_status("trainingrun", "battered", "the eviction", lambda s: "Evicted" in reasons(s), 240)
        done = int(status_of(platform, "battered")["completedEpochs"])
        one_training_pod(platform, "battered")
        garbage = json.dumps({"data": {"train.json": "}garbage{", "evaluate.json": "[]"}})
        platform.access.kubectl("patch", "configmap", "battered-run-report", "--type=merge", "-p", garbage)
        platform.wait_status("trainingrun", "battered", "more", lambda s: s["completedEpochs"] > done, 240)
        platform.access.kubectl("delete", "configmap", "battered-run-report")
        done = int(status_of(platform, "battered")["completedEpochs"])
        platform.wait_status("trainingrun", "battered", "more", lambda s: s["completedEpochs"] > done, 240)
        job = one_training_pod(platform, "battered")["metadata"]["ownerReferences"][0]["name"]
        platform.access.kubectl("delete", "job", job)
        status = ended_well(platform, "battered", epochs, 14)
        assert reasons(status)[0] == "Evicted"
        assert set(reasons(status)[:-1]) <= {"Evicted", "Preempted"}
        assert reasons(status)[-1] == "Completed"
        assert status["restarts"] == 0


def test_training_never_waits_for_the_api_server(platform: Platform, story: Story) -> None:
    with training(platform, "unheard", 60) as epochs:
        pod = one_training_pod(platform, "unheard")["metadata"]["uid"]
        directory = status_of(platform, "unheard")["directory"]
        before = int(status_of(platform, "unheard")["completedEpochs"])
        platform.cluster("stop", "apiserver", "--kill")
        try:
            threading.Event().wait(60)
        finally:
            platform.cluster("start", "apiserver")
        wait_for("the API server answers again", lambda: status_of(platform, "unheard"), 120)
        times = platform.shell(f"cut -d, -f2 {directory}/train/results.csv").split()[1:]
        seconds = [float(text) for text in times]
        gaps = [b - a for a, b in pairwise(seconds)]
        assert max(gaps[before:], default=0) < 4 * (sorted(gaps)[len(gaps) // 2] + 1), "an epoch waited for somebody"
        assert len(times) > before, "no epoch was trained meanwhile"
        platform.wait_status(
            "trainingrun", "unheard", "what was trained meanwhile", lambda s: s["completedEpochs"] >= len(times), 120
        )
        assert one_training_pod(platform, "unheard")["metadata"]["uid"] == pod
        assert epochs.seen == sorted(epochs.seen)


def test_an_image_that_was_deleted_is_said_and_waited_for(platform: Platform, story: Story) -> None:
    with training(platform, "unpictured", 12) as epochs:
        image = status_of(platform, "unpictured")["image"]
        pod = one_training_pod(platform, "unpictured")
        containerd = ("exec", "--", "ctr", "-n", "k8s.io", "images")
        platform.cluster(*containerd, "tag", "--force", image, f"{image}-kept")
        platform.cluster(*containerd, "rm", image)
        try:
            platform.kill(pod)
            found = platform.wait_status(
                "trainingrun", "unpictured", "that its image is gone", lambda s: "cannot be had" in s["message"], 240
            )
            assert image in found["message"]
            assert found["phase"] == "Running"
        finally:
            platform.cluster(*containerd, "tag", f"{image}-kept", image)
        ended_well(platform, "unpictured", epochs, 12)


def test_memory_that_does_not_suffice_ends_the_run_with_what_to_do(platform: Platform, story: Story) -> None:
    spec = small_run(epochs=4)
    spec["resources"]["limits"]["memory"] = spec["resources"]["requests"]["memory"] = "400Mi"
    platform.apply("TrainingRun", "cramped", {**spec, "recovery": {"maxRestarts": 1}})
    status = platform.wait_phase("cramped", "Failed", 600)
    assert reasons(status) == ["HostOutOfMemory", "HostOutOfMemory"]
    assert status["restarts"] == 2
    assert status["message"].startswith("gave up after 1 restart (spec.recovery.maxRestarts)")
    assert status["message"].endswith("raise resources.limits.memory, or lower training.workers or training.batch")


@pytest.fixture
def clock(platform: Platform) -> Iterator[Clock]:
    """The operator's and the pods' clock, which the test may move."""
    found = Clock(platform)
    found.put_up()
    platform.kill_operator()
    try:
        yield found
    finally:
        found.take_down()
        platform.kill_operator()


def test_a_clock_that_moves_by_an_hour_forth_and_back_costs_nothing(
    platform: Platform, story: Story, clock: Clock
) -> None:
    """An hour that never passed is no hour of the budget, keeps nobody waiting and ends nobody as stalled."""
    total, began = 10, time.monotonic()
    clock.move(1)
    with training(platform, "untimely", total, budget={"activeSeconds": 3000}) as epochs:
        # Set back by an hour, then put forward again, then back for good.
        for hours in (0, 1, 0):
            done = int(status_of(platform, "untimely")["completedEpochs"])
            clock.move(hours)
            platform.wait_status(
                "trainingrun", "untimely", "two epochs", lambda s, n=done: s["completedEpochs"] >= n + 2, 400
            )
            if hours == 1:
                platform.kill(one_training_pod(platform, "untimely"))
        status = ended_well(platform, "untimely", epochs, total)
        assert reasons(status) == ["Crashed", "Completed"]
        assert status["restarts"] == 1
        assert 0 < status["activeSeconds"] < time.monotonic() - began


def test_a_trainer_killed_at_random_moments_loses_no_epoch(
    platform: Platform, story: Story, observer: DeviceObserver
) -> None:
    chance = random.Random(1)
    total = 3 * COUNT
    with training(platform, "killed-often", total) as epochs:
        killed = ""
        for kill in range(COUNT):
            pod = one_training_pod(platform, "killed-often", other_than=killed)
            killed = pod["metadata"]["uid"]
            # One in four dies anywhere, its start included; the others after an epoch of their own: attempts that come
            # to nothing, one after the other, are waited for ever longer.
            if chance.random() >= 0.25:
                done = int(status_of(platform, "killed-often")["completedEpochs"])
                platform.wait_status(
                    "trainingrun", "killed-often", "an epoch", lambda s, n=done: s["completedEpochs"] > n, 400
                )
            threading.Event().wait(chance.uniform(0, 12))
            if status_of(platform, "killed-often")["stage"] != "Training":
                break
            platform.kill(pod)
            print(f"kill {kill + 1}: {status_of(platform, 'killed-often')['epochColumn']}", flush=True)
        status = ended_well(platform, "killed-often", epochs, total, 7200)
        assert set(reasons(status)[:-1]) == {"Crashed"}


def test_an_operator_killed_at_random_moments_never_touches_the_training(platform: Platform, story: Story) -> None:
    chance = random.Random(2)
    total = 4 * COUNT
    with training(platform, "unled", total) as epochs:
        uid = one_training_pod(platform, "unled")["metadata"]["uid"]
        for _ in range(COUNT):
            threading.Event().wait(chance.uniform(0, 12))
            platform.kill_operator()
        status = ended_well(platform, "unled", epochs, total, 7200)
        assert [a["podUid"] for a in trains(status)] == [uid]


def test_a_training_goes_on_while_the_kubelet_is_away(platform: Platform, story: Story) -> None:
    with training(platform, "alone", 300) as epochs:
        uid = one_training_pod(platform, "alone")["metadata"]["uid"]
        before = int(status_of(platform, "alone")["completedEpochs"])
        platform.cluster("stop", "kubelet")
        try:
            threading.Event().wait(60 * MINUTES_WITHOUT_KUBELET)
            assert int(status_of(platform, "alone")["completedEpochs"]) > before
        finally:
            platform.cluster("start", "kubelet")
        wait_for("the node is back", lambda: platform.shell("echo there"), 300)
        assert one_training_pod(platform, "alone")["metadata"]["uid"] == uid
        assert epochs.seen == sorted(epochs.seen)


def test_a_node_whose_power_is_cut_goes_on_from_the_last_checkpoint(platform: Platform, story: Story) -> None:
    chance = random.Random(3)
    total = 6 * POWER_CUTS
    with training(platform, "dark", total) as epochs:
        for cut in range(POWER_CUTS):
            one_training_pod(platform, "dark")
            threading.Event().wait(chance.uniform(5, 25))
            platform.cluster("power-cut")
            platform.cluster("up")
            wait_for("the API server answers again", lambda: status_of(platform, "dark"), 240)
            print(f"cut {cut + 1}: {status_of(platform, 'dark')['epochColumn']}", flush=True)
        status = ended_well(platform, "dark", epochs, total, 7200)
        assert set(reasons(status)[:-1]) == {"NodeLost"}
        assert status["restarts"] == 0
