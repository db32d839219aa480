"""The offset never runs ahead of the files, and after a death anywhere the tree ends up as if it had not happened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from consumer_make import (
    JPEG,
    PROPERTY,
    STREAM,
    created,
    deleted,
    edited,
    entry,
    file_batch,
    opened,
    record,
    storage,
    tree,
    validated,
)
from hypothesis import given
from hypothesis import strategies as st

from azaion_api.annotation_ingest import IngestStorage
from azaion_consumer.errors import StorageError, StorageReason
from azaion_consumer.filing import draft, stage
from azaion_consumer.messages import Decoder, Detection, RejectReason, Role
from azaion_consumer.storage import Storage

STATE = ".ingest/annotations"
PNG = b"\x89PNG\r\n\x1a\n"


# The offset file


def test_a_tree_nothing_was_filed_in_has_no_offset(tmp_path: Path) -> None:
    assert storage(tmp_path).open() is None


def test_what_was_committed_last_is_found_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    after = record(
        41,
        processed={"created": 40},
        rejected={RejectReason.BAD_NAME: 2},
        last_message_time=datetime(2026, 5, 1, tzinfo=UTC),
    )
    first.stage_offset(after)
    first.sync()
    first.publish_offset()
    first.lock.release()
    assert storage(tmp_path).open() == after
    assert msgspec.json.decode((tmp_path / STATE / "offset.json").read_bytes())["offset"] == 41


def test_the_offset_of_another_stream_means_nothing_but_the_counts_stay(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.stage_offset(record(41, processed={"created": 40}))
    first.publish_offset()
    first.lock.release()
    found = storage(tmp_path, stream="another").open()
    assert found is not None
    assert (found.offset, found.processed) == (None, {"created": 40})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"offset": "x"}', b"\0" * 40])
def test_a_damaged_offset_file_is_no_reason_to_guess(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE).mkdir(parents=True)
    (tmp_path / STATE / "offset.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"offset\.json is damaged .* remove it to begin") as caught:
        storage(tmp_path).open()
    assert caught.value.reason is StorageReason.OFFSET_UNREADABLE


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        ("offset_queue: 48\n", 47),
        ("48\n", 47),
        ("offset: '48'", 47),
        ("# written by the old system\noffset_queue: 48 # next\n", 47),
        ("offset_queue: 0\n", None),
    ],
)
def test_the_original_systems_offset_is_taken_over_once(tmp_path: Path, content: str, offset: int | None) -> None:
    (tmp_path / "offset.yaml").write_text(content)
    first = storage(tmp_path)
    found = first.open()
    assert found is not None
    assert found.offset == offset
    assert not (tmp_path / "offset.yaml").exists()
    assert (tmp_path / "offset.yaml.taken-over-by-annotations").read_text() == content
    (tmp_path / "offset.yaml").write_text("offset_queue: 7\n")
    again = first.open()
    assert again is not None
    assert again.offset == offset, "our own offset counts from then on"


def test_an_original_offset_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "offset.yaml").write_text("offset_queue: many\n")
    with pytest.raises(StorageError, match=r"offset\.yaml holds no offset"):
        storage(tmp_path).open()


# Other ingests


def interrupted(root: Path, entries: list[bytes], ingest: str = "annotations", **others: Any) -> None:
    """A batch that is durable and written down, by a process that dies before its first step."""
    where = storage(root, ingest=ingest, **others)
    where.open()
    steps = [stage(draft(Decoder(80).decode(data)), where) for data in entries]
    stream = others.get("stream", STREAM)
    where.stage_batch(record(len(entries) - 1, tree=where.tree.names, stream=stream), steps)
    where.sync()
    where.publish_batch()
    where.lock.release()


def test_what_a_deleted_ingest_left_unfinished_is_finished_by_the_next_one_of_its_directories(tmp_path: Path) -> None:
    interrupted(tmp_path, [created("x"), created("y")], "first")
    second = storage(tmp_path, ingest="second")
    found = second.open()
    assert set(tree(tmp_path)) == {
        f"data/{kind}" for kind in ("images/x.jpg", "labels/x.txt", "images/y.jpg", "labels/y.txt")
    }
    assert found is not None
    assert found.offset == 1, "and it goes on where that one stopped"
    file_batch(second, [deleted("x")], 2)
    second.lock.release()
    again = storage(tmp_path, ingest="first").open()
    assert again is not None
    assert again.offset == 2, "its old offset no longer counts when it comes back"
    assert "data_deleted/images/x.jpg" in tree(tmp_path)


def test_an_ingest_of_another_stream_finishes_what_was_left_and_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path, [created("x")], "first", stream="elsewhere")
    found = storage(tmp_path, ingest="second").open()
    assert found is None
    assert "data/images/x.jpg" in tree(tmp_path)


def test_an_ingest_made_again_with_other_directories_begins_anew_there(tmp_path: Path) -> None:
    interrupted(tmp_path, [created("x")])
    names = IngestStorage(data="day", data_seed="day-seed", data_deleted="day-deleted")
    found = storage(tmp_path, names=names).open()
    assert found is not None
    assert found.offset is None, "the offset belongs to the other directories"
    assert set(tree(tmp_path)) == {"data/images/x.jpg", "data/labels/x.txt"}, "where the batch belonged"


def test_two_ingests_file_side_by_side_on_one_claim(tmp_path: Path) -> None:
    first = opened(tmp_path)
    names = IngestStorage(data="day", data_seed="day-seed", data_deleted="day-deleted")
    second = storage(tmp_path, ingest="second", names=names)
    second.open()
    bad = entry(b"\xc1")
    file_batch(first, [created("x"), bad])
    file_batch(second, [created("y"), bad])
    assert set(tree(tmp_path)) == {
        *(f"{d}/{f}" for d, n in (("data", "x"), ("day", "y")) for f in (f"images/{n}.jpg", f"labels/{n}.txt")),
        *(f"data-rejected/{i}/{1:020d}.{s}" for i in ("annotations", "second") for s in ("bin", "json")),
    }
    with pytest.raises(StorageError, match="the AnnotationIngest annotations"):
        storage(tmp_path, ingest="third").open()


# One file system, one count, one writer


def test_the_count_of_the_last_rest_is_believed_while_nothing_touched_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tmp_path)
    file_batch(first, [created(f"x{i}") for i in range(5)])
    first.stage_offset(record(4, directories=first.directory_records()))
    first.publish_offset()
    first.lock.release()

    counted: list[str] = []
    second = storage(tmp_path)
    monkeypatch.setattr(second.tree, "count", lambda directory: counted.append(directory.name))
    second.open()
    assert counted == []
    assert (second.tree.data.images, second.tree.data.extensions) == (5, {".jpg"})
    second.lock.release()

    (tmp_path / "data/images/by-hand.png").write_bytes(b"")
    third = opened(tmp_path)
    assert (third.tree.data.images, third.tree.data.extensions) == (6, {".jpg", ".png"})


def test_what_an_earlier_process_staged_and_never_committed_is_removed(tmp_path: Path) -> None:
    first = opened(tmp_path)
    path = first.stage(b"half done")
    first.lock.release()
    opened(tmp_path)
    assert not os.path.exists(path)


def test_directories_on_several_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = storage(tmp_path)
    monkeypatch.setattr(found.tree, "file_systems", lambda: {1, 2})
    with pytest.raises(StorageError, match="several file systems") as caught:
        found.open()
    assert caught.value.reason is StorageReason.SEVERAL_FILE_SYSTEMS


def test_a_missing_label_directory_is_an_error_and_not_a_file_that_is_there_already(tmp_path: Path) -> None:
    found = opened(tmp_path)
    shutil.rmtree(tmp_path / "data/labels")
    with pytest.raises(FileNotFoundError):
        file_batch(found, [created("x")])
    assert found.open() is not None, "opening again makes the directory and takes the rest of the batch"
    assert set(tree(tmp_path)) == {"data/images/x.jpg", "data/labels/x.txt"}


# Deaths


class Killed(BaseException):
    """The process dies here."""


@contextmanager
def killed_at(number: int) -> Iterator[Callable[[], bool]]:
    """Dies before the file system call of that number (rename, unlink, open); tells whether it did."""
    calls = 0

    def dying(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > number:
                raise Killed
            return original(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "unlink", "open"):
            patch.setattr(os, name, dying(getattr(os, name)))
        yield lambda: calls > number


def run(root: Path, messages: list[bytes], batch: int, start: Storage | None = None) -> None:
    """File all messages after what is committed, in batches: what a consumer does from start to end."""
    where = start or storage(root)
    found = where.open()
    offset = 0 if found is None or found.offset is None else found.offset + 1
    while offset < len(messages):
        file_batch(where, messages[offset : offset + batch], offset)
        offset += batch


names = st.sampled_from(["a", "b"])
roles = st.sampled_from([Role.VALIDATOR, Role.OPERATOR])
formats = st.sampled_from([(".jpg", JPEG), (".png", PNG)])
messages = st.one_of(
    st.builds(
        lambda name, role, form, number: created(
            name,
            role=role,
            extension=form[0],
            image=form[1] + bytes([number]),
            detections=(Detection(number, 0, 0, 0, 0),),
        ),
        names,
        roles,
        formats,
        st.integers(0, 79),
    ),
    st.builds(
        lambda name, role, number: edited(name, role=role, detections=(Detection(number, 0, 0, 0, 0),)),
        names,
        roles,
        st.integers(0, 79),
    ),
    st.builds(validated, names, names),
    st.builds(deleted, names),
    st.just(entry(b"\xc1")),
)


def annotations(root: Path) -> dict[str, bytes]:
    """The tree without the times in the records of rejected messages."""
    return {name: data for name, data in tree(root).items() if not name.endswith(".json")}


@PROPERTY
@given(st.lists(messages, min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 60), st.integers(0, 60))
def test_a_death_at_any_file_operation_changes_nothing_in_the_end(
    tmp_path: Path, row: list[bytes], batch: int, first_death: int, second_death: int
) -> None:
    """Each message is applied once and in order, also when the name was created again after it was moved."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
        whole, torn = Path(directory, "whole"), Path(directory, "torn")
        whole.mkdir()
        torn.mkdir()
        run(whole, row, batch)
        for death in (first_death, second_death):
            victim = storage(torn)
            with killed_at(death) as has_died:
                try:
                    run(torn, row, batch, victim)
                except Killed:
                    pass
                else:
                    assert not has_died()
            victim.lock.release()
        run(torn, row, batch)
        assert annotations(torn) == annotations(whole)
        assert os.listdir(torn / STATE / "staging") == []


@pytest.mark.parametrize(
    "row",
    [
        [
            created("b", extension=".png", image=PNG),
            created("b", role=Role.OPERATOR),
            validated("a", "b"),
            created("b", role=Role.OPERATOR),
        ],
        [
            created("a", role=Role.OPERATOR),
            validated("a"),
            created("a", role=Role.OPERATOR, extension=".png", image=PNG),
            edited("a"),
            deleted("a"),
            created("a"),
        ],
    ],
)
@pytest.mark.parametrize("batch", [6])
def test_a_death_at_every_single_file_operation_changes_nothing(tmp_path: Path, row: list[bytes], batch: int) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    run(whole, row, batch)
    for death in range(1000):
        torn = tmp_path / f"torn-{death}"
        torn.mkdir()
        victim = storage(torn)
        with killed_at(death) as has_died, suppress(Killed):
            run(torn, row, batch, victim)
        victim.lock.release()
        if not has_died():
            assert death > 20, "the deaths were not counted"
            return
        run(torn, row, batch)
        assert annotations(torn) == annotations(whole), f"killed before file operation {death}"
    raise AssertionError("it never ends")


def test_the_offset_is_published_after_the_files_and_the_batch_before_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path)
    done: list[str] = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append(Path(b).name), real(a, b))[1])
    monkeypatch.setattr(found, "sync", lambda: done.append("sync"))
    file_batch(found, [created("x")])
    assert done == ["sync", "batch.msgpack", "x.txt", "x.jpg", "sync", "offset.json"]
