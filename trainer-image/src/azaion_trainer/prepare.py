"""The stage `prepare`: a data set to train on, formed or verified."""

from __future__ import annotations

import logging

import msgspec

from azaion_api.reporter import utc_now
from azaion_api.training_run import DatasetStatus, GroupBy
from azaion_trainer.classes import read_class_names
from azaion_trainer.dataset import open_data_set, verify
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.forming import CORRUPTED_DIRECTORY, FormingRequest, Progress, form, status_of
from azaion_trainer.manifest import list_images
from azaion_trainer.split import SplitPlan
from azaion_trainer.stage import StageContext

log = logging.getLogger(__name__)


def prepare(context: StageContext) -> str:
    """Form the run's data set or verify the existing one it names, and report it."""
    wanted = context.task.spec.dataset
    status = _existing(context, wanted.existing) if wanted.existing else _form(context)
    context.report.publish(dataset=status)
    require_trainable(status, wanted.existing or wanted.source, wanted.group_by)
    total = status.train + status.valid + status.test
    aside = f", {status.corrupted} unusable pairs set aside" if status.corrupted else ""
    return f"{status.path}: {total} images ({status.train} train, {status.valid} valid, {status.test} test){aside}"


def _form(context: StageContext) -> DatasetStatus:
    wanted = context.task.spec.dataset
    if wanted.split.train + wanted.split.valid + wanted.split.test != 100:
        raise BadSpecError("dataset.split: train, valid and test have to sum to 100")
    if not list_images(context.layout.images(wanted.source)):
        # Nothing to form; an empty data set would only be in the way.
        require_trainable(DatasetStatus(path="", train=0, valid=0, test=0), wanted.source, wanted.group_by)
    request = FormingRequest(
        run=context.task.run,
        run_uid=context.task.uid,
        source=wanted.source,
        plan=SplitPlan(wanted.seed, wanted.split, wanted.group_by),
        names=read_class_names(context.layout.root / wanted.classes.path),
        day=utc_now().date(),
        line=context.task.spec.line_ref.name,
    )
    formed = form(context.layout, request, _progress(context, f"checking the images of {wanted.source}"))
    return status_of(context.layout, formed)


def _existing(context: StageContext, relative: str) -> DatasetStatus:
    data_set = open_data_set(context.layout, relative)
    status = verify(data_set, _progress(context, f"verifying {relative}"))
    return msgspec.structs.replace(status, path=relative)


def _progress(context: StageContext, activity: str) -> Progress:
    def tell(done: int, total: int) -> None:
        context.heart.beat()
        context.report.progress(activity, done / total)

    return tell


def require_trainable(status: DatasetStatus, source: str, group_by: GroupBy) -> None:
    """Raises BadDataError saying what is missing for a training."""
    total = status.train + status.valid + status.test
    if total == 0:
        aside = f" ({status.corrupted} unusable pairs are now in {CORRUPTED_DIRECTORY}/)" if status.corrupted else ""
        raise BadDataError(
            f"{source} holds no usable annotated image{aside}; let an AnnotationIngest fill it, "
            f"or put images and labels into {source}/images and {source}/labels"
        )
    for split, count in (("train", status.train), ("valid", status.valid)):
        if count == 0:
            hint = (
                "all images may be of one medium: set dataset.groupBy to Name, or annotate more media"
                if group_by is GroupBy.MEDIA
                else "annotate more images, or change dataset.split"
            )
            raise BadDataError(f"of {total} images of {source} none falls into the {split} split; {hint}")
