"""From a real stream to a published model on a real node, the operator killed on the way."""

from __future__ import annotations

import hashlib
import json

import pytest
from tests.e2e.platform import Platform, condition
from tests.e2e.story import COUNT, EPOCHS, INGEST, RUN, Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_every_annotation_lies_where_its_status_puts_it_byte_for_byte(platform: Platform, story: Story) -> None:
    wanted = {f"data/images/{scene.name}.jpg": hashlib.sha256(scene.jpeg).hexdigest() for scene in story.scenes}
    listed = platform.shell("sha256sum data/images/*").splitlines()
    found = {line.split()[1]: line.split()[0] for line in listed}
    assert found == wanted
    scene = story.scenes[0]
    label = platform.shell(f"cat data/labels/{scene.name}.txt").splitlines()
    assert [(int(cls), *map(float, rest)) for cls, *rest in map(str.split, label)] == [
        (box.cls, box.x, box.y, box.w, box.h) for box in scene.boxes
    ]
    assert platform.shell("ls data-seed/images data-seed/labels | grep -c scene || :").strip() == "0"


def test_the_offset_on_disk_in_the_status_and_in_the_metrics_is_the_last_message(
    platform: Platform, story: Story
) -> None:
    last = len(story.entries) - 1
    assert story.ingest["committedOffset"] == last
    stored = json.loads(platform.shell(f"cat .ingest/{INGEST}/offset.json"))
    assert stored["offset"] == last
    assert platform.value("azaion_annotationingest_offset", name=INGEST) == last
    assert condition(story.ingest, "Ready")["status"] == "True"
    assert condition(story.ingest, "CaughtUp")["status"] == "True"


def test_the_run_succeeds_and_its_status_tells_the_whole_story(story: Story) -> None:
    run = story.run
    assert run["phase"] == "Succeeded", run.get("message")
    assert (run["completedEpochs"], run["epochs"], run["restarts"]) == (EPOCHS, EPOCHS, 0)
    for type_ in ("DatasetReady", "Evaluated", "Exported", "Published", "Succeeded", "Finished"):
        assert condition(run, type_)["status"] == "True", condition(run, type_)
    dataset = run["dataset"]
    assert dataset["train"] + dataset["valid"] + dataset["test"] == COUNT
    assert dataset["streamOffset"] == len(story.entries) - 1
    assert {attempt["stage"] for attempt in run["attempts"]} == {"prepare", "train", "evaluate", "publish"}
    assert {attempt["reason"] for attempt in run["attempts"]} == {"Completed"}
    assert float(run["metrics"]["trainLoss"]) > 0
    assert 0 <= float(run["evaluation"]["new"]["map50"]) <= 1
    assert run["evaluation"]["images"] == dataset["test"]


def test_an_operator_killed_in_mid_training_costs_the_training_nothing(platform: Platform, story: Story) -> None:
    assert [a["podUid"] for a in story.run["attempts"] if a["stage"] == "train"] == [story.train_pod_uid]
    assert story.epochs_seen == sorted(story.epochs_seen)
    assert platform.epochs_on_disk(story.run) == list(range(1, EPOCHS + 1))


def test_the_published_model_is_on_the_volume_and_current(platform: Platform, story: Story) -> None:
    for model in story.run["models"]:
        assert platform.sha256(model["path"]) == model["sha256"], model
    deployed = next(model for model in story.run["models"] if model["role"] == "deployed")
    assert story.link == deployed["path"].removeprefix("models/")
    assert story.line["current"]["sha256"] == deployed["sha256"]
    assert story.line["current"]["run"] == RUN
    assert story.line["iteration"] >= story.run["iteration"] >= 1
    assert platform.shell(f"ls -l {story.run['directory']}/evaluation/predictions.png")


def test_kube_state_metrics_tells_the_run_as_the_status_does(platform: Platform, story: Story) -> None:
    run = story.run
    value = platform.value
    assert value("azaion_trainingrun_phase", name=RUN, phase="Succeeded") == 1
    assert value("azaion_trainingrun_phase", name=RUN, phase="Running") == 0
    assert value("azaion_trainingrun_epoch", name=RUN) == EPOCHS
    assert value("azaion_trainingrun_epochs_target", name=RUN) == EPOCHS
    assert value("azaion_trainingrun_validation_map50_ratio", name=RUN) == pytest.approx(float(run["metrics"]["map50"]))
    assert value("azaion_trainingrun_validation_map50to95_ratio", name=RUN) == pytest.approx(
        float(run["metrics"]["map50to95"])
    )
    started = value("azaion_trainingrun_start_timestamp_seconds", name=RUN)
    ended = value("azaion_trainingrun_completion_timestamp_seconds", name=RUN)
    assert started is not None
    assert ended is not None
    assert 0 < started < ended
    assert value("azaion_trainingrun_condition", name=RUN, type="Succeeded", status="True") == 1
    assert value("azaion_annotationingest_condition", name=INGEST, type="Ready", status="True") == 1
