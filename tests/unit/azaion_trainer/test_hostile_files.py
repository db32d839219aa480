"""What lies on the volume may have been put there to do harm: links that lead out of it, files that would run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainer_make import GOOD_LABEL, add_pairs, jpeg, no_progress, request, spec, stage_context, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_trainer.dataset import open_data_set
from azaion_trainer.failures import BadDataError, BadSpecError, StageError
from azaion_trainer.forming import form
from azaion_trainer.pairs import UnusableError, check_pair
from azaion_trainer.train import _base_model, _search, _take_over_best

#: As the token of a pod, which every process in it may read.
TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6InNlY3JldCJ9"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file outside of the storage."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


# Links


def test_a_label_that_is_a_link_is_not_followed_and_its_target_not_told(layout: Layout, token: Path) -> None:
    add_pairs(layout, 1)
    (layout.images("data") / "stolen.jpg").write_bytes(jpeg())
    (layout.labels("data") / "stolen.txt").symlink_to(token)
    with pytest.raises(UnusableError) as refused:
        check_pair(layout.images("data"), layout.labels("data"), "stolen.jpg", 80)
    assert str(refused.value) == "stolen.txt is a symbolic link"


def test_an_image_that_is_a_link_is_not_read(layout: Layout, token: Path) -> None:
    add_pairs(layout, 1)
    (layout.images("data") / "stolen.jpg").symlink_to(token)
    (layout.labels("data") / "stolen.txt").write_text(GOOD_LABEL)
    with pytest.raises(UnusableError, match=r"stolen\.jpg is a symbolic link"):
        check_pair(layout.images("data"), layout.labels("data"), "stolen.jpg", 80)


def test_a_data_set_formed_beside_links_holds_nothing_of_what_they_lead_to(layout: Layout, token: Path) -> None:
    add_pairs(layout, 20)
    (layout.images("data") / "stolen.jpg").write_bytes(jpeg())
    (layout.labels("data") / "stolen.txt").symlink_to(token)
    formed = form(layout, request(), no_progress)
    kept = [path.read_bytes() for path in formed.path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in kept)
    reasons = [path.read_text() for path in (layout.root / "data-corrupted").rglob("*.txt") if not path.is_symlink()]
    assert not any(TOKEN in text for text in reasons)


def test_a_data_set_that_is_a_link_out_of_the_storage_is_refused(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "images" / "train").mkdir(parents=True)
    (outside / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/train", "names": ["a"]}))
    (layout.datasets / "theirs").symlink_to(outside)
    with pytest.raises(BadDataError, match="leads out of the storage by a symbolic link"):
        open_data_set(layout, "datasets/theirs")


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_a_data_yaml_that_names_directories_elsewhere_is_refused(layout: Layout, tmp_path: Path, how: str) -> None:
    outside = tmp_path / "outside" / "images"
    outside.mkdir(parents=True)
    path = layout.datasets / "theirs"
    path.mkdir()
    (path / "images").symlink_to(outside)
    named = {"absolute": str(outside), "upwards": "../../../outside/images", "link": "images"}[how]
    (path / "data.yaml").write_text(yaml.safe_dump({"path": ".", "train": named, "val": named, "names": ["a"]}))
    with pytest.raises(BadDataError, match=r"outside the storage|no directory there"):
        open_data_set(layout, "datasets/theirs")


def test_a_data_yaml_s_download_script_and_objects_are_never_run(layout: Layout, tmp_path: Path) -> None:
    path = layout.datasets / "theirs"
    for split in ("train", "val"):
        (path / "images" / split).mkdir(parents=True)
    ran = tmp_path / "ran"
    plain = {"train": "images/train", "val": "images/val", "names": ["a"], "download": f"touch {ran}"}
    (path / "data.yaml").write_text(yaml.safe_dump(plain))
    data_set = open_data_set(layout, "datasets/theirs")
    assert "download" not in yaml.safe_load(data_set.training_yaml())
    (path / "data.yaml").write_text(f"names: !!python/object/apply:os.mkdir ['{ran}']\n")
    with pytest.raises(BadDataError, match="is not YAML"):
        open_data_set(layout, "datasets/theirs")
    assert not ran.exists()


def context(layout: Layout, **changes: Any) -> Any:
    return stage_context(layout, task(JobStage.TRAIN, **changes))


@pytest.mark.parametrize("base", ["theirs.pt", "Current"])
def test_a_base_model_that_is_a_link_out_of_the_storage_is_refused(layout: Layout, token: Path, base: str) -> None:
    (layout.models / "theirs.pt").symlink_to(token)
    run = context(layout, run_spec=spec(base), current_model="models/theirs.pt")
    with pytest.raises(BadSpecError, match="leads out of the storage by a symbolic link"):
        _base_model(run)


def test_a_run_to_resume_from_that_is_a_link_out_of_the_storage_is_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (layout.runs / "theirs-12345678").symlink_to(tmp_path / "outside")
    run = context(layout, run_spec=spec(resume_from="runs/theirs-12345678"))
    from azaion_trainer.checkpoints import CheckpointStore

    with pytest.raises(BadSpecError, match="runs/theirs-12345678 is not there"):
        _search(run, CheckpointStore(run.run.checkpoints))


def test_best_weights_that_are_a_link_are_not_copied_from_a_run_to_the_next(layout: Layout, token: Path) -> None:
    theirs, ours = layout.runs / "theirs-1" / "train", layout.runs / "ours-2" / "train"
    (theirs / "weights").mkdir(parents=True)
    (theirs / "weights" / "best.pt").symlink_to(token)
    with pytest.raises(BadSpecError, match=r"best\.pt leads out of the storage by a symbolic link"):
        _take_over_best(layout.root, theirs, ours)
    assert not ours.exists()


# Files that would run


class Trap:
    """Makes a directory when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model", "ema", "train_args", "anything"])
def test_a_base_model_that_would_run_code_fails_the_run_and_does_not_run(
    layout: Layout, tmp_path: Path, key: str
) -> None:
    import torch

    from azaion_trainer import engine

    os.environ.update(engine.environment(1))
    engine.start(1, lambda *_: None)
    torch.save({"model": None, key: Trap(tmp_path / "ran")}, layout.models / "trap.pt")
    with pytest.raises(StageError, match=r"the base model models/trap\.pt cannot be used"):
        _base_model(context(layout, run_spec=spec("trap.pt")))
    assert not (tmp_path / "ran").exists()
