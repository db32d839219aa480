"""How many bytes each top directory takes, without looking at millions of files again and again.

What a directory's own files take is remembered with its modification time: files of ours are made, renamed and removed,
never changed in place, and each of that changes the time. Only small directories, where a log may grow, are looked at
every time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from azaion_api.layout import TOP_DIRECTORIES, Layout

log = logging.getLogger(__name__)

#: Bytes of a block as st_blocks counts them.
_BLOCK_BYTES = 512
#: A directory with more entries is looked at again only when it changed, and not before many times the time that took.
_SMALL = 1000
_COST = 20
#: And at the latest after this: links may have come or gone elsewhere.
_OLD_S = 86400.0
_INTERVAL_S = 60.0
#: Their images are hard links; what others hold as well is not theirs.
_LINKING = "datasets"


@dataclass(frozen=True)
class _Own:
    """A directory's own files, not those of directories in it."""

    modified_ns: int
    used_bytes: int
    entries: int
    directories: tuple[str, ...]
    looked_s: float
    took_s: float


class Usage:
    """Measures in a thread of its own; `bytes_by_directory` is the newest whole result."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._known: dict[str, _Own] = {}
        self._found: dict[str, int] = {}
        self._due_s = float("-inf")
        self._thread: threading.Thread | None = None

    @property
    def bytes_by_directory(self) -> dict[str, int]:
        """Bytes on disk by top directory. In datasets/ a file that is also elsewhere counts there."""
        return dict(self._found)

    def poll(self, names: Iterable[str]) -> None:
        """Start measuring these directories and the fixed ones, when it is time and nothing is under way."""
        if self._clock() < self._due_s or (self._thread is not None and self._thread.is_alive()):
            return
        wanted = tuple(dict.fromkeys((*TOP_DIRECTORIES, *names)))
        self._thread = threading.Thread(target=self._measure, args=(wanted,), name="usage", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until the measurement under way is done."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _measure(self, names: Iterable[str]) -> None:
        seen: set[str] = set()
        found = {}
        for name in names:
            top = self._layout.root / name
            if top.is_dir() and not top.is_symlink():
                found[name] = self._below(top, seen, only_sole_links=name == _LINKING)
        self._known = {path: own for path, own in self._known.items() if path in seen}
        self._found = found
        self._due_s = self._clock() + _INTERVAL_S

    def _below(self, top: Path, seen: set[str], *, only_sole_links: bool) -> int:
        total, waiting = 0, [str(top)]
        while waiting:
            path = waiting.pop()
            try:
                own = self._own(path, only_sole_links=only_sole_links)
            except OSError as error:
                log.debug("%s cannot be measured: %s", path, error)
                continue
            seen.add(path)
            total += own.used_bytes
            waiting.extend(f"{path}/{name}" for name in own.directories)
        return total

    def _own(self, path: str, *, only_sole_links: bool) -> _Own:
        status = os.stat(path, follow_symlinks=False)
        known, now_s = self._known.get(path), self._clock()
        if known is not None and known.entries > _SMALL and now_s - known.looked_s < _OLD_S:
            resting = now_s - known.looked_s < _COST * known.took_s
            if resting or known.modified_ns == status.st_mtime_ns:
                return known
        used, entries, directories = status.st_blocks * _BLOCK_BYTES, 0, []
        with os.scandir(path) as listing:
            for entry in listing:
                entries += 1
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # it went meanwhile
                if S_ISDIR(found.st_mode):
                    directories.append(entry.name)
                elif S_ISREG(found.st_mode) and not (only_sole_links and found.st_nlink > 1):
                    used += found.st_blocks * _BLOCK_BYTES
        own = _Own(status.st_mtime_ns, used, entries, tuple(directories), now_s, self._clock() - now_s)
        self._known[path] = own
        return own
