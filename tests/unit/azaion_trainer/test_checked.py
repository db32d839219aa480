"""Pairs that were found good are not decoded again, and nothing is believed of files that were replaced."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from trainer_make import add_pair, add_pairs, jpeg, no_progress, request

from azaion_api.layout import Layout
from azaion_trainer import forming, pairs
from azaion_trainer.checked import CHECKED_FILE
from azaion_trainer.forming import form


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were read."""
    names: list[str] = []
    check = pairs.check_pair

    def counting(images: Path, labels: Path, image: str, class_count: int) -> pairs.Pair:
        names.append(image)
        return check(images, labels, image, class_count)

    monkeypatch.setattr(forming, "check_pair", counting)
    return names


def test_a_second_data_set_decodes_nothing_and_is_the_same(layout: Layout, decoded: list[str]) -> None:
    add_pairs(layout, 30)
    first = form(layout, request("11111111-x"), no_progress)
    assert len(decoded) == 30
    decoded.clear()
    second = form(layout, request("22222222-x"), no_progress)
    assert decoded == []
    assert second.manifest.digest == first.manifest.digest
    assert second.manifest.per_class == first.manifest.per_class


def test_only_what_is_new_or_replaced_is_decoded(layout: Layout, decoded: list[str]) -> None:
    stems = add_pairs(layout, 10)
    form(layout, request("11111111-x"), no_progress)
    decoded.clear()
    add_pair(layout, "new")
    replacement = layout.images("data") / ".new"
    replacement.write_bytes(jpeg(colour=200))
    replacement.replace(layout.images("data") / f"{stems[3]}.jpg")
    label = layout.labels("data") / ".new"
    label.write_text("1 0.4 0.4 0.2 0.2\n")
    label.replace(layout.labels("data") / f"{stems[5]}.txt")
    form(layout, request("22222222-x"), no_progress)
    assert sorted(decoded) == sorted([f"{stems[3]}.jpg", f"{stems[5]}.jpg", "new.jpg"])


def test_a_file_that_was_given_the_inode_of_the_one_before_it_is_decoded_once(
    layout: Layout, decoded: list[str]
) -> None:
    stems = add_pairs(layout, 4)
    first = form(layout, request("11111111-x"), no_progress)
    shutil.rmtree(first.path)
    label = layout.labels("data") / f"{stems[2]}.txt"
    inode = label.stat().st_ino
    label.write_text("1 0.4 0.4 0.2 0.2\n1 0.6 0.6 0.2 0.2\n")
    assert label.stat().st_ino == inode
    decoded.clear()
    second = form(layout, request("22222222-x"), no_progress)
    assert decoded == [f"{stems[2]}.jpg"]
    assert sum(second.manifest.per_class[split].get("square", 0) for split in second.manifest.per_class) == 2
    assert second.manifest.digest != first.manifest.digest
    decoded.clear()
    assert form(layout, request("33333333-x"), no_progress).manifest.digest == second.manifest.digest
    assert decoded == []


def test_a_pair_that_turned_bad_is_found_though_it_was_good(layout: Layout) -> None:
    stems = add_pairs(layout, 10)
    form(layout, request("11111111-x"), no_progress)
    broken = layout.images("data") / ".new"
    broken.write_bytes(jpeg()[:-20])
    broken.replace(layout.images("data") / f"{stems[0]}.jpg")
    formed = form(layout, request("22222222-x"), no_progress)
    assert [entry.image for entry in formed.manifest.corrupted] == [f"{stems[0]}.jpg"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93\x01\x50", b"\x93\x63\x50\x90"])
def test_a_broken_or_foreign_record_only_costs_time(layout: Layout, decoded: list[str], content: bytes) -> None:
    add_pairs(layout, 5)
    (layout.root / "data" / CHECKED_FILE).write_bytes(content)
    formed = form(layout, request("11111111-x"), no_progress)
    assert sum(formed.manifest.counts.values()) == 5
    assert len(decoded) == 5


def test_labels_are_looked_at_again_when_there_are_fewer_classes(layout: Layout, decoded: list[str]) -> None:
    add_pair(layout, "one", label="7 0.5 0.5 0.1 0.1\n")
    form(layout, request("11111111-x"), no_progress)
    fewer = dataclasses.replace(request("22222222-x"), names=request().names[:5])
    formed = form(layout, fewer, no_progress)
    assert [entry.image for entry in formed.manifest.corrupted] == ["one.jpg"]


def test_a_directory_that_cannot_be_written_to_forms_all_the_same(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azaion_trainer import checked

    def refused(*_: object) -> None:
        raise PermissionError(13, "denied")

    add_pairs(layout, 3)
    monkeypatch.setattr(checked.files, "write_bytes", refused)
    found = checked.CheckedPairs(layout.root / "data", 80)
    found.keep([])
    assert not os.path.exists(layout.root / "data" / CHECKED_FILE)
