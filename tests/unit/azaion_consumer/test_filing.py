"""What every message does to the tree: role and status, moves, repetitions, and nothing outside the root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from consumer_make import (
    JPEG,
    PROPERTY,
    annotation,
    created,
    deleted,
    edited,
    entry,
    fields,
    file_batch,
    opened,
    tree,
    validated,
)
from hypothesis import given
from hypothesis import strategies as st

from azaion_consumer.messages import Detection, Role, label_content

PNG = b"\x89PNG\r\n\x1a\n picture"
LABEL = label_content(annotation().detections)
OTHER = (Detection(5, 0.5, 0.5, 0.2, 0.2),)
OTHER_LABEL = label_content(OTHER)


def pair(
    directory: str, name: str, label: bytes = LABEL, image: bytes = JPEG, extension: str = "jpg"
) -> dict[str, bytes]:
    return {f"{directory}/images/{name}.{extension}": image, f"{directory}/labels/{name}.txt": label}


def filed(root: Path, *batches: list[bytes]) -> dict[str, bytes]:
    """The tree after filing the batches."""
    root.mkdir(exist_ok=True)
    storage = opened(root)
    offset = 0
    for batch in batches:
        file_batch(storage, batch, offset)
        offset += len(batch)
    storage.lock.release()
    return tree(root)


VALIDATORS = [Role.VALIDATOR, Role.ADMIN, Role.API_ADMIN]
OTHERS = [Role.OPERATOR, Role.COMPANION_PC]


@pytest.mark.parametrize(("role", "directory"), [(r, "data") for r in VALIDATORS] + [(r, "data-seed") for r in OTHERS])
def test_created_goes_to_data_or_to_data_seed_by_the_creators_role(tmp_path: Path, role: Role, directory: str) -> None:
    assert filed(tmp_path, [created("x", role=role)]) == pair(directory, "x")


@pytest.mark.parametrize("role", VALIDATORS)
def test_a_validators_edit_rewrites_the_label_in_data_and_brings_the_image_from_data_seed(
    tmp_path: Path, role: Role
) -> None:
    batch = [created("x", role=Role.OPERATOR), edited("x", role=role, detections=OTHER)]
    assert filed(tmp_path, batch) == pair("data", "x", OTHER_LABEL)


@pytest.mark.parametrize("role", OTHERS)
def test_anyone_elses_edit_rewrites_the_label_in_data_seed(tmp_path: Path, role: Role) -> None:
    batch = [created("x", role=Role.OPERATOR), edited("x", role=role, detections=OTHER)]
    assert filed(tmp_path, batch) == pair("data-seed", "x", OTHER_LABEL)


def test_a_validators_edit_of_what_is_in_data_rewrites_the_label_only(tmp_path: Path) -> None:
    assert filed(tmp_path, [created("x"), edited("x", detections=OTHER)]) == pair("data", "x", OTHER_LABEL)


def test_an_edit_of_a_picture_that_never_came_leaves_its_label_for_later(tmp_path: Path) -> None:
    assert filed(tmp_path, [edited("x", detections=OTHER)]) == {"data/labels/x.txt": OTHER_LABEL}


def test_validated_moves_image_and_label_from_data_seed_to_data(tmp_path: Path) -> None:
    batch = [created(name, role=Role.OPERATOR) for name in "abc"] + [validated("a", "c")]
    assert filed(tmp_path, batch) == pair("data", "a") | pair("data-seed", "b") | pair("data", "c")


@pytest.mark.parametrize("role", [Role.VALIDATOR, Role.OPERATOR])
def test_deleted_moves_image_and_label_to_data_deleted(tmp_path: Path, role: Role) -> None:
    assert filed(tmp_path, [created("a", role=role), created("b"), deleted("a")]) == pair("data_deleted", "a") | pair(
        "data", "b"
    )


def test_of_a_name_in_both_directories_deleted_keeps_what_was_validated(tmp_path: Path) -> None:
    batch = [created("a"), created("a", role=Role.OPERATOR, detections=OTHER, image=JPEG + b"2"), deleted("a")]
    assert filed(tmp_path, batch) == pair("data_deleted", "a")


@pytest.mark.parametrize("message", [validated("gone", "x"), deleted("gone", "x", "never")])
def test_a_bulk_message_naming_missing_files_is_counted_and_nothing_to_do(tmp_path: Path, message: bytes) -> None:
    storage = opened(tmp_path)
    file_batch(storage, [created("x", role=Role.OPERATOR)])
    names = 1 if message == validated("gone", "x") else 2
    assert file_batch(storage, [message], 1) == names
    assert file_batch(storage, [message], 2) == names + 1, "the second time x is nothing to do either"


@pytest.mark.parametrize("copies", [2, 3])
def test_duplicates_change_nothing(tmp_path: Path, copies: int) -> None:
    messages = [created("a", role=Role.OPERATOR), edited("a", detections=OTHER), created("b"), deleted("b")]
    once = filed(tmp_path / "once", messages)
    each = [message for message in messages for _ in range(copies)]
    assert filed(tmp_path / "each", each) == once
    assert filed(tmp_path / "all", *([messages] * copies)) == once


def test_a_new_picture_replaces_the_one_of_the_same_name_in_another_format(tmp_path: Path) -> None:
    batch = [created("x"), created("x", extension=".png", image=PNG)]
    assert filed(tmp_path, batch) == pair("data", "x", image=PNG, extension="png")


def test_a_moved_picture_replaces_the_one_of_the_same_name_in_another_format(tmp_path: Path) -> None:
    batch = [created("x"), created("x", role=Role.OPERATOR, extension=".png", image=PNG), validated("x")]
    assert filed(tmp_path, batch) == pair("data", "x", image=PNG, extension="png")


def test_files_are_replaced_and_never_written_in_place(tmp_path: Path) -> None:
    """A data set's hard link keeps the picture it was made with."""
    storage = opened(tmp_path)
    file_batch(storage, [created("x")])
    os.link(tmp_path / "data/images/x.jpg", tmp_path / "linked.jpg")
    file_batch(storage, [created("x", image=JPEG + b"new")], 1)
    assert (tmp_path / "linked.jpg").read_bytes() == JPEG
    assert (tmp_path / "data/images/x.jpg").read_bytes() == JPEG + b"new"


def test_files_and_directories_are_the_groups_to_write(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        filed(tmp_path, [created("x"), entry(b"\xc1")])
    finally:
        os.umask(before)
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != ".ingest.lock"
    }
    assert modes == {0o664}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o775}


@pytest.mark.parametrize(
    ("messages", "counts"),
    [
        ([created("a"), created("b"), created("a")], (2, 0, 0)),
        ([created("a", role=Role.OPERATOR), created("b", role=Role.OPERATOR), validated("a", "a")], (1, 1, 0)),
        ([created("a"), deleted("a"), created("a"), deleted("a")], (0, 0, 1)),
        ([created("a"), created("a", role=Role.OPERATOR), deleted("a")], (0, 0, 1)),
        ([created("a"), created("a", extension=".png", image=PNG)], (1, 0, 0)),
        ([edited("a"), entry(b"\xc1")], (0, 0, 0)),
    ],
)
def test_images_are_counted_by_differences(tmp_path: Path, messages: list[bytes], counts: tuple[int, int, int]) -> None:
    storage = opened(tmp_path)
    file_batch(storage, messages)
    assert tuple(directory.images for directory in storage.tree.directories) == counts
    for directory in storage.tree.directories:
        storage.tree.count(directory)
    assert tuple(directory.images for directory in storage.tree.directories) == counts, "a count agrees"


# Hostile and wrong messages


def test_a_message_that_cannot_be_applied_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = entry(fields(extension="exe"))
    found = filed(tmp_path, [created("a"), bad, created("b")])
    assert {name for name in found if not name.startswith("data-rejected")} == set(
        pair("data", "a") | pair("data", "b")
    )
    assert found["data-rejected/annotations/00000000000000000001.bin"] == bad
    assert b'"BadExtension"' in found["data-rejected/annotations/00000000000000000001.json"]


@PROPERTY
@given(
    st.lists(
        st.builds(
            lambda name, extension, kind: {
                "bulk": entry([[name], 30], "Validated"),
                "delete": entry([[name], 40], "Deleted"),
                "create": entry(fields(name=name, extension=extension)),
                "edit": entry(fields(name=name, extension=extension), "Edited"),
            }[kind],
            st.sampled_from(["..", "../../x", "/etc/x", "a/../../b", "a\0", "ok", "..\\x", "", "."])
            | st.text(max_size=30),
            st.sampled_from(["jpg", "../x", "jpg/../../x", "", "j\0pg"]) | st.text(max_size=6),
            st.sampled_from(["bulk", "delete", "create", "edit"]),
        ),
        max_size=8,
    )
)
def test_whatever_a_message_names_nothing_is_written_outside_the_tree(tmp_path: Path, messages: list[bytes]) -> None:
    outside = Path(os.path.realpath(tmp_path)) / "outside"
    root = outside / "deep" / "root"
    root.mkdir(parents=True, exist_ok=True)
    storage = opened(root)
    file_batch(storage, messages)
    storage.lock.release()
    assert [path for path in outside.rglob("*") if root not in (path, *path.parents) and path != root.parent] == []
    allowed = {".ingest", "data", "data-seed", "data_deleted", "data-rejected"}
    assert {path.name for path in root.iterdir()} <= allowed
    for directory in ("data", "data-seed", "data_deleted"):
        assert {path.name for path in (root / directory).iterdir()} == {".ingest.lock", "images", "labels"}
