"""The stage prepare, as the operator starts it."""

from __future__ import annotations

import msgspec
import pytest
from trainer_make import add_pair, add_pairs, jpeg, no_progress, request, spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.training_run import Dataset, GroupBy, Split, TrainingRunSpec
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.forming import form
from azaion_trainer.prepare import prepare
from azaion_trainer.stage import StageContext


def context(layout: Layout, **dataset: object) -> StageContext:
    run_spec: TrainingRunSpec = msgspec.structs.replace(spec(), dataset=Dataset(**dataset))  # type: ignore[arg-type]
    return stage_context(layout, task(JobStage.PREPARE, run_spec))


def test_a_formed_data_set_is_reported(layout: Layout) -> None:
    add_pairs(layout, 20)
    add_pair(layout, "empty", b"")
    stage = context(layout)
    assert prepare(stage).endswith("20 images (14 train, 4 valid, 2 test), 1 unusable pairs set aside")
    status = stage.report.current.dataset
    assert status is not None
    assert (status.train, status.valid, status.test, status.corrupted) == (14, 4, 2, 1)
    assert (layout.root / status.path / "manifest.json").exists()
    assert stage.report.current.progress.activity == "checking the images of data"


def test_an_empty_source_says_what_to_do_and_leaves_nothing(layout: Layout) -> None:
    with pytest.raises(BadDataError, match="data holds no usable annotated image; let an AnnotationIngest fill it"):
        prepare(context(layout))
    assert list(layout.datasets.iterdir()) == []


def test_a_source_of_only_bad_pairs_says_where_they_are(layout: Layout) -> None:
    add_pair(layout, "a", b"")
    with pytest.raises(BadDataError, match=r"1 unusable pairs are now in data-corrupted/"):
        prepare(context(layout))


def test_a_single_medium_cannot_be_split(layout: Layout) -> None:
    for frame in range(10):
        add_pair(layout, f"video_{frame}", jpeg(colour=frame))
    with pytest.raises(BadDataError, match=r"set dataset\.groupBy to Name"):
        prepare(context(layout, group_by=GroupBy.MEDIA))


def test_one_image_is_too_few(layout: Layout) -> None:
    add_pairs(layout, 1)
    with pytest.raises(BadDataError, match="none falls into the valid split; annotate more images"):
        prepare(context(layout))


def test_shares_that_do_not_sum_to_a_hundred_are_a_bad_spec(layout: Layout) -> None:
    add_pairs(layout, 5)
    with pytest.raises(BadSpecError, match="have to sum to 100"):
        prepare(context(layout, split=Split(train=70, valid=20, test=20)))


def test_missing_classes_are_said(layout: Layout) -> None:
    add_pairs(layout, 5)
    layout.classes.unlink()
    with pytest.raises(BadDataError, match=r"classes\.json is missing"):
        prepare(context(layout))


def test_an_existing_data_set_is_verified_and_taken(layout: Layout) -> None:
    add_pairs(layout, 20)
    path = form(layout, request("another-run"), no_progress).path
    stage = context(layout, existing=f"datasets/{path.name}")
    prepare(stage)
    status = stage.report.current.dataset
    assert status is not None
    assert status.path == f"datasets/{path.name}"
    assert (status.train, status.valid, status.test) == (14, 4, 2)
    assert len(list(layout.datasets.iterdir())) == 1
