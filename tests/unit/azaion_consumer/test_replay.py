"""A replay puts right what is not as the stream says, whatever was damaged, and touches nothing else."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from consumer_make import (
    JPEG,
    PROPERTY,
    annotation,
    created,
    deleted,
    edited,
    file_batch,
    opened,
    storage,
    tree,
    validated,
)
from hypothesis import given
from hypothesis import strategies as st

from azaion_consumer.messages import Decoder, Detection, Rejected, Role, label_content
from azaion_consumer.replay import (
    Expected,
    Repair,
    Repaired,
    ReplayResult,
    ReplayState,
    is_requested,
    read_request,
    read_result,
    request_replay,
    write_result,
)

PNG = b"\x89PNG\r\n\x1a\n"
LABEL = label_content(annotation().detections)


def replayed(root: Path, entries: list[bytes], first: int = 0, *, dry_run: bool = False) -> Repair:
    """Both readings of the entries from `first` on."""
    where = storage(root)
    where.open()
    decoder, expected = Decoder(80), Expected()
    messages = []
    for offset, data in list(enumerate(entries))[first:]:
        try:
            messages.append((offset, decoder.decode(data)))
        except Rejected:
            continue
    for offset, message in messages:
        expected.learn(offset, message)
    repair = Repair(where, expected, dry_run=dry_run)
    for offset, message in messages:
        repair.compare(offset, message)
        repair.settle()
    repair.finish()
    where.lock.release()
    return repair


def filed(root: Path, entries: list[bytes]) -> dict[str, bytes]:
    root.mkdir(exist_ok=True)
    where = opened(root)
    file_batch(where, entries)
    where.lock.release()
    return tree(root)


HISTORY = [
    created("a"),
    created("b", role=Role.OPERATOR),
    created("c", role=Role.OPERATOR, extension=".png", image=PNG),
    edited("a", detections=(Detection(7, 0.5, 0.5, 0.5, 0.5),)),
    validated("b"),
    created("d"),
    deleted("d"),
    created("b", role=Role.OPERATOR, image=JPEG + b"again"),
]


@pytest.mark.parametrize(
    ("damage", "repaired"),
    [
        (lambda r: os.unlink(r / "data/images/b.jpg"), {Repaired.IMAGE_RESTORED: 1}),
        (lambda r: os.unlink(r / "data/labels/a.txt"), {Repaired.LABEL_RESTORED: 1}),
        (lambda r: os.unlink(r / "data/images/a.jpg"), {Repaired.IMAGE_RESTORED: 1}),
        (lambda r: (r / "data/labels/b.txt").write_bytes(b"0 0 0 0 0\n"), {Repaired.LABEL_REPLACED: 1}),
        (lambda r: (r / "data-seed/images/b.jpg").write_bytes(b"rotten"), {Repaired.IMAGE_REPLACED: 1}),
        (lambda r: os.rename(r / "data-seed/images/c.png", r / "data-seed/images/c.jpg"), {Repaired.IMAGE_REPLACED: 1}),
        (lambda r: shutil.copy(r / "data_deleted/images/d.jpg", r / "data/images/d.jpg"), {Repaired.REMOVED: 1}),
        (
            lambda r: os.rename(r / "data_deleted/images/d.jpg", r / "data/images/d.jpg"),
            {Repaired.IMAGE_RESTORED: 1, Repaired.REMOVED: 1},
        ),
        (
            lambda r: [os.unlink(path) for path in r.rglob("*") if path.suffix in (".jpg", ".png", ".txt")],
            {Repaired.IMAGE_RESTORED: 5, Repaired.LABEL_RESTORED: 5},
        ),
    ],
)
def test_damage_is_put_right_from_the_stream(tmp_path: Path, damage: object, repaired: dict[Repaired, int]) -> None:
    whole = filed(tmp_path, HISTORY)
    damage(tmp_path)  # type: ignore[operator]
    damaged = tree(tmp_path)
    assert replayed(tmp_path, HISTORY, dry_run=True).repaired == repaired
    assert tree(tmp_path) == damaged, "a dry run changes nothing"
    found = replayed(tmp_path, HISTORY)
    assert found.repaired == repaired
    assert tree(tmp_path) == whole
    assert replayed(tmp_path, HISTORY).repaired == {}, "the second time nothing is left to do"


def test_nothing_is_ever_moved_through_a_directory_where_it_must_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set formed meanwhile holds nothing that was deleted and misses nothing that was validated."""
    filed(tmp_path, HISTORY)
    os.unlink(tmp_path / "data_deleted/images/d.jpg")
    targets: list[str] = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (targets.append(str(b)), real(a, b))[1])
    replayed(tmp_path, HISTORY)
    monkeypatch.undo()
    assert [t for t in targets if "/images/" in t] == [str(tmp_path / "data_deleted/images/d.jpg")]


def test_what_the_replayed_messages_do_not_tell_is_left_alone(tmp_path: Path) -> None:
    whole = filed(tmp_path, HISTORY)
    os.unlink(tmp_path / "data/images/a.jpg")
    assert replayed(tmp_path, HISTORY, first=3).repaired == {}, "its image came before"
    assert replayed(tmp_path, HISTORY).repaired == {Repaired.IMAGE_RESTORED: 1}
    assert tree(tmp_path) == whole


def test_a_move_that_was_undone_by_hand_is_made_again(tmp_path: Path) -> None:
    whole = filed(tmp_path, HISTORY[:5])
    for kind in ("images/b.jpg", "labels/b.txt"):
        os.rename(tmp_path / "data" / kind, tmp_path / "data-seed" / kind)
    assert replayed(tmp_path, HISTORY[:5], first=4).repaired == {Repaired.MOVED: 2}
    assert tree(tmp_path) == whole


def test_of_two_different_images_neither_of_which_is_known_none_is_lost(tmp_path: Path) -> None:
    filed(tmp_path, HISTORY[:5])
    (tmp_path / "data-seed/images/b.jpg").write_bytes(b"somebody's")
    before = tree(tmp_path)
    found = replayed(tmp_path, HISTORY[:5], first=4)
    assert (found.repaired, found.names) == ({Repaired.UNRESOLVED: 1}, {"Unresolved": ["b"]})
    assert tree(tmp_path) == before


names = st.sampled_from(["a", "b"])
rows = st.lists(
    st.one_of(
        st.builds(
            lambda name, role, form, number: created(
                name,
                role=role,
                extension=form[0],
                image=form[1] + bytes([number]),
                detections=(Detection(number, 0, 0, 0, 0),),
            ),
            names,
            st.sampled_from([Role.VALIDATOR, Role.OPERATOR]),
            st.sampled_from([(".jpg", JPEG), (".png", PNG)]),
            st.integers(0, 79),
        ),
        st.builds(
            lambda name, role, number: edited(name, role=role, detections=(Detection(number, 0, 0, 0, 0),)),
            names,
            st.sampled_from([Role.VALIDATOR, Role.OPERATOR]),
            st.integers(0, 79),
        ),
        st.builds(validated, names, names),
        st.builds(deleted, names),
    ),
    min_size=1,
    max_size=10,
)


@PROPERTY
@given(rows, st.integers(0, 9))
def test_a_replay_of_a_sound_tree_changes_nothing_wherever_it_begins(row: list[bytes], first: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        whole = filed(Path(directory), row)
        assert replayed(Path(directory), row, min(first, len(row) - 1)).repaired == {}
        assert tree(Path(directory)) == whole


@PROPERTY
@given(rows, st.integers(0, 2**32))
def test_whatever_is_lost_comes_back_when_all_is_replayed(row: list[bytes], seed: int) -> None:
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        root = Path(directory)
        whole = filed(root, row)
        for name in whole:
            if choose.random() < 0.3:
                os.unlink(root / name)
        replayed(root, row)
        after = tree(root)
        assert set(after) == set(whole)
        # An edit by a validator leaves open whether an image lay in data-seed before the first message.
        assert {name for name in whole if after[name] != whole[name] and "/labels/" in name} == set()
        assert replayed(root, row).repaired == {}


# Requests


def test_a_request_waits_until_it_is_done_and_its_result_is_told_apart(tmp_path: Path) -> None:
    state = tmp_path
    assert read_request(state) is None
    request = request_replay(state, 7, dry_run=False)
    assert is_requested(state)
    assert read_request(state) == request
    assert read_result(state, request.id) is None
    running = ReplayResult(id=request.id, state=ReplayState.RUNNING, first_offset=7, last_offset=9)
    write_result(state, running)
    assert (is_requested(state), read_result(state, request.id)) == (True, running)
    second = request_replay(state, 3, dry_run=True)
    write_result(state, ReplayResult(id=request.id, state=ReplayState.DONE, first_offset=7, last_offset=9))
    assert read_request(state) == second, "a later request is not taken for the one that is done"
    write_result(state, ReplayResult(id=second.id, state=ReplayState.DONE, first_offset=3, last_offset=9))
    assert not is_requested(state)


def test_a_request_that_cannot_be_read_is_no_reason_to_stand_still(tmp_path: Path) -> None:
    (tmp_path / "replay.json").write_bytes(b"{")
    assert read_request(tmp_path) is None
    assert not is_requested(tmp_path)
