"""Upgrade, rollback, a broken upgrade and a removal under a training and an ingest at work: neither is hurt."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.demo.access import ROOT, CommandError, Object, stream_output
from tests.demo.annotations import Broker, messages_for, publish
from tests.demo.clusters import NAMESPACE, RELEASE
from tests.demo.scenes import make_scenes
from tests.demo.story import STREAM_PORT
from tests.e2e.platform import BROKER_USER, STREAM, Platform, trains
from tests.e2e.story import INGEST, Story, small_run
from tests.release import previous

from azaion_api.names import GROUP, PLURALS

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(2400)]

RUN = "through-upgrades"
EPOCHS = 60
#: The ingest is away for this long at most, in seconds.
LONGEST_PAUSE_S = 30.0
_BATCH = 5
_EVERY_S = 0.5
IMAGES = ("operator", "consumer", "trainer")


@dataclass
class Load:
    """Annotations that come in all the time, and how many there were."""

    names: list[str] = field(default_factory=list)
    failure: BaseException | None = None


@contextmanager
def annotations_coming_in(platform: Platform) -> Iterator[Load]:
    """A few annotations twice a second while the context is open."""
    load, stop = Load(), threading.Event()
    (scene,) = make_scenes({"upgrade": "train"}, 64)

    def work() -> None:
        numbers = itertools.count()
        try:
            with platform.access.forward("service/rabbitmq", STREAM_PORT) as port:
                broker = Broker("127.0.0.1", port, BROKER_USER, platform.password())
                while not stop.is_set():
                    names = [f"upgrade-{next(numbers):06d}" for _ in range(_BATCH)]
                    scenes = [dataclasses.replace(scene, name=name) for name in names]
                    publish(broker, STREAM, messages_for(scenes, 0), lambda _sent: None)
                    load.names += names
                    stop.wait(_EVERY_S)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            load.failure = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield load
    finally:
        stop.set()
        thread.join(timeout=90)
    if load.failure is not None:
        raise load.failure


class Watched:
    """A run whose status is read again and again: every number of epochs, and that the pod stays the one it was."""

    def __init__(self, platform: Platform, run: str) -> None:
        self.platform, self.run = platform, run
        self.pod = platform.run_pods(run, "train")[0]["metadata"]["uid"]
        self.epochs: list[int] = []

    def look(self, at: str) -> Object:
        """The status now; fails when the pod is another one, was restarted, or epochs went back."""
        pods = self.platform.run_pods(self.run, "train")
        assert [pod["metadata"]["uid"] for pod in pods] == [self.pod], f"{at}: another training pod"
        restarts = [c["restartCount"] for c in pods[0]["status"]["containerStatuses"]]
        assert restarts == [0], f"{at}: the training pod was restarted"
        status = self.platform.access.status("trainingrun", self.run)
        self.epochs.append(int(status.get("completedEpochs", 0)))
        assert self.epochs == sorted(self.epochs), f"{at}: epochs went back: {self.epochs}"
        return status

    def goes_on(self, at: str) -> None:
        """One more epoch than now."""
        seen = int(self.look(at).get("completedEpochs", 0))
        self.platform.wait_status(
            "trainingrun", self.run, f"{at}: one more epoch", lambda s: s.get("completedEpochs", 0) > seen, 240
        )
        self.look(at)


def contains(new: Any, old: Any) -> bool:
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contains(new[key], value) for key, value in old.items())
    return bool(new == old)


def specs(platform: Platform) -> dict[str, Object]:
    return {
        f"{plural}/{found['metadata']['name']}": found["spec"]
        for plural in PLURALS.values()
        for found in platform.access.items(f"{plural}.{GROUP}")
    }


def operator_image(platform: Platform) -> str:
    pod = platform.access.get("deployment", "azaion-operator")["spec"]["template"]["spec"]
    return str(pod["containers"][0]["image"])


def bring_previous(platform: Platform) -> None:
    """The images of the release before, built by its own sources, on the node."""
    sources = previous.unpack(ROOT / "build" / f"previous-{previous.PREVIOUS.version}")
    images = [sys.executable, str(sources / "tests" / "cluster" / "images.py")]
    stream_output([*images, "build", *IMAGES], {}, print)
    stream_output([*images, "load", "--name", platform.place.name, *IMAGES], {}, print)


@pytest.fixture(scope="module")
def before(platform: Platform, story: Story) -> Platform:
    """The platform as the release before, with what the tests so far have made."""
    bring_previous(platform)
    sources = previous.unpack(ROOT / "build" / f"previous-{previous.PREVIOUS.version}")
    platform.install(chart=sources / "charts" / "azaion")
    assert operator_image(platform).endswith(f":{previous.PREVIOUS.version}")
    return platform


def test_a_training_and_an_ingest_live_through_upgrade_rollback_and_a_broken_upgrade(before: Platform) -> None:
    platform = before
    platform.apply("TrainingRun", RUN, small_run(epochs=EPOCHS))
    platform.wait_status("trainingrun", RUN, "the first epoch", lambda s: s.get("completedEpochs", 0) >= 1, 600)
    watched, known = Watched(platform, RUN), specs(platform)
    old_image = platform.access.status("trainingrun", RUN)["image"]
    assert old_image.endswith(f":{previous.PREVIOUS.version}")

    with annotations_coming_in(platform) as load:
        platform.install()
        assert not operator_image(platform).endswith(f":{previous.PREVIOUS.version}")
        watched.goes_on("after the upgrade")
        assert [name for name, spec in known.items() if not contains(specs(platform).get(name), spec)] == []

        platform.access.helm("rollback", RELEASE, "--wait", "--timeout", "5m")
        assert operator_image(platform).endswith(f":{previous.PREVIOUS.version}")
        watched.goes_on("after the rollback")
        assert [name for name, spec in known.items() if not contains(specs(platform).get(name), spec)] == []

        platform.install()
        watched.goes_on("after the second upgrade")

        good = operator_image(platform)
        with pytest.raises(CommandError):
            platform.access.helm(
                "upgrade", RELEASE, str(ROOT / "charts" / "azaion"), "--reset-then-reuse-values",
                "--rollback-on-failure", "--wait", "--timeout", "60s", "--set", "images.operator.tag=broken",
            )  # fmt: skip
        assert operator_image(platform) == good
        platform.access.kubectl("rollout", "status", "deployment/azaion-operator", "--timeout=120s")
        watched.goes_on("after the broken upgrade")

    # A new image is for runs that are released later.
    assert platform.access.status("trainingrun", RUN)["image"] == old_image
    files_of_the_ingest(platform, load)

    # Uninstalled in mid-training: the run goes on by itself, and whoever installs again finds it.
    said = platform.access.helm("uninstall", RELEASE, "--wait")
    assert "kept due to the resource policy" in said
    watched.look("after the removal")
    assert specs(platform).keys() >= known.keys()
    platform.install()
    watched.goes_on("after installing again")
    status = platform.wait_phase(RUN, "Succeeded", 900)
    assert [attempt["reason"] for attempt in trains(status)] == ["Completed"]
    assert status["completedEpochs"] == EPOCHS
    assert platform.epochs_on_disk(status) == list(range(1, EPOCHS + 1))
    assert orphans(platform) == []


def files_of_the_ingest(platform: Platform, load: Load) -> None:
    """Everything published is filed, and between two files there was never more than the allowed pause."""
    wanted = set(load.names)

    def filed() -> bool:
        return int(platform.shell("ls data/images | grep -c ^upgrade- || true")) == len(wanted)

    platform.wait_status("annotationingest", INGEST, "caught up", lambda s: s.get("lag") == 0 and filed(), 180)
    listed = platform.shell("find data/images -name 'upgrade-*' -printf '%T@ %f\\n'").splitlines()
    assert {line.split()[1].removesuffix(".jpg") for line in listed} == wanted
    times = sorted(float(line.split()[0]) for line in listed)
    longest_s = max(after - earlier for earlier, after in itertools.pairwise(times))
    print(f"{len(times)} annotations in {times[-1] - times[0]:.0f} s, longest pause {longest_s:.1f} s")
    assert longest_s <= LONGEST_PAUSE_S
    platform.shell("rm -f data/images/upgrade-* data/labels/upgrade-*")


def orphans(platform: Platform) -> list[str]:
    """Objects of the platform that belong neither to the release nor to a resource that is there."""
    access = platform.access
    owners = {item["metadata"]["uid"] for plural in PLURALS.values() for item in access.items(f"{plural}.{GROUP}")}
    rights, work = "serviceaccounts,roles,rolebindings", "jobs,cronjobs,deployments,daemonsets,pods"
    kinds = f"configmaps,services,networkpolicies,{rights},{work}"
    found = access.items(kinds, "-l", "app.kubernetes.io/part-of=azaion")
    owners |= {item["metadata"]["uid"] for item in found}
    replica_sets = access.items("replicasets")
    owners |= {item["metadata"]["uid"] for item in replica_sets}
    manifest = access.helm("get", "manifest", RELEASE)
    lost = []
    for item in found:
        name, references = item["metadata"]["name"], item["metadata"].get("ownerReferences", [])
        of_the_release = item["metadata"]["labels"].get("app.kubernetes.io/managed-by") == "Helm"
        if of_the_release and f"name: {name}" not in manifest:
            lost.append(f"{item['kind']}/{name} of an earlier release of the chart in {NAMESPACE}")
        if not of_the_release and not any(reference["uid"] in owners for reference in references):
            lost.append(f"{item['kind']}/{name} without an owner")
    return lost
