"""Object factories of the trainer's tests: a storage, annotated images, tasks, and a stage's context."""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image, ImageDraw

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.report import RunReport
from azaion_api.reporter import Reporter
from azaion_api.task import RunTask
from azaion_api.training_run import DatasetStatus, Device, Export, GroupBy, Model, Split, Training, TrainingRunSpec
from azaion_trainer.forming import FormingRequest
from azaion_trainer.reporting import STAGE_OF_JOB, StageReporter
from azaion_trainer.split import SplitPlan
from azaion_trainer.stage import StageContext
from azaion_trainer.watch import Heartbeat, StopSignal

CLASSES = [
    {"Id": 0, "Name": "disc", "ShortName": "d", "Color": "#ff0000"},
    {"Id": 1, "Name": "square", "ShortName": "s", "Color": "#00ff00"},
]
GOOD_LABEL = "0 0.5 0.5 0.1 0.1\n"
UID = "0f1e2d3c-aaaa-bbbb-cccc-000000000001"
TODAY = date(2026, 11, 23)


def storage_tree(root: Path) -> Layout:
    """The directories the chart makes, and classes.json."""
    for directory in ("data/images", "data/labels", "datasets", "models", "runs"):
        (root / directory).mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return Layout(root)


def jpeg(width: int = 16, height: int = 16, colour: int = 90, mode: str = "RGB") -> bytes:
    """A small JPEG that differs by its colour."""
    return encoded("JPEG", width, height, colour, mode)


def encoded(kind: str, width: int = 16, height: int = 16, colour: int = 90, mode: str = "RGB") -> bytes:
    """A small image of Pillow's format `kind`."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), (colour % 256,) * len(mode) if len(mode) > 1 else colour).save(buffer, kind)
    return buffer.getvalue()


def add_pair(layout: Layout, stem: str, image: bytes | None = None, label: str | None = GOOD_LABEL) -> None:
    """An image and its label in data/; no label file when `label` is None."""
    (layout.images("data") / f"{stem}.jpg").write_bytes(jpeg() if image is None else image)
    if label is not None:
        (layout.labels("data") / f"{stem}.txt").write_text(label)


def add_pairs(layout: Layout, count: int, prefix: str = "image") -> list[str]:
    """Good pairs; returns their stems."""
    stems = [f"{prefix}-{number:05d}" for number in range(count)]
    for number, stem in enumerate(stems):
        add_pair(layout, stem, jpeg(colour=number))
    return stems


def age(path: Path, seconds: float = 60.0) -> None:
    """Make a file look as if it had been written `seconds` ago."""
    import os

    then = time.time() - seconds
    os.utime(path, (then, then))


def request(
    uid: str = UID, seed: int = 0, split: Split | None = None, group_by: GroupBy = GroupBy.NAME, day: date = TODAY
) -> FormingRequest:
    """A run that forms its data set from data/."""
    names = ("disc", "square", *(f"Class-{number}" for number in range(2, 80)))
    return FormingRequest("run", uid, "data", SplitPlan(seed, split or Split(), group_by), names, day)


def names_by_split(path: Path) -> dict[str, set[str]]:
    """Image stems of every split of a data set."""
    return {
        split: {image.stem for image in (path / split / "images").iterdir()} for split in ("train", "valid", "test")
    }


def draw_scenes(layout: Layout, count: int, size: int = 64, seed: int = 1) -> None:
    """Pairs a detector can learn from: bright discs and squares on a dark ground."""
    numbers = random.Random(seed)
    for scene in range(count):
        image = Image.new("RGB", (size, size), tuple(numbers.randrange(60) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        lines = []
        for _ in range(numbers.randrange(1, 3)):
            kind, side = numbers.randrange(2), numbers.randrange(size // 4, size // 2)
            x, y = numbers.randrange(size - side), numbers.randrange(size - side)
            colour = tuple(numbers.randrange(150, 255) for _ in range(3))
            (draw.ellipse if kind == 0 else draw.rectangle)((x, y, x + side, y + side), fill=colour)
            centre = ((x + side / 2) / size, (y + side / 2) / size)
            lines.append(f"{kind} {centre[0]:.5f} {centre[1]:.5f} {side / size:.5f} {side / size:.5f}\n")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        add_pair(layout, f"scene-{scene:04d}", buffer.getvalue(), "".join(lines))


def spec(base: str = "yolo26n.yaml", **training: Any) -> TrainingRunSpec:
    """A training that takes seconds on a CPU."""
    values: dict[str, Any] = {"epochs": 2, "batch": 8, "image_size": 64, "device": Device.CPU, "workers": 0, **training}
    return TrainingRunSpec(model=Model(base=base), training=Training(**values), export=Export(image_size=64))


def task(stage: JobStage, run_spec: TrainingRunSpec | None = None, **changes: Any) -> RunTask:
    """A task of the run `run`."""
    values: dict[str, Any] = {
        "run": "run",
        "uid": UID,
        "stage": stage,
        "attempt": 1,
        "directory": f"runs/run-{UID[:8]}",
        "spec": run_spec or spec(),
        "report": "run-run-report",
        **changes,
    }
    return RunTask(**values)


class MemorySink:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.reports: list[RunReport] = []

    def write(self, body: bytes) -> None:
        self.reports.append(msgspec.json.decode(body, type=RunReport))


class RecordingStop(StopSignal):
    """Stops when `when` says so, as SIGTERM would between two batches."""

    def __init__(self, when: Callable[[], bool]) -> None:
        super().__init__()
        self._when = when

    def check(self) -> None:
        self.requested = self.requested or self._when()
        super().check()


def stage_context(layout: Layout, run_task: RunTask, stop: StopSignal | None = None) -> StageContext:
    """A context whose reports go nowhere but are kept in `context.report.current`."""
    reporter = Reporter(MemorySink())
    report = StageReporter(reporter, "pod-uid", STAGE_OF_JOB[run_task.stage])
    return StageContext(run_task, layout, report, Heartbeat(), stop or StopSignal(), cores=1)


def newest_state(context: StageContext) -> dict[str, Any]:
    """What the newest checkpoint of a run holds."""
    from azaion_trainer.checkpoints import CheckpointStore

    found = CheckpointStore(context.run.checkpoints).newest().found
    assert found is not None
    return found.state


def no_progress(_done: int, _total: int) -> None:
    """Nobody looks."""


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait with a deadline for something another thread does."""
    condition = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        condition.wait(0.01)


def dataset_status(path: str, counts: Sequence[int] = (42, 12, 6)) -> DatasetStatus:
    """A data set as prepare reports it."""
    train, valid, test = counts
    return DatasetStatus(path=path, train=train, valid=valid, test=test, digest="sha256:of-a-test")
