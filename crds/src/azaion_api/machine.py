"""The machine a process runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Machine:
    """A node, since its last start."""

    node: str
    boot_id: str


def boot_id() -> str:
    """The kernel's name for this start of the machine, the same in every container of it; empty where it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
