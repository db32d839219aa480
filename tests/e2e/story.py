"""The one full story the end-to-end tests look at: a stream, an ingest, a run, and an operator killed on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.demo.access import Object
from tests.demo.annotations import messages_for
from tests.demo.scenes import Scene, make_scenes, scene_names
from tests.e2e.platform import Platform, sample

from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SplitPlan, assign

INGEST = "annotations"
RUN = "first"
COUNT = 120
VALIDATED_LATER = 20
IMAGE_SIZE = 96
EPOCHS = 4


@dataclass(frozen=True)
class Story:
    """What was published, and what the resources said in the end."""

    scenes: list[Scene]
    entries: list[bytes]
    ingest: Object
    run: Object
    #: Completed epochs, each value once, in the order in which the status showed them.
    epochs_seen: list[int]
    train_pod_uid: str
    #: The line's status and where its link pointed, right after the run.
    line: Object
    link: str


def tell(platform: Platform) -> Story:
    """Publish, ingest and train; the operator is killed after the first epoch."""
    plan = SplitPlan(0, Split(), GroupBy.NAME)
    scenes = list(make_scenes(assign(scene_names(COUNT), plan, {}), IMAGE_SIZE))
    entries = messages_for(scenes, VALIDATED_LATER)
    platform.publish(entries)
    platform.apply("AnnotationIngest", INGEST, sample("annotationingest.yaml"))
    ingest = platform.wait_status(
        "annotationingest",
        INGEST,
        "everything filed and reported",
        lambda s: s.get("lag") == 0 and s.get("images", {}).get("data") == COUNT,
        180,
    )
    platform.apply("TrainingRun", RUN, small_run(epochs=EPOCHS))
    epochs_seen: list[int] = []
    training = platform.wait_status(
        "trainingrun", RUN, "the first epoch", noting(epochs_seen, lambda s: s.get("completedEpochs", 0) >= 1), 600
    )
    assert training["stage"] == "Training"
    pod = platform.run_pods(RUN, "train")[0]
    platform.access.kubectl(
        "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force"
    )
    run = platform.wait_status(
        "trainingrun", RUN, "its end", noting(epochs_seen, lambda s: s.get("phase") in ("Succeeded", "Failed")), 900
    )
    line = platform.wait_status("modelline", "azaion", "a current model", lambda s: s.get("current"), 30)
    link = platform.shell("readlink models/azaion.pt").strip()
    return Story(scenes, entries, ingest, run, epochs_seen, pod["metadata"]["uid"], line, link)


def small_run(epochs: int, **training: object) -> Object:
    """A run of the test's size: on the CPU, and yet asking for the node's one GPU."""
    return {
        "model": {"base": "yolo26n.yaml"},
        "training": {
            "epochs": epochs,
            "batch": 16,
            "imageSize": IMAGE_SIZE,
            "workers": 0,
            "device": "CPU",
            "parameters": {"optimizer": "AdamW", "lr0": "0.002", "warmup_epochs": "1", "close_mosaic": "1"},
            **training,
        },
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": "1"}},
        "export": {"formats": ["ONNX"], "imageSize": IMAGE_SIZE},
    }


def noting(seen: list[int], holds: Callable[[Object], bool]) -> Callable[[Object], bool]:
    """`holds`, writing down each new number of completed epochs on the way."""

    def look(status: Object) -> bool:
        completed = int(status.get("completedEpochs", 0))
        if not seen or seen[-1] != completed:
            seen.append(completed)
        return holds(status)

    return look
