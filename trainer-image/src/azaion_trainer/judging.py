"""Judging a model on a split: ultralytics' validation, and for every image what was found and what was missed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils.metrics import box_iou
from ultralytics.utils.ops import scale_boxes

from azaion_api.training_run import Scores
from azaion_trainer.gain import ImageStatistics

#: A detection counts from the confidence with the model's best F1 on, but never needs more than this (ultralytics'
#: own default for predictions): a young model is right long before it is sure.
MOST_CONFIDENCE = 0.25
#: What is kept at all of the many detections of next to no confidence.
LEAST_CONFIDENCE = 0.02
#: Below this a detection is one of low confidence.
SURE_CONFIDENCE = 0.5
_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Box:
    """An object: corners in pixels of the image as it was taken, and how sure the model is (1 for annotations)."""

    class_number: int
    corners: tuple[float, float, float, float]
    confidence: float = 1.0


@dataclass(frozen=True)
class JudgedImage:
    """One image: what annotators marked and what the model finds."""

    path: Path
    marked: tuple[Box, ...]
    found: tuple[Box, ...]
    #: Marked objects that no counting detection matches.
    missed: int
    #: Marked objects whose best match is below SURE_CONFIDENCE.
    unsure: int

    @property
    def is_hard(self) -> bool:
        return self.missed + self.unsure > 0


@dataclass(frozen=True)
class Judgement:
    """What a model is worth on a split."""

    scores: Scores
    #: mAP50-95 per class name, for classes the split holds.
    per_class: dict[str, float]
    #: From which on detections count.
    confidence: float
    images: tuple[JudgedImage, ...]
    #: What validation counted on every image, in the same order for every model judged on the same split.
    statistics: tuple[ImageStatistics, ...]

    @property
    def hard_samples(self) -> int:
        return sum(image.is_hard for image in self.images)


@dataclass(frozen=True)
class JudgingSettings:
    """The same for every model that is compared."""

    #: ultralytics' arguments: data, split, imgsz, batch, device, workers, ...
    arguments: dict[str, Any]
    #: Called after every batch with images done.
    progress: Callable[[int], None]


class UnloadableError(Exception):
    """A file that is no model this trainer can load; the message says why."""


def load_model(path: Path) -> Any:
    """A detection model in FP32, loaded without running code of the file. Raises UnloadableError."""
    if not zipfile.is_zipfile(path):
        raise UnloadableError("the file is no PyTorch checkpoint, or it is truncated")
    try:
        model, _ = load_checkpoint(path)
    except (TypeError, RuntimeError, OSError, ValueError, LookupError, AttributeError, ImportError) as error:
        raise UnloadableError(f"it cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if model.task != "detect":
        raise UnloadableError(f"it is a model for {model.task}, not for detection")
    return model


def class_names(model: Any) -> tuple[str, ...]:
    """The model's class names in the order of their numbers."""
    return tuple(str(model.names[number]) for number in sorted(model.names))


def judge(model: Any, settings: JudgingSettings, directory: Path, plots: bool) -> Judgement:
    """Validate a model; curves and the confusion matrix go into `directory` with `plots`."""
    directory.mkdir(parents=True, exist_ok=True)
    arguments = {**settings.arguments, "mode": "val", "task": "detect", "plots": plots, "verbose": False}
    validator = _CollectingValidator(settings, args=arguments, save_dir=directory)
    validator(model=model)
    box = validator.metrics.box
    scores = Scores(
        map50=_ratio(box.map50),
        map50to95=_ratio(box.map),
        precision=_ratio(box.mp),
        recall=_ratio(box.mr),
        f1=_ratio(float(np.mean(box.f1)) if len(box.f1) else 0.0),
    )
    per_class = {
        str(validator.names[int(number)]): round(float(box.class_result(i)[3]), 5)
        for i, number in enumerate(box.ap_class_index)
    }
    confidence = counting_confidence(np.asarray(box.f1_curve), np.asarray(box.px))
    images = tuple(image.judged(confidence) for image in validator.collected)
    return Judgement(scores, per_class, confidence, images, validator.statistics)


def counting_confidence(f1_curve: np.ndarray[Any, Any], confidences: np.ndarray[Any, Any]) -> float:
    """The confidence with the best mean F1, within LEAST_CONFIDENCE and MOST_CONFIDENCE.

    `f1_curve` is [classes, points], `confidences` the points.
    """
    if not f1_curve.size or not f1_curve.any():
        return MOST_CONFIDENCE
    best = float(confidences[f1_curve.mean(0).argmax()])
    return min(max(best, LEAST_CONFIDENCE), MOST_CONFIDENCE)


def _ratio(value: float) -> str:
    return f"{float(value):.5f}"


@dataclass(frozen=True)
class _CollectedImage:
    """One image as validated, tensors on the CPU."""

    path: Path
    marked_classes: torch.Tensor
    #: Corners in pixels of the original image, as all boxes here.
    marked: torch.Tensor
    classes: torch.Tensor
    boxes: torch.Tensor
    confidences: torch.Tensor

    def judged(self, confidence: float) -> JudgedImage:
        seen = self.confidences >= confidence
        classes, boxes, confidences = self.classes[seen], self.boxes[seen], self.confidences[seen]
        best = _best_matches(self.marked_classes, self.marked, classes, boxes, confidences)
        return JudgedImage(
            path=self.path,
            marked=_boxes(self.marked_classes, self.marked, torch.ones(len(self.marked))),
            found=_boxes(classes, boxes, confidences),
            missed=int((best == 0).sum()),
            unsure=int(((best > 0) & (best < SURE_CONFIDENCE)).sum()),
        )


class _CollectingValidator(DetectionValidator):  # type: ignore[misc]
    """ultralytics' validator, which also remembers every image."""

    def __init__(self, settings: JudgingSettings, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.collected: list[_CollectedImage] = []
        self.statistics: tuple[ImageStatistics, ...] = ()
        self._progress = settings.progress

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        super().update_metrics(preds, batch)
        for number, prediction in enumerate(preds):
            self.collected.append(_collect(prediction, self._prepare_batch(number, batch)))
        self._progress(len(self.collected))

    def get_stats(self) -> dict[str, Any]:
        # Taken here: the validator forgets them once it has its figures.
        kept = self.metrics.stats
        rows = zip(kept["tp"], kept["conf"], kept["pred_cls"], kept["target_cls"], strict=True)
        self.statistics = tuple(
            ImageStatistics(str(image.path), tp.astype(bool), confidence, found, marked.reshape(-1))
            for image, (tp, confidence, found, marked) in zip(self.collected, rows, strict=True)
        )
        figures: dict[str, Any] = super().get_stats()
        return figures


def _collect(prediction: dict[str, torch.Tensor], image: dict[str, Any]) -> _CollectedImage:
    kept = prediction["conf"] >= LEAST_CONFIDENCE

    def original(boxes: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = scale_boxes(
            image["imgsz"], boxes.clone().float(), image["ori_shape"], ratio_pad=image["ratio_pad"]
        )
        return scaled.cpu()

    return _CollectedImage(
        path=Path(image["im_file"]),
        marked_classes=image["cls"].cpu(),
        marked=original(image["bboxes"]),
        classes=prediction["cls"][kept].cpu(),
        boxes=original(prediction["bboxes"][kept]),
        confidences=prediction["conf"][kept].float().cpu(),
    )


def _best_matches(
    marked_classes: torch.Tensor,
    marked: torch.Tensor,
    classes: torch.Tensor,
    boxes: torch.Tensor,
    confidences: torch.Tensor,
) -> torch.Tensor:
    """For every marked object the highest confidence of a detection that matches it, 0 where none does."""
    if not len(marked) or not len(boxes):
        return torch.zeros(len(marked))
    matches = (box_iou(marked, boxes) >= _MATCH_IOU) & (marked_classes[:, None] == classes[None, :])
    return (matches.float() * confidences[None, :]).amax(dim=1)


def _boxes(classes: torch.Tensor, corners: torch.Tensor, confidences: torch.Tensor) -> tuple[Box, ...]:
    rows = zip(classes.tolist(), corners.tolist(), confidences.tolist(), strict=True)
    return tuple(Box(int(number), (x1, y1, x2, y2), float(confidence)) for number, (x1, y1, x2, y2), confidence in rows)
