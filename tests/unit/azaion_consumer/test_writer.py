"""The writer's threads: what is offered is filed in order and committed together; a failure ends it at that message."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from consumer_make import chunk, created, deleted, edited, entry, opened, record, tree

from azaion_consumer.chunks import Piece
from azaion_consumer.messages import Decoder, Rejected
from azaion_consumer.storage import OffsetRecord, Storage
from azaion_consumer.writer import BatchLimits, Committed, Writer, WriterEvents

TIMEOUT_S = 20.0


def piece(first_offset: int, entries: list[bytes], *, last: bool = True) -> Piece:
    head, data = chunk(first_offset, entries)
    return Piece(head, first_offset, memoryview(data), last)


class Heard:
    """What the writer told."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.committed: list[Committed] = []
        self.rejected: list[tuple[int, Rejected]] = []
        self.staged: list[Piece] = []

    def events(self) -> WriterEvents:
        return WriterEvents(self._note(self.staged), self._note(self.committed), self._note_rejected)

    def _note(self, where: list[Any]) -> Any:
        def note(what: Any) -> None:
            with self.changed:
                where.append(what)
                self.changed.notify_all()

        return note

    def _note_rejected(self, offset: int, rejected: Rejected) -> None:
        self._note(self.rejected)((offset, rejected))

    def wait_for_offset(self, offset: int) -> None:
        with self.changed:
            reached = self.changed.wait_for(
                lambda: self.committed and self.committed[-1].record.offset == offset, TIMEOUT_S
            )
        assert reached, f"offset {offset} was not committed within {TIMEOUT_S} s; committed: {self.committed}"


@contextmanager
def running(
    storage: Storage, start: OffsetRecord | None = None, limits: BatchLimits | None = None
) -> Iterator[tuple[Writer, Heard, list[Future[None]]]]:
    """A writer with both of its threads; closed at the end."""
    heard = Heard()
    writer = Writer(storage, Decoder(80), start or record(None), heard.events(), limits=limits)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(writer.run_stager), threads.submit(writer.run_committer)]
        try:
            yield writer, heard, futures
        finally:
            writer.close()


def test_what_is_offered_is_filed_and_committed_together(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    with running(storage) as (writer, heard, _):
        writer.offer(piece(0, [created("a"), created("b"), edited("c")]))
        heard.wait_for_offset(2)
    assert set(tree(tmp_path)) == {
        "data/images/a.jpg",
        "data/labels/a.txt",
        "data/images/b.jpg",
        "data/labels/b.txt",
        "data/labels/c.txt",
    }
    assert [c.processed for c in heard.committed] == [{"created": 2, "edited": 1}]
    found = storage.open()
    assert found is not None
    assert (found.offset, found.processed) == (2, {"created": 2, "edited": 1})
    assert found.directories["data"].images == 2


def test_what_gathers_during_a_sync_shares_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = opened(tmp_path)
    syncs = 0
    real = storage.sync
    all_staged = threading.Event()

    def slow_sync() -> None:
        nonlocal syncs
        syncs += 1
        assert all_staged.wait(TIMEOUT_S), "the stager stands still while the disk syncs"
        real()

    monkeypatch.setattr(storage, "sync", slow_sync)
    with running(storage) as (writer, heard, _):
        for number in range(20):
            writer.offer(piece(number * 50, [edited(f"x{i}") for i in range(50)]))
        with heard.changed:
            assert heard.changed.wait_for(lambda: len(heard.staged) == 20, TIMEOUT_S)
        all_staged.set()
        heard.wait_for_offset(999)
    assert syncs == 3, "one for what came first, one for all the rest, one for its offset"


def test_a_poison_message_in_the_middle_of_a_batch_is_set_aside_and_counted(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    with running(storage) as (writer, heard, _):
        writer.offer(piece(10, [created("a"), entry(b"\xc1"), created("b"), entry([], "Nonsense")]))
        heard.wait_for_offset(13)
    assert [(offset, str(rejected.reason)) for offset, rejected in heard.rejected] == [
        (11, "BadMessagePack"),
        (13, "UnknownStatus"),
    ]
    found = storage.open()
    assert found is not None
    assert (found.processed, found.rejected) == ({"created": 2}, {"BadMessagePack": 1, "UnknownStatus": 1})
    assert len(os.listdir(tmp_path / "data-rejected/annotations")) == 4


def test_messages_up_to_the_committed_offset_are_not_filed_again(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    start = record(11, processed={"created": 12})
    with running(storage, start) as (writer, heard, _):
        writer.offer(piece(10, [created("a"), created("b"), created("c")]))
        heard.wait_for_offset(12)
    assert set(tree(tmp_path)) == {"data/images/c.jpg", "data/labels/c.txt"}
    assert heard.committed[-1].record.processed == {"created": 13}


def test_a_chunk_is_committed_only_once_it_is_complete(tmp_path: Path) -> None:
    """Until its last piece is there nobody knows whether its checksum is right."""
    storage = opened(tmp_path)
    with running(storage) as (writer, heard, _):
        writer.offer(piece(0, [created("a")], last=False))
        with heard.changed:
            assert heard.changed.wait_for(lambda: heard.staged, TIMEOUT_S)
    assert heard.committed == []
    assert tree(tmp_path) == {}


def test_names_that_are_not_there_are_counted(tmp_path: Path) -> None:
    with running(opened(tmp_path)) as (writer, heard, _):
        writer.offer(piece(0, [deleted("x", "y"), created("x"), deleted("x", "y")]))
        heard.wait_for_offset(2)
    assert sum(c.names_missing for c in heard.committed) == 3


def test_closing_commits_what_is_staged_and_leaves_the_rest_in_the_stream(tmp_path: Path) -> None:
    storage = opened(tmp_path)
    with running(storage) as (writer, heard, futures):
        writer.offer(piece(0, [created("a")]))
        with heard.changed:
            assert heard.changed.wait_for(lambda: heard.staged, TIMEOUT_S)
        writer.close()
        for future in futures:
            future.result(TIMEOUT_S)
        writer.offer(piece(1, [created("b")]))
    assert heard.committed[-1].record.offset == 0
    assert set(tree(tmp_path)) == {"data/images/a.jpg", "data/labels/a.txt"}


@pytest.mark.parametrize("limits", [BatchLimits(messages=3), BatchLimits(size_bytes=500)])
def test_a_full_batch_makes_the_stager_wait_and_loses_nothing(tmp_path: Path, limits: BatchLimits) -> None:
    storage = opened(tmp_path)
    with running(storage, limits=limits) as (writer, heard, _):
        for number in range(30):
            writer.offer(piece(number * 4, [edited(f"x{number}-{i}") for i in range(4)]))
        heard.wait_for_offset(119)
    assert len(tree(tmp_path)) == 120


def test_a_disk_that_fills_up_ends_the_writer_at_that_message_with_everything_before_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = opened(tmp_path)
    real = os.open

    def full(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        # The third staged file: a.jpg's label and image are written, b.jpg's label is not.
        if "/staging/" in str(path) and str(path).endswith("/2"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", full)
    with running(storage) as (writer, heard, futures):
        writer.offer(piece(0, [created("a")]))
        writer.offer(piece(1, [created("b"), created("c")]))
        with pytest.raises(OSError, match="No space left"):
            futures[0].result(TIMEOUT_S)
        heard.wait_for_offset(0)
    monkeypatch.undo()
    found = storage.open()
    assert found is not None
    assert found.offset == 0
    with running(storage, found) as (writer, heard, _):
        writer.offer(piece(1, [created("b"), created("c")]))
        heard.wait_for_offset(2)
    assert len(tree(tmp_path)) == 6, "nothing was skipped"
