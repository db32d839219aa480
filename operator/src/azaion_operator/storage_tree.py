"""The directory tree on the volume: made where it is missing, checked where it was there before us, and counted.

Nothing here deletes or changes a file it did not make itself a moment before.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from azaion_api.layout import CLASSES_FILE, DATA_DIRECTORIES, GID, IMAGE_SUFFIXES, TOP_DIRECTORIES, UID, Layout
from azaion_api.model_card import read_card
from azaion_api.report import FoundModel

#: Images of one directory are counted up to this; a larger number would say nothing more to anybody waiting for a few.
COUNT_LIMIT = 1_000_000
#: Directories of images that are reported; the five of ours and those that resources name.
MAX_DIRECTORIES = 32
#: The message of a problem has to fit beside others into one ConfigMap.
MAX_PROBLEMS = 20
#: Models with a card that are reported, beside each line's current one; a line's history is no longer.
MAX_MODELS = 50
#: Holds records of refused messages, not pairs.
_WITHOUT_PAIRS = ("data-rejected",)
#: Files looked at for their owner in each directory of an adopted tree.
_SAMPLE = 50
#: A model whose file changed within this many seconds is still being copied.
_SETTLED_S = 2.0
_PROBE = ".azaion-probe-"


@dataclass(frozen=True)
class Space:
    """Of the volume, in bytes; `available` is what a user without privileges may still fill."""

    capacity_bytes: int = 0
    available_bytes: int = 0


class _Class(msgspec.Struct, frozen=True):
    """The part of an entry of classes.json that everything depends on."""

    identifier: int = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")


def owner_advice() -> str:
    """What to do about files of somebody else."""
    return (
        f"on the node, for the directory that is mounted, run: chown -R {UID}:{GID} DIRECTORY && "
        "chmod -R ug+rwX DIRECTORY"
    )


def make_tree(layout: Layout, classes: Path) -> list[str]:
    """Make what is missing; returns what could not be made, each with what to do.

    `classes` is written to classes.json when there is none. Directories get mode 0775 with umask 0002.
    """
    problems = []
    wanted = [layout.root / name for name in TOP_DIRECTORIES]
    for name in TOP_DIRECTORIES:
        wanted += _pair_directories(layout, name)
    for path in wanted:
        if path.is_symlink() and not path.exists():
            problems.append(
                f"{_of(layout, path)} is a symbolic link to {os.readlink(path)}, which is not on the volume; "
                "put the directory itself there, or mount the volume it lies on as well"
            )
            continue
        try:
            path.mkdir(mode=0o777, exist_ok=True)
        except FileNotFoundError:
            continue  # its parent is among the problems
        except FileExistsError:
            problems.append(f"{_of(layout, path)} is no directory; move it away")
        except OSError as error:
            problems.append(f"{_of(layout, path)} could not be made ({error.strerror}); {_advice(error)}")
    try:
        _write_once(layout.classes, classes)
    except OSError as error:
        problems.append(f"{CLASSES_FILE} could not be written ({error.strerror}); {_advice(error)}")
    return problems


def _pair_directories(layout: Layout, name: str) -> list[Path]:
    """images/ and labels/ of a directory of annotations; none of another one."""
    if name not in DATA_DIRECTORIES or name in _WITHOUT_PAIRS:
        return []
    return [layout.images(name), layout.labels(name)]


def _write_once(target: Path, source: Path) -> None:
    """Put the source's text there unless something is there; the file appears whole or not at all."""
    if target.exists() or target.is_symlink() or not source.exists():
        return
    temporary = target.with_name(f"{_PROBE}{uuid.uuid4().hex}")
    try:
        temporary.write_text(source.read_text())
        with suppress(FileExistsError):
            os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_tree(layout: Layout) -> list[str]:
    """What is wrong with the tree, each with what to do; at most MAX_PROBLEMS, empty when all is well."""
    problems = []
    if problem := _root_problem(layout):
        return [problem]
    for name in TOP_DIRECTORIES:
        problems += _directory_problems(layout, name)
    problems += [] if problems else _link_problems(layout)
    if problem := _classes_problem(layout):
        problems.append(problem)
    return problems[:MAX_PROBLEMS]


def _root_problem(layout: Layout) -> str | None:
    try:
        _probe(layout.root)
    except OSError as error:
        found = ""
        with suppress(OSError):
            status = layout.root.stat()
            found = f"; it belongs to {status.st_uid}:{status.st_gid}, mode {status.st_mode & 0o7777:o}"
        who = f"{os.geteuid()}:{os.getegid()}"
        return f"the volume cannot be written by {who} ({error.strerror}{found}); {_advice(error)}"
    return None


def _directory_problems(layout: Layout, name: str) -> list[str]:
    top = layout.root / name
    pairs = _pair_directories(layout, name)
    problems = []
    for path in (top, *pairs):
        if not path.is_dir():
            continue  # make_tree said why
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            status = path.stat()
            problems.append(
                f"{_of(layout, path)} cannot be written: it belongs to {status.st_uid}:{status.st_gid}, "
                f"mode {status.st_mode & 0o7777:o}; {owner_advice()}"
            )
            continue
        if path in pairs and (stranger := _stranger(path)) is not None:
            problems.append(
                f"{_of(layout, stranger)} cannot be written or linked by {UID}:{GID}, as others in {_of(layout, path)} "
                f"may not be; {owner_advice()}"
            )
    return problems


def _stranger(directory: Path) -> Path | None:
    """One of the first files that we could not hard-link: fs.protected_hardlinks wants our own, or read and write."""
    with os.scandir(directory) as entries:
        for entry in itertools.islice(entries, _SAMPLE):
            own = not entry.is_file(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            if not own and not os.access(entry.path, os.R_OK | os.W_OK):
                return Path(entry.path)
    return None


def _link_problems(layout: Layout) -> list[str]:
    """Whether images can be hard-linked into a data set, tried with a file of our own.

    It lies beside images/, whose modification time says that images came or went.
    """
    file = layout.root / "data" / f"{_PROBE}{uuid.uuid4().hex}"
    link = layout.datasets / file.name
    reason = ""
    try:
        if layout.images("data").stat().st_dev != layout.datasets.stat().st_dev:
            reason = "data/images and datasets lie on different file systems; put both on the one volume"
        else:
            file.touch()
            os.link(file, link)
    except OSError as error:
        reason = f"hard links are refused ({error.strerror}); use a file system that has them, such as ext4 or xfs"
    finally:
        for path in (link, file):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return [f"data sets cannot be formed: {reason}"] if reason else []


def _classes_problem(layout: Layout) -> str | None:
    try:
        found = msgspec.json.decode(layout.classes.read_bytes(), type=list[_Class])
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{CLASSES_FILE} cannot be read ({error.strerror}); {_advice(error)}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{CLASSES_FILE} is not a list of {{Id, Name, ShortName, Color}} ({error}); correct it, or move it away"
    if not found:
        return f"{CLASSES_FILE} names no class; correct it, or move it away"
    return None


def _probe(directory: Path) -> None:
    """Write and remove a file of our own there; raises OSError."""
    path = directory / f"{_PROBE}{uuid.uuid4().hex}"
    try:
        path.touch()
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _advice(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return owner_advice()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the volume"
    if error.errno == errno.EROFS:
        return "mount the volume for writing; after an error of the disk, check it first"
    return "check the node's disk and its logs"


def _of(layout: Layout, path: Path) -> str:
    """The path as people know it, relative to the storage root."""
    return path.relative_to(layout.root).as_posix()


# What lies there


def space(layout: Layout) -> Space:
    """Raises OSError."""
    found = os.statvfs(layout.root)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def base_models(layout: Layout, now: float | None = None) -> tuple[str, ...]:
    """Files and links `*.pt` of models/ that can be opened and are not being written any more, sorted.

    `now` is in seconds since the epoch.
    """
    moment = time.time() if now is None else now
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(layout.models) as entries:
        for entry in entries:
            if not entry.name.endswith(".pt") or entry.name.startswith("."):
                continue
            with suppress(OSError):
                status = entry.stat()
                if entry.is_file() and status.st_size > 0 and moment - status.st_ctime >= _SETTLED_S:
                    found.append(entry.name)
    return tuple(sorted(found))


def found_models(layout: Layout, limit: int = MAX_MODELS) -> tuple[FoundModel, ...]:
    """Directories of models/ with a card, the newest `limit` and each line's current one; newest first."""
    found = []
    with suppress(OSError), os.scandir(layout.models) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            card = read_card(Path(entry.path))
            if card is not None:
                current = _linked_directory(layout, card.line) == entry.name
                found.append(FoundModel(line=card.line, record=card.record(entry.name), current=current))
    found.sort(key=lambda model: (model.record.time, model.record.name), reverse=True)
    return tuple(model for place, model in enumerate(found) if place < limit or model.current)


def _linked_directory(layout: Layout, line: str) -> str | None:
    """The directory of models/ that holds what the line's link points to."""
    link = layout.model_link(line)
    if not link.is_symlink() or not link.exists():
        return None
    directory = link.resolve().parent
    return directory.name if directory.parent == layout.models.resolve() else None


def image_directories(layout: Layout) -> tuple[str, ...]:
    """Directories at the top that have `images/`: ours, and others that a resource may name."""
    ours = [name for name in DATA_DIRECTORIES if name not in _WITHOUT_PAIRS and layout.images(name).is_dir()]
    with os.scandir(layout.root) as entries:
        names = {entry.name for entry in entries if not entry.name.startswith(".")}
    others = sorted(name for name in names - set(TOP_DIRECTORIES) if layout.images(name).is_dir())
    return tuple((ours + others)[:MAX_DIRECTORIES])


def count_images(directory: Path, limit: int = COUNT_LIMIT) -> int:
    """Images in one directory, up to `limit`: one pass over its names, without looking at the files. Raises OSError."""
    count = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith("."):
                count += 1
                if count >= limit:
                    break
    return count
