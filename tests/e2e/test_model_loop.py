"""The model loop goes round: annotations in, a model out, a better one promoted, a worse one rejected, and back.

Handwriting of a test image never appears in a training image, so a gain is what a model has learnt. The worse model
learns from labels that were spoilt on the stream, in the training split alone: it is judged by right ones.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace

import pytest
from tests.demo.access import Object, wait_for
from tests.demo.annotations import messages_for
from tests.demo.scenes import Scene, make_scenes, scene_names
from tests.e2e.platform import Platform, condition, sample
from tests.e2e.story import IMAGE_SIZE, small_run

from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SplitPlan, assign

#: Not seen green on a node often enough for `make test`, and it takes ten minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(3600)]

LINE = "loop"
DATA = "loop"
FIRST, LATER = 120, 120
KEY_SECRET = "azaion-model-key"
PLAN = SplitPlan(0, Split(), GroupBy.NAME)


@dataclass(frozen=True)
class Loop:
    """The line after two rounds, and the secrets that took part."""

    first: Object
    second: Object
    line: Object
    scenes: list[Scene]
    secrets: tuple[str, ...]


def line_run(epochs: int, **spec: object) -> Object:
    """A run of the line, whose ONNX is uploaded encrypted."""
    return {
        **small_run(epochs=epochs),
        "lineRef": {"name": LINE},
        "dataset": {"source": DATA},
        "publish": {
            "encryption": {"secretKeyRef": {"name": KEY_SECRET}},
            "targets": [{"name": "shelf", "type": "Directory", "directory": {"path": "published/loop"}}],
        },
        **spec,
    }


def wait_filed(platform: Platform, count: int) -> None:
    platform.wait_status(
        "annotationingest",
        LINE,
        "everything filed and reported",
        lambda s: s.get("lag") == 0 and s.get("images", {}).get(DATA) == count,
        180,
    )


def published(scenes: list[Scene]) -> list[bytes]:
    return messages_for(scenes, 0)


@pytest.fixture(scope="module")
def loop(platform: Platform) -> Loop:
    key = secrets.token_urlsafe(24)
    platform.apply_secret(KEY_SECRET, key=key)
    names = [f"loop-{name}" for name in scene_names(FIRST + LATER)]
    splits = assign(names[:FIRST], PLAN, {})
    scenes = list(make_scenes(splits, IMAGE_SIZE, seed=5))
    platform.publish(published(scenes), f"{LINE}-annotations")
    ingest = sample("annotationingest.yaml")
    ingest["stream"]["name"] = f"{LINE}-annotations"
    ingest["storage"] = {"data": DATA, "dataSeed": f"{DATA}-seed", "dataDeleted": f"{DATA}-deleted"}
    platform.apply("AnnotationIngest", LINE, ingest)
    wait_filed(platform, FIRST)
    template = line_run(epochs=14, model={"base": "Current"})
    del template["lineRef"]
    retrain = {"newImages": LATER // 2, "template": template}
    platform.apply("ModelLine", LINE, {"description": "goes round", "retrain": retrain})
    platform.apply("TrainingRun", "loop-first", line_run(epochs=2))
    first = platform.wait_phase("loop-first", "Succeeded", 900)
    splits = assign(names, PLAN, splits)
    later = list(make_scenes({name: splits[name] for name in names[FIRST:]}, IMAGE_SIZE, seed=5))
    platform.publish(published(later), f"{LINE}-annotations")
    wait_filed(platform, FIRST + LATER)
    made = platform.wait_status(
        "modelline", LINE, "a run made by itself", lambda s: s.get("retrain", {}).get("lastRun"), 240
    )["retrain"]["lastRun"]
    second = platform.wait_phase(made, "Succeeded", 1200)
    line = platform.wait_status("modelline", LINE, "the better model", lambda s: s["current"]["run"] == made, 60)
    return Loop(first, second, line, scenes + later, (key, platform.password()))


def current_file(platform: Platform) -> str:
    """sha256 of what a reader of models/<line>.pt gets."""
    return platform.sha256(f"models/{LINE}.pt")


def test_the_first_model_is_promoted_and_new_images_train_a_better_one_by_itself(
    platform: Platform, loop: Loop
) -> None:
    assert loop.first["promotion"]["decision"] == "Promoted"
    assert "first model of its line" in loop.first["promotion"]["reason"]
    promotion = loop.second["promotion"]
    assert promotion["decision"] == "Promoted", promotion
    evaluation = loop.second["evaluation"]
    assert float(evaluation["new"]["map50to95"]) > float(evaluation["current"]["map50to95"])
    assert loop.line["previous"]["run"] == "loop-first"
    assert [record["run"] for record in loop.line["history"]] == [loop.line["current"]["run"], "loop-first"]
    assert current_file(platform) == loop.line["current"]["sha256"]
    assert loop.second["dataset"]["train"] > loop.first["dataset"]["train"]
    assert loop.line["retrain"]["message"].startswith(f"trains after {LATER // 2} new images")


def test_an_image_never_changes_its_split_as_the_data_grows(platform: Platform, loop: Loop) -> None:
    for status, scenes in ((loop.first, loop.scenes[:FIRST]), (loop.second, loop.scenes)):
        found = platform.shell(f"cd {status['dataset']['path']} && ls -d */images/*").split()
        assert sorted(found) == sorted(f"{scene.split}/images/{scene.name}.jpg" for scene in scenes)


def test_the_upload_is_encrypted_and_its_state_is_told(platform: Platform, loop: Loop) -> None:
    (upload,) = loop.second["uploads"]
    assert (upload["target"], upload["state"]) == ("shelf", "OK"), upload
    onnx = next(model for model in loop.second["models"] if (model["role"], model["format"]) == ("exported", "ONNX"))
    found = platform.shell("find published/loop -type f -name '*.onnx*' -exec sha256sum {} +").split()
    assert found, "nothing was uploaded"
    assert onnx["sha256"] not in found
    assert condition(loop.second, "Published")["status"] == "True"


def test_a_model_that_learnt_from_spoilt_labels_is_rejected(platform: Platform, loop: Loop) -> None:
    # Every box with another class and mirrored to where nothing is: classes alone a young model hardly knows yet, and
    # more training would still better its boxes.
    spoilt = [
        replace(
            scene, boxes=tuple(replace(box, cls=(box.cls + 1) % 3, x=1 - box.x, y=1 - box.y) for box in scene.boxes)
        )
        for scene in loop.scenes
        if scene.split == "train"
    ]
    platform.publish(published(spoilt), f"{LINE}-annotations")
    platform.wait_status("annotationingest", LINE, "the spoilt labels filed", lambda s: s.get("lag") == 0, 120)
    name = spoilt[0].name
    wait_for(
        "the label is the spoilt one",
        lambda: (
            platform.shell(f"cut -d' ' -f1 {DATA}/labels/{name}.txt").split()
            == [str(box.cls) for box in spoilt[0].boxes]
        ),
        60,
    )
    platform.apply("TrainingRun", "loop-spoilt", line_run(epochs=6, model={"base": "Current"}))
    status = platform.wait_phase("loop-spoilt", "Succeeded", 900)
    promotion = status["promotion"]
    assert promotion["decision"] == "Rejected", promotion
    new, current = (float(status["evaluation"][who]["map50to95"]) for who in ("new", "current"))
    assert new < current
    line = platform.access.status("modelline", LINE)
    assert line["current"] == loop.line["current"]
    assert current_file(platform) == loop.line["current"]["sha256"]
    assert condition(status, "Published")["status"] == "False"


def test_one_field_goes_back_and_holds(platform: Platform, loop: Loop) -> None:
    earlier = loop.line["previous"]
    pin = json.dumps({"spec": {"pinnedModel": earlier["name"]}})
    platform.access.kubectl("patch", "modelline", LINE, "--type=merge", "-p", pin)
    platform.wait_status("modelline", LINE, "the earlier model", lambda s: s["current"]["name"] == earlier["name"], 180)
    assert current_file(platform) == earlier["sha256"]
    assert platform.shell(f"readlink models/{LINE}.pt").strip() == earlier["path"].removeprefix("models/")
    platform.access.kubectl("patch", "modelline", LINE, "--type=merge", "-p", '{"spec":{"pinnedModel":null}}')


def test_no_secret_is_in_a_log_a_status_an_event_or_an_argument(platform: Platform, loop: Loop) -> None:
    access = platform.access
    kinds = "trainingruns,annotationingests,modellines,pods,jobs,deployments,configmaps,events,replicasets"
    texts = {"objects": access.kubectl("get", kinds, "-o", "json")}
    for pod in access.items("pods"):
        name = pod["metadata"]["name"]
        texts[f"log of {name}"] = access.kubectl("logs", name, "--all-containers", "--prefix=false")
    texts["metrics"] = platform.series()
    files = "cd /azaion && find runs datasets models published -type f -size -2000k -exec cat {} +"
    texts["files on the volume"] = access.on_volume("sh", "-c", files).decode(errors="replace")
    assert len(texts) > 8, "the pods of the runs are still there to be looked at"
    found = [(place, secret[:3]) for place, text in texts.items() for secret in loop.secrets if secret in text]
    assert found == []
