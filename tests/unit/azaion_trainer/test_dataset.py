"""Existing data sets: ours against their manifest, and plain YOLO directories."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from trainer_make import GOOD_LABEL, add_pairs, jpeg, no_progress, request

from azaion_api.layout import Layout
from azaion_trainer.dataset import open_data_set, verify
from azaion_trainer.failures import BadDataError
from azaion_trainer.forming import form


def formed(layout: Layout, count: int = 20) -> str:
    add_pairs(layout, count)
    return str(form(layout, request(), no_progress).path.relative_to(layout.root))


def plain(layout: Layout, name: str = "theirs", **changes: object) -> Path:
    """A directory as a user of ultralytics has it."""
    path = layout.datasets / name
    for split in ("train", "val"):
        (path / "images" / split).mkdir(parents=True)
        (path / "labels" / split).mkdir(parents=True)
        for number in range(3):
            (path / "images" / split / f"{split}{number}.jpg").write_bytes(jpeg(colour=number))
            (path / "labels" / split / f"{split}{number}.txt").write_text(GOOD_LABEL)
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}, **changes}
    (path / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def test_a_formed_set_is_what_its_manifest_says(layout: Layout) -> None:
    relative = formed(layout)
    data_set = open_data_set(layout, relative)
    status = verify(data_set, no_progress)
    assert data_set.manifest is not None
    assert (status.train, status.valid, status.test) == (14, 4, 2)
    assert status.digest == data_set.manifest.digest


@pytest.mark.parametrize("damage", ["remove", "replace", "move"])
def test_a_formed_set_that_was_changed_is_refused(layout: Layout, damage: str) -> None:
    relative = formed(layout)
    root = layout.root / relative
    victim = sorted((root / "train" / "images").iterdir())[0]
    label = root / "train" / "labels" / f"{victim.stem}.txt"
    if damage == "remove":
        victim.unlink()
        label.unlink()
    elif damage == "replace":
        victim.unlink()
        victim.write_bytes(jpeg(colour=250))
    else:
        victim.rename(root / "valid" / "images" / victim.name)
        label.rename(root / "valid" / "labels" / label.name)
    with pytest.raises(BadDataError, match=r"is not what its manifest\.json says"):
        verify(open_data_set(layout, relative), no_progress)


def test_a_plain_yolo_directory_is_taken_as_it_is(layout: Layout) -> None:
    plain(layout)
    data_set = open_data_set(layout, "datasets/theirs")
    status = verify(data_set, no_progress)
    assert (status.train, status.valid, status.test) == (3, 3, 0)
    assert data_set.names == ("cat", "dog")
    training = yaml.safe_load(data_set.training_yaml())
    assert training["train"] == [str(layout.datasets / "theirs/images/train")]
    assert training["names"] == {0: "cat", 1: "dog"}
    assert "test" not in training


def test_images_without_label_are_backgrounds_in_a_plain_directory(layout: Layout) -> None:
    path = plain(layout)
    (path / "labels/train/train0.txt").unlink()
    assert verify(open_data_set(layout, "datasets/theirs"), no_progress).train == 3


def test_unusable_pairs_of_a_plain_directory_are_named_and_stay(layout: Layout) -> None:
    path = plain(layout)
    (path / "labels/train/train0.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    (path / "images/val/val1.jpg").write_bytes(b"")
    with pytest.raises(BadDataError, match=r"2 of 6 pairs of theirs cannot be used: .*class 2 is not .* from 0 to 1"):
        verify(open_data_set(layout, "datasets/theirs"), no_progress)
    assert (path / "images/val/val1.jpg").exists()


def test_what_a_users_data_yaml_would_run_or_download_never_reaches_training(layout: Layout) -> None:
    plain(layout, download="import os; os.system('touch /tmp/ran')", nc=2)
    training = yaml.safe_load(open_data_set(layout, "datasets/theirs").training_yaml())
    assert set(training) == {"path", "train", "val", "nc", "names"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": None}, "names no directory for the train split"),
        ({"val": None}, "names no directory for the valid split"),
        ({"train": "images/nothing"}, "images/nothing, which is no directory there"),
        ({"train": "/"}, "lies outside the storage"),
        ({"train": "../../../.."}, "lies outside the storage"),
        ({"train": 3}, "has to be a directory"),
        ({"names": []}, "names has to list the class names"),
        ({"names": {1: "a"}}, "have to be 0, 1, 2"),
        ({"nc": 5}, "nc is 5, but names has 2 entries"),
    ],
)
def test_a_bad_data_yaml_is_said(layout: Layout, changes: dict[str, object], reason: str) -> None:
    plain(layout, **changes)
    with pytest.raises(BadDataError, match=reason):
        open_data_set(layout, "datasets/theirs")


def test_directories_that_are_not_there_or_lead_away_are_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="datasets/none is not there"):
        open_data_set(layout, "datasets/none")
    (tmp_path / "elsewhere").mkdir()
    (layout.datasets / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadDataError, match="leads out of the storage"):
        open_data_set(layout, "datasets/link")
    (layout.datasets / "bare").mkdir()
    with pytest.raises(BadDataError, match=r"has no data\.yaml"):
        open_data_set(layout, "datasets/bare")
    (layout.datasets / "bare" / "data.yaml").write_text("[1, 2")
    with pytest.raises(BadDataError, match="is not YAML"):
        open_data_set(layout, "datasets/bare")


def test_a_directory_outside_images_is_refused_because_its_labels_could_not_be_found(layout: Layout) -> None:
    path = plain(layout, train="pictures")
    (path / "pictures").mkdir()
    with pytest.raises(BadDataError, match="has to lie in one called images"):
        open_data_set(layout, "datasets/theirs")
