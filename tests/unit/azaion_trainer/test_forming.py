"""Forming a data set: hard links, exact counts, bad pairs set aside, and the same again after a kill."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml
from trainer_make import TODAY, UID, add_pair, add_pairs, age, jpeg, names_by_split, no_progress, request

from azaion_api.layout import Layout
from azaion_api.training_run import GroupBy, Split
from azaion_trainer import files, forming
from azaion_trainer.forming import form, stream_offset
from azaion_trainer.manifest import Manifest, read_manifest
from azaion_trainer.split import media_of

OTHER_UID = "99999999-aaaa-bbbb-cccc-000000000002"


def stems_of(layout: Layout, directory: str) -> set[str]:
    return {path.stem for path in layout.images(directory).iterdir()} if layout.images(directory).exists() else set()


def test_a_hundred_pairs_become_seventy_twenty_and_ten_and_no_image_is_in_two_splits(layout: Layout) -> None:
    stems = add_pairs(layout, 100)
    formed = form(layout, request(), no_progress)
    found = names_by_split(formed.path)
    assert {split: len(names) for split, names in found.items()} == {"train": 70, "valid": 20, "test": 10}
    assert set.union(*found.values()) == set(stems)
    assert formed.manifest.counts == {"train": 70, "valid": 20, "test": 10}
    for split in found:
        assert {label.stem for label in (formed.path / split / "labels").iterdir()} == found[split]


def test_ninety_five_good_and_five_corrupt_pairs(layout: Layout) -> None:
    add_pairs(layout, 95)
    add_pair(layout, "truncated", jpeg(64, 64)[:-30])
    add_pair(layout, "empty", b"")
    add_pair(layout, "outside", label="0 1.5 0.5 0.1 0.1")
    add_pair(layout, "one-bad-line", label="0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 1.2\n")
    add_pair(layout, "unlabelled", label=None)
    age(layout.images("data") / "unlabelled.jpg")
    formed = form(layout, request(), no_progress)
    bad = {"truncated", "empty", "outside", "one-bad-line", "unlabelled"}
    assert sum(formed.manifest.counts.values()) == 95
    assert stems_of(layout, "data-corrupted") == bad
    assert stems_of(layout, "data").isdisjoint(bad)
    assert {path.stem for path in layout.labels("data-corrupted").iterdir()} == bad - {"unlabelled"}
    assert {Path(entry.image).stem for entry in formed.manifest.corrupted} == bad
    reason = json.loads((layout.root / "data-corrupted/reasons/outside.jpg.json").read_text())
    assert reason["reason"] == "label line 1: x 1.5 is not between 0 and 1"
    assert reason["run"] == "run"


def test_an_empty_source_gives_empty_splits(layout: Layout) -> None:
    formed = form(layout, request(), no_progress)
    assert formed.manifest.counts == {"train": 0, "valid": 0, "test": 0}
    assert names_by_split(formed.path) == {"train": set(), "valid": set(), "test": set()}


def test_an_absent_source_is_an_empty_one(layout: Layout) -> None:
    shutil.rmtree(layout.root / "data")
    assert sum(form(layout, request(), no_progress).manifest.counts.values()) == 0


def test_files_are_linked_not_copied(layout: Layout) -> None:
    add_pairs(layout, 10)
    formed = form(layout, request(), no_progress)
    for split, stems in names_by_split(formed.path).items():
        for stem in stems:
            assert (formed.path / split / "images" / f"{stem}.jpg").samefile(layout.images("data") / f"{stem}.jpg")
            assert (formed.path / split / "labels" / f"{stem}.txt").samefile(layout.labels("data") / f"{stem}.txt")
    assert formed.copied == 0


def test_where_a_link_cannot_reach_files_are_copied_and_it_says_so(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_pairs(layout, 5)

    def another_device(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        raise OSError(18, "Invalid cross-device link", os.fspath(source), None, os.fspath(target))

    monkeypatch.setattr(files.os, "link", another_device)
    formed = form(layout, request(), no_progress)
    assert formed.copied == 10
    assert "10 files were copied instead of linked" in caplog.text
    assert sum(len(stems) for stems in names_by_split(formed.path).values()) == 5


def test_the_manifest_and_data_yaml_say_what_the_set_is(layout: Layout) -> None:
    for number in range(10):
        add_pair(layout, f"image-{number}", jpeg(colour=number), f"{number % 2} 0.5 0.5 0.1 0.1\n")
    offset = layout.ingest_state("annotations") / "offset.json"
    offset.parent.mkdir(parents=True)
    offset.write_text('{"offset": 4711}')
    formed = form(layout, request(seed=7), no_progress)
    manifest = read_manifest(formed.path)
    assert manifest is not None
    assert manifest == formed.manifest
    assert (manifest.run, manifest.run_uid, manifest.seed, manifest.stream_offset) == ("run", UID, 7, 4711)
    assert {
        name: sum(manifest.per_class[split].get(name, 0) for split in manifest.per_class) for name in ("disc", "square")
    } == {
        "disc": 5,
        "square": 5,
    }
    data = yaml.safe_load((formed.path / "data.yaml").read_text())
    assert data["nc"] == 80
    assert len(data["names"]) == 80
    assert (data["train"], data["val"], data["test"]) == ("train/images", "valid/images", "test/images")


def test_the_smallest_offset_of_several_ingests_counts(layout: Layout) -> None:
    assert stream_offset(layout) is None
    for name, content in (("a", '{"offset": 9, "more": 1}'), ("b", '{"offset": 3}'), ("c", "garbage")):
        layout.ingest_state(name).mkdir(parents=True)
        (layout.ingest_state(name) / "offset.json").write_text(content)
    assert stream_offset(layout) == 3


def test_the_same_inputs_give_the_same_digest_and_any_change_another(layout: Layout) -> None:
    add_pairs(layout, 20)
    first = form(layout, request(), no_progress).manifest.digest
    again = form(layout, request(OTHER_UID), no_progress).manifest.digest
    assert first == again
    assert first.startswith("sha256:")
    label = layout.labels("data") / "image-00003.txt"
    label.unlink()
    label.write_text("1 0.5 0.5 0.1 0.1\n")
    assert form(layout, request("33333333-x"), no_progress).manifest.digest != first


def test_later_sets_of_a_day_get_a_number(layout: Layout) -> None:
    add_pairs(layout, 5)
    names = [form(layout, request(uid), no_progress).path.name for uid in ("a" * 8, "b" * 8, "c" * 8)]
    day = TODAY.isoformat()
    assert names == [f"azaion-{day}", f"azaion-{day}-2", f"azaion-{day}-3"]


def test_the_same_run_gets_its_finished_set_again(layout: Layout) -> None:
    add_pairs(layout, 5)
    first = form(layout, request(), no_progress)
    add_pairs(layout, 5, prefix="later")
    again = form(layout, request(), no_progress)
    assert (again.path, again.manifest) == (first.path, first.manifest)


def test_pairs_set_aside_after_a_kill_are_finished_by_the_next_attempt(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pairs(layout, 5)
    add_pair(layout, "empty", b"")
    monkeypatch.setattr(forming, "set_aside", lambda *_: 0)  # the kill comes before it
    form(layout, request(), no_progress)
    assert stems_of(layout, "data-corrupted") == set()
    monkeypatch.undo()
    form(layout, request(), no_progress)
    assert stems_of(layout, "data-corrupted") == {"empty"}


def test_what_a_killed_attempt_left_is_swept_away(layout: Layout) -> None:
    add_pairs(layout, 5)
    left = layout.datasets / f".forming-{UID[:8]}"
    (left / "train" / "images").mkdir(parents=True)
    (left / "train" / "images" / "old.jpg").write_bytes(jpeg())
    formed = form(layout, request(), no_progress)
    assert not left.exists()
    assert "old" not in set.union(*names_by_split(formed.path).values())


def test_an_image_keeps_its_split_as_the_data_grows(layout: Layout) -> None:
    add_pairs(layout, 40)
    first = names_by_split(form(layout, request(), no_progress).path)
    add_pairs(layout, 35, prefix="new")
    second = names_by_split(form(layout, request(OTHER_UID), no_progress).path)
    assert all(first[split] <= second[split] for split in first)
    assert {split: len(names) for split, names in second.items()} == {"train": 53, "valid": 15, "test": 7}


def test_another_seed_or_share_begins_a_split_of_its_own(layout: Layout) -> None:
    add_pairs(layout, 40)
    first = names_by_split(form(layout, request(), no_progress).path)
    assert names_by_split(form(layout, request(OTHER_UID, seed=1), no_progress).path) != first
    halves = names_by_split(
        form(layout, request("44444444-x", split=Split(train=50, valid=50, test=0)), no_progress).path
    )
    assert {split: len(names) for split, names in halves.items()} == {"train": 20, "valid": 20, "test": 0}


def test_frames_of_a_video_stay_together(layout: Layout) -> None:
    for video in range(12):
        for frame in range(5):
            add_pair(layout, f"video{video}_{frame:03d}", jpeg(colour=video * 5 + frame))
    found = names_by_split(form(layout, request(group_by=GroupBy.MEDIA), no_progress).path)
    media = {split: {media_of(stem) for stem in stems} for split, stems in found.items()}
    assert not media["train"] & media["valid"]
    assert not media["train"] & media["test"]
    assert sum(map(len, found.values())) == 60


def test_a_file_replaced_between_check_and_link_is_checked_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pairs(layout, 3)
    replaced = layout.labels("data") / "image-00001.txt"
    real = files.link_or_copy
    done = []

    def replace_once(name: str, target: str) -> bool:
        source = Path(name)
        if source == replaced and not done:
            done.append(source)
            fresh = source.with_name("fresh")
            fresh.write_text("1 0.25 0.25 0.1 0.1\n")
            fresh.replace(source)
        return real(source, target)

    monkeypatch.setattr(files, "link_or_copy", replace_once)
    formed = form(layout, request(), no_progress)
    assert sum(formed.manifest.counts.values()) == 3
    assert sum(formed.manifest.per_class[split].get("square", 0) for split in formed.manifest.per_class) == 1


def test_a_file_that_turns_bad_between_check_and_link_is_condemned(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pairs(layout, 3)
    spoilt = layout.labels("data") / "image-00001.txt"
    real = files.link_or_copy

    def spoil(name: str, target: str) -> bool:
        source = Path(name)
        if source == spoilt:
            fresh = source.with_name("fresh")
            fresh.write_text("1 7 7 7 7\n")
            fresh.replace(source)
        return real(source, target)

    monkeypatch.setattr(files, "link_or_copy", spoil)
    formed = form(layout, request(), no_progress)
    assert sum(formed.manifest.counts.values()) == 2
    assert [entry.image for entry in formed.manifest.corrupted] == ["image-00001.jpg"]
    assert stems_of(layout, "data-corrupted") == {"image-00001"}


def test_an_image_deleted_meanwhile_is_just_not_there(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pairs(layout, 3)
    gone = layout.images("data") / "image-00001.jpg"
    real = files.link_or_copy

    def remove(name: str, target: str) -> bool:
        if Path(name) == gone:
            gone.unlink(missing_ok=True)
        return real(name, target)

    monkeypatch.setattr(files, "link_or_copy", remove)
    formed = form(layout, request(), no_progress)
    assert sum(formed.manifest.counts.values()) == 2
    assert formed.manifest.corrupted == ()


def test_an_image_whose_label_is_on_the_way_is_waited_for(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pairs(layout, 2)
    add_pair(layout, "just-filed", label=None)
    waited = []

    def label_arrives(seconds: float) -> None:
        waited.append(seconds)
        (layout.labels("data") / "just-filed.txt").write_text("0 0.5 0.5 0.1 0.1\n")

    monkeypatch.setattr(forming.time, "sleep", label_arrives)
    formed = form(layout, request(), no_progress)
    assert sum(formed.manifest.counts.values()) == 3
    assert 0 < sum(waited) <= forming.LABEL_GRACE_S


def test_progress_is_told_to_the_end(layout: Layout) -> None:
    add_pairs(layout, 30)
    told: list[tuple[int, int]] = []
    form(layout, request(), lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == list(range(1, 31))


def test_a_manifest_of_another_version_is_not_ours(layout: Layout) -> None:
    add_pairs(layout, 5)
    formed = form(layout, request(), no_progress)
    newer = msgspec.structs.replace(formed.manifest, version=2)
    (formed.path / "manifest.json").write_bytes(msgspec.json.encode(newer))
    assert read_manifest(formed.path) is None
    assert isinstance(formed.manifest, Manifest)
