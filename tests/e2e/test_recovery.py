"""A run goes on after a kill and after a suspension, and two runs never share the device."""

from __future__ import annotations

import pytest
from tests.e2e.platform import Platform, condition, trains
from tests.e2e.story import Story, small_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_a_killed_trainer_goes_on_from_its_verified_checkpoint(platform: Platform, story: Story) -> None:
    platform.apply("TrainingRun", "killed", small_run(epochs=4, checkpointIntervalSeconds=10))
    platform.wait_status("trainingrun", "killed", "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    platform.kill(platform.run_pods("killed", "train")[0])
    status = platform.wait_phase("killed", "Succeeded", 900)
    assert [attempt["reason"] for attempt in trains(status)] == ["Crashed", "Completed"]
    assert trains(status)[1]["firstEpoch"] >= 2, "at most one interval may be lost"
    assert status["completedEpochs"] == 4
    assert status["restarts"] == 1
    assert platform.epochs_on_disk(status) == [1, 2, 3, 4]


@pytest.mark.faults
def test_a_suspended_run_frees_the_device_for_the_next_and_goes_on_where_it_was(
    platform: Platform, story: Story
) -> None:
    platform.apply("TrainingRun", "paused", small_run(epochs=3))
    platform.wait_status("trainingrun", "paused", "an epoch", lambda s: s.get("completedEpochs", 0) >= 1, 600)
    platform.apply("TrainingRun", "second", small_run(epochs=1))
    queued = platform.wait_phase("second", "Queued", 30)
    assert "place 1" in queued["message"]
    assert platform.run_pods("second", "prepare") == []
    platform.access.kubectl("patch", "trainingrun", "paused", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    suspended = platform.wait_phase("paused", "Suspended", 200)
    assert suspended["checkpoint"]["epoch"] >= 1
    assert [p for p in platform.run_pods("paused", "train") if p["status"]["phase"] == "Running"] == []
    platform.wait_phase("second", "Succeeded", 600)
    platform.access.kubectl("patch", "trainingrun", "paused", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    status = platform.wait_phase("paused", "Succeeded", 900)
    assert [attempt["reason"] for attempt in trains(status)] == ["Preempted", "Completed"]
    assert trains(status)[1]["firstEpoch"] == trains(status)[0]["lastEpoch"]
    assert status["restarts"] == 0
    assert condition(status, "Finished")["status"] == "True"


@pytest.mark.faults
def test_a_smoke_run_goes_through_every_stage_and_publishes_nothing(platform: Platform, story: Story) -> None:
    before = platform.shell("ls -A models | sort")
    line = platform.access.status("modelline", "azaion")
    platform.apply("TrainingRun", "smoke", {**small_run(epochs=50), "smoke": True})
    status = platform.wait_phase("smoke", "Succeeded", 600)
    assert {a["stage"]: a["reason"] for a in status["attempts"]} == dict.fromkeys(
        ("prepare", "train", "evaluate", "publish"), "Completed"
    )
    assert (status["completedEpochs"], status["epochs"]) == (1, 1)
    assert status["message"].startswith("a smoke run: two batches went through every stage")
    assert status["plan"]["trainingSeconds"] > 50 * status["plan"]["batchesPerEpoch"] * 0.9 * float(
        status["plan"]["secondsPerBatch"]
    )
    assert {m["role"] for m in status["models"]} == {"trained", "evaluated", "exported"}
    assert platform.shell("ls -A models | sort") == before
    assert platform.access.status("modelline", "azaion") == line
