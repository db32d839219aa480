"""docs/operations.md, tried: a node drained and rebooted in mid-run; a cluster lost, the volume kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.demo.clusters import RELEASE
from tests.e2e.platform import BROKER_USER, OURS, Platform, condition, sample, trains
from tests.e2e.story import COUNT, INGEST, Story, small_run

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

EPOCHS = 6


@pytest.fixture
def uncordoned(platform: Platform) -> Iterator[None]:
    yield
    platform.access.kubectl("uncordon", "node-1")


def test_a_node_drained_and_rebooted_in_mid_run_costs_no_epoch(
    platform: Platform, story: Story, uncordoned: None
) -> None:
    name = "drained"
    platform.apply("TrainingRun", name, small_run(epochs=EPOCHS, checkpointIntervalSeconds=10))
    platform.wait_status("trainingrun", name, "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    platform.drain("node-1")
    platform.cluster("power-cut")
    platform.cluster("up")
    platform.access.kubectl("uncordon", "node-1")
    status = platform.wait_phase(name, "Succeeded", 900)
    first, *later = trains(status)
    assert first["reason"] in ("Preempted", "Evicted")
    assert later[-1]["reason"] == "Completed"
    assert later[0]["firstEpoch"] <= first["lastEpoch"] + 1
    assert status["completedEpochs"] == EPOCHS
    assert platform.epochs_on_disk(status) == list(range(1, EPOCHS + 1))
    assert status.get("restarts", 0) == 0, "a drain is no fault of the run"
    ready = platform.wait_status(
        "annotationingest", INGEST, "ready again", lambda s: condition(s, "Ready").get("status") == "True", 300
    )
    assert ready["images"]["data"] >= COUNT


def test_state_lost_and_volume_kept_goes_on_where_it_was(platform: Platform, story: Story) -> None:
    name = "restored"
    platform.apply("TrainingRun", name, small_run(epochs=EPOCHS, checkpointIntervalSeconds=10))
    platform.wait_status("trainingrun", name, "two epochs", lambda s: s.get("completedEpochs", 0) >= 2, 600)
    before = platform.access.status("trainingrun", name)
    filed = platform.access.status("annotationingest", INGEST)
    secret = platform.password()
    claim = platform.access.get("pvc", "azaion")
    volume = claim["spec"]["volumeName"]
    keep = '{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'
    platform.access.kubectl("patch", "pv", volume, "-p", keep)

    # Everything the API server knew of the platform is gone; the broker stands for one that lies elsewhere.
    platform.access.helm("uninstall", RELEASE, "--wait")
    platform.access.kubectl("delete", "trainingruns,annotationingests,modellines", "--all", "--wait")
    platform.access.kubectl("delete", "jobs,deployments,pods,configmaps", "-l", OURS, "--wait")
    platform.access.kubectl("delete", "pvc", "azaion", "--wait")
    platform.access.kubectl("patch", "pv", volume, "--type=json", "-p", '[{"op":"remove","path":"/spec/claimRef"}]')
    spec = {key: claim["spec"][key] for key in ("accessModes", "resources", "storageClassName", "volumeName")}
    platform.access.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"}, "spec": spec}
    )

    platform.install("storage.existingClaim=kept")
    platform.apply_secret("azaion-rabbitmq", username=BROKER_USER, password=secret)
    platform.apply("AnnotationIngest", INGEST, sample("annotationingest.yaml"))
    status = platform.wait_status(
        "annotationingest",
        INGEST,
        "at its offset",
        lambda s: (s.get("committedOffset") or -1) >= filed["committedOffset"],
        240,
    )
    assert status["processed"] == filed["processed"], "the stream was read from its beginning again"
    resumed = small_run(epochs=EPOCHS, resumeFrom=before["directory"])
    platform.apply("TrainingRun", "again", resumed)
    done = platform.wait_phase("again", "Succeeded", 900)
    assert trains(done)[0]["firstEpoch"] >= before["checkpoint"]["epoch"]
    assert done["completedEpochs"] == EPOCHS
