"""A replay: what the stream says the files should be, compared with what they are, and put right.

Applying old messages once more would be wrong: an image created, validated and created again would end up where it
lay in between, and a data set formed meanwhile would miss it or hold what was deleted. So a replay reads the messages
twice. The first time it only learns where, after all of them, the files of each name have to be and which message they
come from; the second time it puts in place what is missing or different. A file of which the messages say nothing is
left alone, and so is all that is right already.

`azaion-consumer replay` writes a request beside the offset file; the consumer, the one writer of the tree, takes it up
between two batches, and at its next start when it does not run.
"""

from __future__ import annotations

import enum
import os
import uuid
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from azaion_consumer.messages import EXTENSIONS, Created, Deleted, Edited, Message, Validated, label_content
from azaion_consumer.storage import Storage, write_file
from azaion_consumer.tree import Directory, Tree

_REQUEST_FILE = "replay.json"
_RESULT_FILE = "replay-result.json"
#: Files repaired together share a sync.
_BATCH_FILES = 1000
_BATCH_BYTES = 64 * 1024 * 1024
#: Names a result tells, for each kind of repair.
_NAMES_TOLD = 20


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `azaion-consumer replay` asks for."""

    id: str
    from_offset: int
    dry_run: bool = False
    time: datetime


class ReplayState(enum.StrEnum):
    RUNNING = "Running"
    DONE = "Done"


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far the consumer is with a request."""

    id: str
    state: ReplayState
    #: Offsets compared, inclusive; later than asked for where the stream no longer holds older ones.
    first_offset: int
    last_offset: int
    messages: int = 0
    #: Repairs (or what a dry run would repair) by kind.
    repaired: dict[str, int] = msgspec.field(default_factory=dict)
    #: The first names of each kind.
    names: dict[str, list[str]] = msgspec.field(default_factory=dict)
    message: str = ""


class Repaired(enum.StrEnum):
    """What a replay does to a file."""

    IMAGE_RESTORED = "ImageRestored"
    LABEL_RESTORED = "LabelRestored"
    IMAGE_REPLACED = "ImageReplaced"
    LABEL_REPLACED = "LabelReplaced"
    MOVED = "Moved"
    REMOVED = "Removed"
    #: In two directories, and the messages replayed do not tell which one is right: left alone.
    UNRESOLVED = "Unresolved"


def request_replay(state: Path, from_offset: int, *, dry_run: bool) -> ReplayRequest:
    """Leave a request for the consumer; one that was not taken up yet is replaced. Raises OSError."""
    request = ReplayRequest(id=uuid.uuid4().hex, from_offset=from_offset, dry_run=dry_run, time=datetime.now(UTC))
    _write(state / _REQUEST_FILE, request)
    return request


def read_request(state: Path) -> ReplayRequest | None:
    """The request that waits; one that cannot be read is removed. Raises OSError."""
    path = state / _REQUEST_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReplayRequest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        path.unlink()
        return None


def is_requested(state: Path) -> bool:
    return os.path.exists(state / _REQUEST_FILE)


def write_result(state: Path, result: ReplayResult) -> None:
    """Say how far it is; a request that is done is removed. Raises OSError."""
    _write(state / _RESULT_FILE, result)
    waiting = read_request(state)
    if result.state is ReplayState.DONE and waiting is not None and waiting.id == result.id:
        with suppress(FileNotFoundError):
            (state / _REQUEST_FILE).unlink()


def read_result(state: Path, request: str) -> ReplayResult | None:
    """What the consumer said last about that request. Raises OSError."""
    try:
        found = msgspec.json.decode((state / _RESULT_FILE).read_bytes(), type=ReplayResult)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return found if found.id == request else None


def _write(path: Path, content: ReplayRequest | ReplayResult) -> None:
    temporary = f"{path}.{os.getpid()}"
    write_file(temporary, msgspec.json.encode(content))
    os.rename(temporary, path)


# ---- where files have to be ----

_UNKNOWN = -1
#: Moved to directory 0, 1 or 2: -2, -3 or -4.
_MOVED = -2
#: Added to an offset: a file has to be there; if none is, that message's is the best there is.
_PERHAPS = 1 << 62
_DATA, _SEED, _DELETED = 0, 1, 2
_IMAGES, _LABELS = 0, 3


class Expected:
    """Where the files of each name have to be after a row of messages, as far as these tell.

    A place holds the file of one message, or nothing since it was moved, or what it held before the first message,
    which is not known.
    """

    def __init__(self) -> None:
        #: Six places of each name: images and labels in data, data-seed, data_deleted.
        self._places: dict[str, array[int]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def learn(self, offset: int, message: Message) -> None:
        """Take the next message."""
        if isinstance(message, Created):
            places = self._of(message.annotation.name)
            home = _DATA if message.annotation.by_validator else _SEED
            places[_IMAGES + home] = places[_LABELS + home] = offset
        elif isinstance(message, Edited):
            places = self._of(message.annotation.name)
            if not message.annotation.by_validator:
                places[_LABELS + _SEED] = offset
                return
            places[_LABELS + _DATA] = offset
            _move(places, _IMAGES, _SEED, _DATA)
            places[_LABELS + _SEED] = _MOVED - _DATA
        elif isinstance(message, Validated):
            for name in message.names:
                self._move_pair(name, _SEED, _DATA)
        elif isinstance(message, Deleted):
            for name in message.names:
                self._move_pair(name, _SEED, _DELETED)
                self._move_pair(name, _DATA, _DELETED)

    def wanted(self, name: str, offset: int, kind: int) -> list[tuple[int, bool]]:
        """Directories in which that message's image or label has to be; True where any other is as good."""
        places = self._places.get(name)
        if places is None:
            return []
        return [(d, places[kind + d] >= _PERHAPS) for d in range(3) if places[kind + d] in (offset, offset + _PERHAPS)]

    def moved(self, name: str, kind: int, directory: int) -> int | None:
        """The directory to which what was there has moved; None when something may be there."""
        place = self._places[name][kind + directory]
        return _MOVED - place if place <= _MOVED else None

    def is_known(self, name: str, kind: int, directory: int) -> bool:
        """True when one message's file has to be there and no other."""
        return 0 <= self._places[name][kind + directory] < _PERHAPS

    def _of(self, name: str) -> array[int]:
        found = self._places.get(name)
        if found is None:
            found = self._places[name] = array("q", [_UNKNOWN] * 6)
        return found

    def _move_pair(self, name: str, source: int, target: int) -> None:
        places = self._of(name)
        _move(places, _IMAGES, source, target)
        _move(places, _LABELS, source, target)


def _move(places: array[int], kind: int, source: int, target: int) -> None:
    moving, there = places[kind + source], places[kind + target]
    if moving <= _MOVED:
        return  # there is nothing to move
    if moving == _UNKNOWN:
        # Was there one, it replaced what is in the target; was there none, the target still has its own.
        places[kind + target] = _UNKNOWN if there < 0 else there | _PERHAPS
    else:
        places[kind + target] = moving
    places[kind + source] = _MOVED - target


# ---- putting right ----


@dataclass(frozen=True)
class _Put:
    directory: Directory
    name: str
    staged: str
    #: None for a label.
    extension: str | None


class Repair:
    """The second reading: compares each message's files with the tree. Every method may raise OSError."""

    def __init__(self, storage: Storage, expected: Expected, *, dry_run: bool) -> None:
        self._storage = storage
        self._tree: Tree = storage.tree
        self._expected = expected
        self._dry_run = dry_run
        self._puts: list[_Put] = []
        self._staged_bytes = 0
        self.repaired: Counter[Repaired] = Counter()
        self.names: dict[str, list[str]] = {}

    def compare(self, offset: int, message: Message) -> None:
        """Stage what is missing or different of the message's files."""
        if not isinstance(message, Created | Edited):
            return
        annotation = message.annotation
        label = label_content(annotation.detections)
        for index, perhaps in self._expected.wanted(annotation.name, offset, _LABELS):
            directory = self._tree.directories[index]
            found = _content(directory.label(annotation.name))
            if found is None or (found != label and not perhaps):
                self._note(Repaired.LABEL_RESTORED if found is None else Repaired.LABEL_REPLACED, annotation.name)
                self._stage(directory, annotation.name, label, None)
        if isinstance(message, Edited) or annotation.extension is None:
            return
        for index, perhaps in self._expected.wanted(annotation.name, offset, _IMAGES):
            directory = self._tree.directories[index]
            there = [e for e in EXTENSIONS if os.path.lexists(directory.image(annotation.name, e))]
            if there and perhaps:
                continue
            path = directory.image(annotation.name, annotation.extension)
            if there != [annotation.extension] or _content(path) != annotation.image:
                self._note(Repaired.IMAGE_REPLACED if there else Repaired.IMAGE_RESTORED, annotation.name)
                self._stage(directory, annotation.name, bytes(annotation.image), annotation.extension)

    def settle(self, *, all_of_it: bool = False) -> None:
        """Put what is staged in place when it is much, or `all_of_it`; only when the chunk is known to be whole."""
        if not self._puts or not (all_of_it or len(self._puts) >= _BATCH_FILES or self._staged_bytes >= _BATCH_BYTES):
            return
        self._storage.sync()
        puts, self._puts, self._staged_bytes = self._puts, [], 0
        self._storage.lock.verify()
        # Labels first, so that whoever finds an image finds its label.
        for put in sorted(puts, key=lambda put: put.extension is not None):
            if put.extension is None:
                self._tree.put_label(put.directory, put.name, put.staged)
            else:
                self._tree.put_image(put.directory, put.name, put.extension, put.staged)

    def finish(self) -> None:
        """After the last message: settle, then take away or move what has to be elsewhere, and make all durable."""
        self.settle(all_of_it=True)
        self._storage.lock.verify()
        for name in self._expected.names:
            for source in (_SEED, _DATA):
                for kind in (_LABELS, _IMAGES):
                    self._leave(name, kind, source)
        self._storage.sync()
        # What was damaged by hand was not counted.
        for directory in self._tree.directories:
            self._tree.count(directory)

    def _leave(self, name: str, kind: int, source: int) -> None:
        """Nothing may be there: what is there moves on as the messages say."""
        target = self._expected.moved(name, kind, source)
        if target is None:
            return
        paths = self._files(kind, source, name)
        if not paths:
            return
        there = self._files(kind, target, name)
        if self._expected.is_known(name, kind, target) or _same(paths, there):
            self._note(Repaired.REMOVED, name)
            if not self._dry_run and kind == _IMAGES:
                self._tree.drop_images(self._tree.directories[source], name)
            elif not self._dry_run:
                self._tree.drop_label(self._tree.directories[source], name)
            return
        if there:
            self._note(Repaired.UNRESOLVED, name)
            return
        self._note(Repaired.MOVED, name)
        if self._dry_run:
            return
        from_, to = self._tree.directories[source], self._tree.directories[target]
        if kind == _IMAGES:
            self._tree.move_image(name, from_, to)
        else:
            self._tree.move_label(name, from_, to)

    def _files(self, kind: int, index: int, name: str) -> list[str]:
        directory = self._tree.directories[index]
        paths = [directory.image(name, e) for e in EXTENSIONS] if kind == _IMAGES else [directory.label(name)]
        return [path for path in paths if os.path.lexists(path)]

    def _stage(self, directory: Directory, name: str, content: bytes, extension: str | None) -> None:
        if self._dry_run:
            return
        self._puts.append(_Put(directory, name, self._storage.stage(content), extension))
        self._staged_bytes += len(content)

    def _note(self, what: Repaired, name: str) -> None:
        self.repaired[what] += 1
        told = self.names.setdefault(str(what), [])
        if len(told) < _NAMES_TOLD and name not in told:
            told.append(name)


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _same(paths: list[str], others: list[str]) -> bool:
    """One file each, with the same name and content."""
    if len(paths) != 1 or len(others) != 1 or os.path.basename(paths[0]) != os.path.basename(others[0]):
        return False
    return _content(paths[0]) == _content(others[0])
