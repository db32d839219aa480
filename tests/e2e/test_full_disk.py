"""A volume that is full, on a real node: the platform on a small disk of its own, which somebody fills and empties."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from testcluster.components import VOLUMES
from tests.demo.access import Object
from tests.demo.annotations import messages_for
from tests.demo.clusters import TestCluster
from tests.demo.scenes import Scene, make_scenes, scene_names
from tests.demo.terminal import Terminal
from tests.e2e.platform import Platform, condition, sample, trains
from tests.e2e.story import IMAGE_SIZE, INGEST, small_run

from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SplitPlan, assign

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

EPOCHS = 8
COUNT, FILED_BEFORE = 80, 60
#: With nothing set aside for root, or the pods' processes would see it full before root does.
_DISK = "truncate -s 1200M /run/volumes.img && mkfs.ext4 -q -F -m 0 /run/volumes.img"
_BALLAST = f"{VOLUMES}/ballast"


@pytest.fixture(scope="module")
def small() -> Iterator[Platform]:
    """The platform, its volume on a disk of 1.2 GB."""
    place = TestCluster("full-disk", keep=False)
    terminal = Terminal(3)
    try:
        access = place.start(terminal)
        found = Platform(place, access)
        on_node(found, f"{_DISK} && mount -o loop /run/volumes.img {VOLUMES}")
        place.bring_images(access, terminal)
        found.start_broker()
        found.install()
        yield found
    finally:
        place.remove(terminal)


@pytest.fixture(scope="module")
def entries(small: Platform) -> list[bytes]:
    """Every message there is going to be; the first ones are filed."""
    scenes: list[Scene] = list(
        make_scenes(assign(scene_names(COUNT), SplitPlan(0, Split(), GroupBy.NAME), {}), IMAGE_SIZE)
    )
    found = messages_for(scenes, 0)
    small.publish(found[:FILED_BEFORE])
    small.apply("AnnotationIngest", INGEST, sample("annotationingest.yaml"))
    filed(small, FILED_BEFORE)
    return found


def on_node(platform: Platform, script: str) -> str:
    return platform.cluster("exec", "--", "sh", "-c", script)


def filed(platform: Platform, images: int) -> Object:
    return platform.wait_status(
        "annotationingest",
        INGEST,
        f"{images} images filed",
        lambda s: s.get("lag") == 0 and s.get("images", {}).get("data") == images,
        300,
    )


def fill(platform: Platform) -> None:
    """Take every block there is; what is freed in the next seconds, too."""
    on_node(platform, f"cat /dev/zero >> {_BALLAST} 2>/dev/null; sync -f {VOLUMES}; cat /dev/zero >> {_BALLAST}; true")


def test_a_disk_that_is_full_at_a_checkpoint_costs_nothing_once_there_is_space(
    small: Platform, entries: list[bytes]
) -> None:
    name = "full"
    small.apply("TrainingRun", name, small_run(epochs=EPOCHS, checkpointIntervalSeconds=10))
    small.wait_status("trainingrun", name, "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    fill(small)
    try:
        small.publish(entries[FILED_BEFORE:])
        waits = small.wait_status(
            "trainingrun", name, "that it waits for space", lambda s: s["message"].startswith("waits for space"), 300
        )
        assert (waits["phase"], waits["restarts"]) == ("Running", 0)
        (attempt,) = trains(waits)
        assert attempt["reason"] == "StorageFull"
        kept = waits["checkpoint"]
        assert small.sha256(kept["path"]) == kept["sha256"], "the checkpoint before is damaged"
        stopped = small.wait_status(
            "annotationingest",
            INGEST,
            "that its storage cannot be written",
            lambda s: condition(s, "StorageWritable")["status"] == "False",
            180,
        )
        assert stopped["committedOffset"] < len(entries) - 1, "an offset moved on without its files"
        threading.Event().wait(60)
        assert len(trains(small.access.status("trainingrun", name))) == 1, "it was tried again on a full disk"
    finally:
        on_node(small, f"rm -f {_BALLAST}")
    status = small.wait_phase(name, "Succeeded", 900)
    assert [a["reason"] for a in trains(status)] == ["StorageFull", "Completed"]
    assert trains(status)[1]["firstEpoch"] >= kept["epoch"]
    assert trains(status)[1]["resumed"].startswith("resumed from state-")
    assert small.epochs_on_disk(status) == list(range(1, EPOCHS + 1))
    assert status["restarts"] == 0, "a full disk is no fault of the run"
    filed(small, COUNT)
