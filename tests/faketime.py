"""A process whose clock a test moves: libfaketime, put in front of the C library. Time that only goes forward stays."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LIBRARY: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def library() -> Path:
    """libfaketime on this machine. Raises FileNotFoundError where it is not installed."""
    if not _LIBRARY.exists():
        raise FileNotFoundError(f"{_LIBRARY} is missing: make clock-install")
    return _LIBRARY


def environment(preload: Path, offset: Path, *, cached_s: int = 0) -> dict[str, str]:
    """What a process starts with whose clock is off by what the file `offset` says ("+1h").

    `preload` is the library as that process sees it; the file is read at every look at the clock, or every `cached_s`.
    """
    caching = {"FAKETIME_CACHE_DURATION": str(cached_s)} if cached_s else {"FAKETIME_NO_CACHE": "1"}
    return {
        "LD_PRELOAD": str(preload),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        **caching,
    }
