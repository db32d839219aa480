"""Owners and modes of a tree on this machine: changed for the platform, written down, and put back.

The record holds what most files of a directory have, and the others by name. So it stays small with files by the
million, and says what files that came or moved since should get on the way back: what their neighbours had.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from azaion_api.layout import GID, UID
from azaion_kubectl.errors import CommandError

#: What the platform's user needs; a directory passes its group on, and the kubelet then leaves the tree alone.
_DIRECTORY_BITS = stat.S_ISGID | 0o770
_FILE_BITS = 0o660
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Whoever waits for a tree of millions hears of it this often.
_STEP = 1000

Progress = Callable[[int], None]


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Owner, group and mode of a file or directory; of a file without setuid and setgid."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Owner:
        mode = stat.S_IMODE(status.st_mode)
        # Whoever may write into the tree could put a program there: no file of it ever runs with its owner's rights.
        return cls(status.st_uid, status.st_gid, mode if stat.S_ISDIR(status.st_mode) else mode & 0o1777)


class DirectoryOwners(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A directory, what most of its files had, and those that had something else, by name."""

    own: Owner
    files: Owner | None = None
    others: dict[str, Owner] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory of the tree; `directory` is its parent relative to the root, empty for the root itself."""

    directory: str
    name: str
    is_directory: bool
    owner: Owner
    #: The open parent.
    parent: int

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.name}" if self.directory else self.name


def key(name: str) -> str:
    """A name or path as it stands in the record: also one that is no text."""
    return quote(os.fsencode(name), safe="/ ")


def walk(root: Path, names: Iterable[str]) -> Iterator[Entry]:
    """Files and directories below `root/NAME`, and these themselves; no symbolic link is followed or named.

    Raises CommandError for what cannot be read, and for another file system within the tree.
    """
    try:
        top = os.open(root, _OPEN | os.O_DIRECTORY)
        try:
            device = os.fstat(top).st_dev
            for name in names:
                yield from _walk(root, top, "", name, device)
        finally:
            os.close(top)
    except PermissionError as error:
        raise CommandError(f"{error.filename or root} cannot be read; run this as root, with sudo") from error


def _walk(root: Path, parent: int, directory: str, name: str, device: int) -> Iterator[Entry]:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and not stat.S_ISREG(status.st_mode):
        return
    path = f"{directory}/{name}" if directory else name
    if status.st_dev != device:
        raise CommandError(
            f"{root / path} lies on another file system than {root}, and data sets are hard links; "
            f"copy it into {root} itself"
        )
    yield Entry(directory, name, is_directory, Owner.of(status), parent)
    if not is_directory:
        return
    opened = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(opened) as entries:
            inside = sorted(entry.name for entry in entries)
        for child in inside:
            yield from _walk(root, opened, path, child, device)
    finally:
        os.close(opened)


def wanted(entry: Entry) -> Owner:
    """What the platform needs of it."""
    return Owner(UID, GID, entry.owner.mode | (_DIRECTORY_BITS if entry.is_directory else _FILE_BITS))


@dataclass(frozen=True)
class Survey:
    """What is in the tree."""

    owners: dict[str, DirectoryOwners]
    #: Files and directories by top name, and of them those that have to change.
    entries: dict[str, int]
    changes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.entries.values())


def survey(
    root: Path, names: Iterable[str], progress: Progress, known: dict[str, DirectoryOwners] | None = None
) -> Survey:
    """Look at every file and directory; changes nothing on disk.

    With `known`, what an earlier survey wrote down: it stays, and what came since, and is not the platform's yet, is
    added to it.
    """
    owners = {"": DirectoryOwners(own=Owner.of(os.stat(root)))} if known is None else known
    files: dict[str, dict[Owner, list[str]]] = {}
    entries: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for number, entry in enumerate(walk(root, names), start=1):
        top = entry.path.partition("/")[0]
        entries[top] += 1
        changes[top] += wanted(entry) != entry.owner
        if known is not None:
            _note(known, entry)
        elif entry.is_directory:
            owners[key(entry.path)] = DirectoryOwners(own=entry.owner)
        else:
            files.setdefault(entry.directory, {}).setdefault(entry.owner, []).append(entry.name)
        if number % _STEP == 0:
            progress(number)
    for directory, by_owner in files.items():
        common = max(by_owner, key=lambda owner: len(by_owner[owner]))
        found = owners[key(directory)]
        found.files = common
        found.others = {key(n): owner for owner, names in by_owner.items() if owner != common for n in names}
    return Survey(owners, dict(entries), dict(changes))


def _note(owners: dict[str, DirectoryOwners], entry: Entry) -> None:
    """Add what came since the record was made. What is the platform's was changed by it, or made by it."""
    if (entry.owner.uid, entry.owner.gid) == (UID, GID) or original(owners, entry) == entry.owner:
        return
    if entry.is_directory:
        owners[key(entry.path)] = DirectoryOwners(own=entry.owner)
        return
    known = owners.setdefault(key(entry.directory), DirectoryOwners(own=_nearest(owners, entry.directory).own))
    known.others[key(entry.name)] = entry.owner


def original(owners: dict[str, DirectoryOwners], entry: Entry) -> Owner:
    """What the record says of it; of what it does not know, what its neighbours had."""
    if entry.is_directory:
        known = owners.get(key(entry.path))
        return known.own if known is not None else _nearest(owners, entry.directory).own
    known = owners.get(key(entry.directory))
    if known is not None and (other := known.others.get(key(entry.name))) is not None:
        return other
    path = entry.directory
    while path and (known is None or known.files is None):
        path = path.rpartition("/")[0]
        known = owners.get(key(path))
    if known is not None and known.files is not None:
        return known.files
    top = owners[""].own
    return Owner(top.uid, top.gid, top.mode & 0o666)


def _nearest(owners: dict[str, DirectoryOwners], path: str) -> DirectoryOwners:
    while (known := owners.get(key(path))) is None:
        path = path.rpartition("/")[0]
    return known


def change_owners(
    root: Path, names: Iterable[str], choose: Callable[[Entry], Owner], top: Owner, progress: Progress
) -> int:
    """Give every file and directory what `choose` says, and the root `top`; how many were changed. Raises OSError."""
    changed = 0
    for number, entry in enumerate(walk(root, names), start=1):
        owner = choose(entry)
        if owner != entry.owner:
            flags = os.O_DIRECTORY if entry.is_directory else os.O_NONBLOCK
            try:
                _give(entry.name, entry.parent, owner, flags)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(root / entry.path)) from error
            changed += 1
        if number % _STEP == 0:
            progress(number)
    if Owner.of(os.stat(root)) != top:
        _give(str(root), None, top, os.O_DIRECTORY)
        changed += 1
    return changed


def _give(name: str, parent: int | None, owner: Owner, flags: int) -> None:
    # By descriptor: a name that somebody replaces by a link meanwhile leads nowhere else.
    descriptor = os.open(name, _OPEN | flags, dir_fd=parent)
    try:
        os.fchown(descriptor, owner.uid, owner.gid)
        os.fchmod(descriptor, owner.mode)
    finally:
        os.close(descriptor)
