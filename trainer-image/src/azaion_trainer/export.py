"""From the trained .pt to formats others run, each checked against the .pt itself.

ONNX comes first; every other format is made from the ONNX file by an exporter (see Exporter), so that all of them have
the same input and the same output.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.patches import imread

from azaion_trainer import files
from azaion_trainer.judging import load_model

Batch = np.ndarray[Any, np.dtype[np.float32]]

#: Entry points that make further formats from an ONNX file; their names are those of spec.export.formats.
EXPORTERS = "azaion_trainer.exporters"
#: Images a call may hold: the graph unrolls this many.
MAX_BATCH = 8
MAX_DETECTIONS = 300
#: Detections below are left out inside the exported model.
CONFIDENCE = 0.05
OVERLAP = 0.7
#: What counts as the same detection, in pixels of the model's input and in confidence.
BOX_TOLERANCE_PIXELS = 1.0
SCORE_TOLERANCE = 0.01
#: Share of detections that have to be the same.
REQUIRED_AGREEMENT = 0.99
#: Images the check runs on.
CHECK_IMAGES = MAX_BATCH * (MAX_BATCH + 1) // 2


class ExportError(Exception):
    """An export that cannot be used; the message says why. The trained model is not touched by it."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How an exported model compares with the .pt on the same images."""

    images: int
    detections: int
    matched: int
    #: Largest differences among matched detections.
    box_pixels: float
    score: float

    @property
    def share(self) -> float:
        return self.matched / self.detections if self.detections else 1.0

    def sentence(self) -> str:
        if not self.detections:
            return f"neither the .pt nor the export finds anything on {self.images} images"
        return (
            f"{100 * self.share:.2f} % of {self.detections} detections on {self.images} images are the same "
            f"(boxes within {self.box_pixels:.3f} px, scores within {self.score:.4f})"
        )


def export_onnx(weights: Path, target: Path, image_size: int, beat: Callable[[], None]) -> None:
    """Write `target`: input `images` [batch, 3, size, size], output [batch, 300, 6] of x1 y1 x2 y2 score class.

    Non-maximum suppression is inside; batch is 1 to MAX_BATCH. Raises ExportError.
    """
    from ultralytics import YOLO

    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.stem}.exporting.pt")
    staged.unlink(missing_ok=True)
    files.link_or_copy(weights, staged)  # ultralytics exports beside the file it is given
    try:
        beat()
        written = YOLO(str(staged), task="detect").export(
            format="onnx",
            imgsz=image_size,
            batch=MAX_BATCH,
            dynamic=True,
            simplify=True,
            nms=True,
            conf=CONFIDENCE,
            iou=OVERLAP,
            max_det=MAX_DETECTIONS,
            device="cpu",
        )
        beat()
        _fix_shapes(Path(written), target, image_size)
    except (RuntimeError, ValueError, TypeError, OSError, AssertionError, LookupError, ImportError) as error:
        if isinstance(error, OSError):
            raise
        raise ExportError(words(error)) from error
    finally:
        staged.unlink(missing_ok=True)
        staged.with_suffix(".onnx").unlink(missing_ok=True)


def _fix_shapes(written: Path, target: Path, image_size: int) -> None:
    """Only the batch is free: height and width are what the model was exported at."""
    import onnx

    model = onnx.load(written)
    for number, size in ((1, 3), (2, image_size), (3, image_size)):
        model.graph.input[0].type.tensor_type.shape.dim[number].Clear()
        model.graph.input[0].type.tensor_type.shape.dim[number].dim_value = size
    output = model.graph.output[0].type.tensor_type.shape
    for number, size in ((1, MAX_DETECTIONS), (2, 6)):
        output.dim[number].Clear()
        output.dim[number].dim_value = size
    onnx.checker.check_model(model)
    with files.replacing(target) as file:
        file.write(model.SerializeToString())


#: Runs an exported model: images [n, 3, size, size] in, detections [n, 300, 6] out, n from 1 to MAX_BATCH.
Runner = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Source:
    """What the formats behind ONNX are made from; the ONNX file has been compared with the weights."""

    weights: Path
    onnx: Path
    image_size: int
    device: torch.device


class Exporter(Protocol):
    """A further format, found by its name among the entry points of the group EXPORTERS."""

    def file_name(self, line: str, device: torch.device) -> str:
        """Name of the file for a line's model. Raises ExportError when there is nothing to make it with or for."""

    def build(self, source: Source, target: Path) -> None:
        """Write `target`. Raises ExportError."""

    def runner(self, exported: Path, source: Source) -> Runner | None:
        """What runs the file, to compare it with the .pt; None where that takes a device that is not here."""


def exporter(format_: str) -> Exporter:
    """The exporter of a format. Raises ExportError when the image has none."""
    for entry in importlib.metadata.entry_points(group=EXPORTERS, name=format_):
        try:
            found: Exporter = entry.load()()
        except ImportError as error:
            raise ExportError(f"its exporter {entry.value} cannot be imported: {error}") from error
        return found
    raise ExportError(f"the trainer's image has no exporter for {format_}; docs/export.md says how to add one")


def onnx_runner(exported: Path, cores: int) -> Runner:
    """Runs an ONNX file on the CPU. Raises ExportError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(os.fspath(exported), options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError) as error:  # onnxruntime's own errors are RuntimeErrors
        raise ExportError(words(error)) from error
    name = session.get_inputs()[0].name

    def run(batch: Batch) -> Batch:
        (found,) = session.run(None, {name: batch})
        return np.asarray(found)

    return run


class Comparison:
    """What the .pt finds on some images, found once, beside what its exports find there, alone and in batches."""

    def __init__(self, weights: Path, images: Sequence[Path], image_size: int) -> None:
        self._weights = weights
        self._images = images
        self._image_size = image_size
        #: Detections of every image of every batch; the batches themselves would be hundreds of megabytes.
        self._expected: list[list[np.ndarray[Any, Any]]] | None = None

    def check(self, runner: Runner) -> Agreement:
        """Raises ExportError when the two disagree too often."""
        found = [0, 0]
        boxes_off = scores_off = 0.0
        try:
            batches = _batches(self._images, self._image_size)
            if self._expected is None:
                model = load_model(self._weights).eval()
                self._expected = [_reference(model, batch) for batch in batches]
            for batch, expected in zip(batches, self._expected, strict=True):
                given = runner(batch)
                if given.shape != (len(batch), MAX_DETECTIONS, 6):
                    raise ExportError(f"the output is {given.shape} instead of {(len(batch), MAX_DETECTIONS, 6)}")
                for ours, theirs in zip(expected, given, strict=True):
                    matched, total, box, score = compare(ours, theirs[theirs[:, 4] > 0])
                    found = [found[0] + matched, found[1] + total]
                    boxes_off, scores_off = max(boxes_off, box), max(scores_off, score)
        except (RuntimeError, ValueError) as error:
            raise ExportError(words(error)) from error
        agreement = Agreement(
            images=len(self._images), detections=found[1], matched=found[0], box_pixels=boxes_off, score=scores_off
        )
        if agreement.share < REQUIRED_AGREEMENT:
            raise ExportError(f"only {agreement.sentence()}; {100 * REQUIRED_AGREEMENT:.0f} % are needed")
        return agreement


def words(error: Exception) -> str:
    """The first line of what a library says of its failure, which may be hundreds long, or nothing."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _batches(images: Sequence[Path], image_size: int) -> list[Batch]:
    """One batch of every size from 1 to MAX_BATCH; images come again where there are not enough for all."""
    if not images:
        return []
    supply = itertools.cycle([_input(path, image_size) for path in images])
    return [np.stack(list(itertools.islice(supply, size))) for size in range(1, MAX_BATCH + 1)]


def _input(path: Path, image_size: int) -> Batch:
    """An image as the models want it: letterboxed, RGB, channels first, 0 to 1."""
    picture = LetterBox(new_shape=(image_size, image_size), auto=False)(image=imread(str(path)))
    planes: Batch = picture[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    return np.ascontiguousarray(planes / np.float32(255))


def _reference(model: Any, batch: Batch) -> list[np.ndarray[Any, Any]]:
    """What the .pt finds, with the same suppression the export has inside."""
    if hasattr(model, "end2end"):
        model.end2end = False
    with torch.inference_mode():
        rows = non_max_suppression(
            model(torch.from_numpy(batch)), CONFIDENCE, OVERLAP, max_det=MAX_DETECTIONS, multi_label=False
        )
    return [row.numpy()[:, :6] for row in rows]


def compare(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> tuple[int, int, float, float]:
    """Matched detections, detections to match, and the largest differences of boxes and scores among the matched.

    Rows are x1 y1 x2 y2 score class. A detection only one of the two has counts as not matched.
    """
    free = list(range(len(theirs)))
    matched, box_off, score_off = 0, 0.0, 0.0
    for row in ours:
        for number in free:
            box = float(np.abs(theirs[number, :4] - row[:4]).max())
            score = float(abs(theirs[number, 4] - row[4]))
            if theirs[number, 5] == row[5] and box <= BOX_TOLERANCE_PIXELS and score <= SCORE_TOLERANCE:
                free.remove(number)
                matched += 1
                box_off, score_off = max(box_off, box), max(score_off, score)
                break
    return matched, max(len(ours), len(theirs)), box_off, score_off
