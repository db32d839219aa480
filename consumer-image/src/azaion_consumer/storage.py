"""What makes files durable, and the offset that says up to where they are.

A batch of messages is filed so:

1. Its files are written into the staging directory, its steps into `batch.msgpack.new`; one sync makes all durable.
2. That sync made the renames of the batch before durable as well: its offset file is put in place.
3. `batch.msgpack` is put in place, then the steps are taken, in order.

A process that dies before 3 has done nothing: the messages are read again. One that dies later leaves a batch whose
rest `open` takes, so every message is applied once, in order, and the tree is the same as without the death. This
relies on the file system not keeping a later rename while losing an earlier one in a power cut; journalling ones keep
the order.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

import msgspec

from azaion_api import compose_offset
from azaion_api.annotation_ingest import IngestStorage
from azaion_api.layout import Layout
from azaion_consumer.amqp import Buffer
from azaion_consumer.errors import StorageError, StorageReason
from azaion_consumer.lock import DirectoryLocks, LockHolder
from azaion_consumer.messages import RejectReason
from azaion_consumer.rejected import RejectedDirectory, RejectedLimits
from azaion_consumer.steps import Step, first_unfinished
from azaion_consumer.tree import DIRECTORY_MODE, FILE_MODE, Directory, Tree

OFFSET_FILE = "offset.json"
_STAGING = "staging"
_BATCH_FILE = "batch.msgpack"


class DirectoryRecord(msgspec.Struct, frozen=True, rename="camel"):
    """A directory's images when it was last at rest; worth something as long as the modification time is the same."""

    images: int
    extensions: tuple[str, ...]
    modified_ns: int


class ChunkMark(msgspec.Struct, frozen=True, rename="camel"):
    """The chunk the offset lies in, by what the broker says of it: a stream made again has another one there."""

    first_offset: int
    timestamp_ms: int


class OffsetRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The offset file: every message up to and including `offset` is filed and durable."""

    offset: int | None
    stream: str
    time: datetime
    #: Names of the directories it speaks of: data, data-seed, data_deleted.
    tree: tuple[str, ...] = ()
    chunk: ChunkMark | None = None
    #: Messages applied since the ingest was made, by operation.
    processed: dict[str, int] = msgspec.field(default_factory=dict)
    rejected: dict[RejectReason, int] = msgspec.field(default_factory=dict)
    #: Names in bulk messages whose files were not there: nothing to do for them.
    names_missing: int = 0
    #: Offsets that were gone from the stream before they were filed, and that were gone on without.
    offsets_missing: int = 0
    last_message_time: datetime | None = None
    directories: dict[str, DirectoryRecord] = msgspec.field(default_factory=dict)


class BatchRecord(msgspec.Struct, frozen=True, array_like=True):
    """A batch whose files are durable: the steps that put them in place, and the offset file's content after them."""

    after: OffsetRecord
    steps: list[Step]
    #: The directories the steps are taken in: data, data-seed, data_deleted.
    tree: tuple[str, ...] = ()


_batch_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(BatchRecord)


class Storage:
    """The tree, its staging directory and the offset file of one ingest, all on one file system.

    Files are written in the staging directory, made durable by one `sync` for many, and renamed into the tree. Every
    method may raise OSError; `open` raises StorageError as well.
    """

    def __init__(
        self,
        root: Path,
        holder: LockHolder,
        stream: str,
        names: IngestStorage,
        limits: RejectedLimits | None = None,
    ) -> None:
        """`holder` says in the lock files who we are; its ingest names the directory of our own state."""
        self.root = root
        self.tree = Tree(root, names)
        self.rejected = RejectedDirectory(root, holder.ingest, stream, limits)
        self.lock = DirectoryLocks([root / directory.name for directory in self.tree.directories], holder)
        self._ingest = holder.ingest
        self._stream = stream
        self._state = Layout(root).ingest_state(holder.ingest)
        self._staging = f"{self._state}/{_STAGING}"
        self._next = 0
        self._counted = False

    @property
    def state(self) -> Path:
        """What the ingest keeps between starts."""
        return self._state

    @property
    def _batch_file(self) -> str:
        return f"{self._state}/{_BATCH_FILE}"

    @property
    def offset_file(self) -> Path:
        return self._state / OFFSET_FILE

    def open(self) -> OffsetRecord | None:
        """Take the locks, make missing directories, remove what an earlier process left half done, count the images.

        Returns what was committed last, None when nothing ever was. Safe to call again at any time.
        """
        self.tree.prepare()
        predecessors = self.lock.acquire()
        os.makedirs(self._staging, mode=DIRECTORY_MODE, exist_ok=True)
        if len(self.tree.file_systems() | {os.stat(self._staging).st_dev}) > 1:
            raise StorageError(
                StorageReason.SEVERAL_FILE_SYSTEMS,
                f"the annotation directories below {self.root} lie on several file systems, and files cannot be moved "
                "between them at one stroke; put them on one",
            )
        self.rejected.open()
        self.rejected.prune()
        record = self._finish_batch(self._state, self._load(self._state))
        for ingest in sorted(predecessors):
            record = self._succeed(ingest, record)
        self.lock.sign()
        record = self._of_this_tree(record)
        self._clear_staging()
        if not self._counted:
            for directory in self.tree.directories:
                self._count(directory, record.directories if record else {})
            self._counted = True
        return record

    def stage(self, content: Buffer) -> str:
        """Write a file in the staging directory and return its path; it is durable after the next `sync`."""
        path = f"{self._staging}/{self._next:x}"
        self._next += 1
        write_file(path, content)
        return path

    def sync(self) -> None:
        """Make everything written and renamed so far durable: one call for the whole file system."""
        descriptor = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc().syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(self._state))
        finally:
            os.close(descriptor)

    def stage_offset(self, record: OffsetRecord) -> None:
        """Write the next offset file beside the present one."""
        _write_record(self._state, record)

    def publish_offset(self) -> None:
        """Replace the offset file by the staged one, which has to be durable, like the files it speaks of."""
        self.lock.verify()
        os.rename(f"{self.offset_file}.new", self.offset_file)

    def stage_batch(self, after: OffsetRecord, steps: list[Step]) -> None:
        """Write down what has to be done once everything staged so far is durable."""
        write_file(f"{self._batch_file}.new", _batch_encoder.encode(BatchRecord(after, steps, self.tree.names)))

    def publish_batch(self) -> None:
        """From here on the staged batch is finished by whoever opens the tree, if not by us."""
        self.lock.verify()
        os.rename(f"{self._batch_file}.new", self._batch_file)

    def take(self, steps: list[Step]) -> int:
        """Take the steps in order; returns how many names there was nothing to do for."""
        return sum(step.take(self.tree, self.rejected) for step in steps)

    def close_batch(self) -> None:
        """Forget the batch file once its offset is published and no other batch follows."""
        with suppress(FileNotFoundError):
            os.unlink(self._batch_file)

    def directory_records(self) -> dict[str, DirectoryRecord]:
        """The image counts, for the next start."""
        return {
            d.name: DirectoryRecord(d.images, tuple(sorted(d.extensions)), os.stat(d.images_path).st_mtime_ns)
            for d in self.tree.directories
        }

    def free_bytes(self) -> int | None:
        """Free bytes of the volume for us, None when it cannot say."""
        try:
            status = os.statvfs(self.root)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize

    def probe(self) -> None:
        """Write a little, make it durable and remove it: does writing work again?"""
        os.makedirs(self._staging, mode=DIRECTORY_MODE, exist_ok=True)
        path = self.stage(bytes(1024 * 1024))
        try:
            self.sync()
        finally:
            with suppress(OSError):
                os.unlink(path)

    def _count(self, directory: Directory, records: dict[str, DirectoryRecord]) -> None:
        """Take the count of the last rest when nothing touched the directory since, else count."""
        known = records.get(directory.name)
        if known is not None and os.stat(directory.images_path).st_mtime_ns == known.modified_ns:
            directory.images, directory.extensions = known.images, set(known.extensions)
        else:
            self.tree.count(directory)

    def _finish_batch(self, state: Path, record: OffsetRecord | None) -> OffsetRecord | None:
        """Take what a dead process left of the last batch in `state`; returns what is committed there then."""
        path = state / _BATCH_FILE
        try:
            batch = _batch_decoder.decode(path.read_bytes())
        except FileNotFoundError:
            return record
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise StorageError(
                StorageReason.OFFSET_UNREADABLE,
                f"the batch file {path} is damaged ({error}); remove it to file its messages again",
            ) from error
        committed = record.offset if record is not None else None
        if batch.after.offset is not None and (committed is None or committed < batch.after.offset):
            # An ingest of this name may have had other directories once.
            tree = self.tree if batch.tree in ((), self.tree.names) else Tree.of(self.root, batch.tree)
            for step in batch.steps[first_unfinished(batch.steps) :]:
                step.take(tree, self.rejected)
            record = batch.after
            _write_record(state, record)
            self.sync()
            os.rename(state / f"{OFFSET_FILE}.new", state / OFFSET_FILE)
        path.unlink()
        return record

    def _succeed(self, ingest: str, mine: OffsetRecord | None) -> OffsetRecord | None:
        """Finish what another ingest left in these directories, and go on where it stopped if it read this stream.

        Its files are newer than what we filed: reading on from our own offset would put old ones in their place.
        """
        state = Layout(self.root).ingest_state(ingest)
        if not state.is_dir():
            return mine
        theirs = self._finish_batch(state, self._load(state))
        if theirs is None or (theirs.tree, theirs.stream) != (self.tree.names, self._stream):
            return mine
        self.stage_offset(theirs)
        self.sync()
        self.publish_offset()
        return theirs

    def _of_this_tree(self, record: OffsetRecord | None) -> OffsetRecord | None:
        """The record without its offset when that belongs to another stream or to other directories."""
        if record is None or (record.stream == self._stream and record.tree in ((), self.tree.names)):
            return record
        return msgspec.structs.replace(record, offset=None, chunk=None)

    def _clear_staging(self) -> None:
        with os.scandir(self._staging) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def _load(self, state: Path) -> OffsetRecord | None:
        path = state / OFFSET_FILE
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return self._take_over_original() if state == self._state else None
        try:
            return msgspec.json.decode(text, type=OffsetRecord)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise StorageError(
                StorageReason.OFFSET_UNREADABLE,
                f"the offset file {path} is damaged ({error}); correct its offset, or remove it to begin "
                "at spec.stream.startFrom (filing a message again does no harm)",
            ) from error

    def _take_over_original(self) -> OffsetRecord | None:
        """Begin where the original system stopped, once: its file is renamed when ours is in place."""
        original = self.root / compose_offset.OFFSET_FILE
        try:
            text = original.read_text(errors="replace")
        except FileNotFoundError:
            return None
        following = compose_offset.next_offset(text)
        if following is None:
            raise StorageError(
                StorageReason.OFFSET_UNREADABLE,
                f"{original} holds no offset; correct it, or remove it to begin at spec.stream.startFrom",
            )
        record = OffsetRecord(
            offset=following - 1 if following else None,
            stream=self._stream,
            time=datetime.now().astimezone(),
            tree=self.tree.names,
        )
        self.stage_offset(record)
        self.sync()
        self.publish_offset()
        os.rename(original, self.root / compose_offset.taken_over_by(self._ingest))
        self.sync()
        return record


def _write_record(state: Path, record: OffsetRecord) -> None:
    write_file(f"{state / OFFSET_FILE}.new", msgspec.json.encode(record))


@cache
def _libc() -> ctypes.CDLL:
    """The C library: Python has no syncfs of its own."""
    return ctypes.CDLL(None, use_errno=True)


def write_file(path: str, content: Buffer) -> None:
    """Write a new file, or replace the content of one that nobody else reads. Raises OSError naming the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, memoryview(content)[written:])
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)
