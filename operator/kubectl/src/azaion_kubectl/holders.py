"""Who uses a directory of this machine right now: containers that have it mounted, processes with files open in it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CONTAINER = re.compile(r"[0-9a-f]{64}")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class _Mount:
    device: str
    #: The directory of its file system that is mounted.
    source: str
    point: str


def holders(directory: Path) -> tuple[str, ...]:
    """`process 41 (python3) of container 0123456789ab`, one for each container and one for each other process.

    As root of everybody, otherwise of the own processes only.
    """
    path = directory.resolve()
    own = _mounts("self")
    place = _place(path, own)
    root_mount = next((mount for mount in own if mount.point == "/"), None)
    namespaces = {_namespace("self")}
    found = []
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if pid == os.getpid():
            continue
        namespace = _namespace(str(pid))
        if namespace is not None and namespace not in namespaces:
            namespaces.add(namespace)
            mounts = _mounts(str(pid))
            # A service with a mount namespace of its own still has the machine's root; a container has not.
            container = any(mount.point == "/" and mount != root_mount for mount in mounts)
            if container and place is not None and any(_within(mount, place) for mount in mounts):
                found.append(_name(pid))
                continue
        if _has_open(pid, str(path)):
            found.append(_name(pid))
    return tuple(found)


def _namespace(pid: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def _mounts(pid: str) -> list[_Mount]:
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return []
    fields = (line.split(" ") for line in text.splitlines())
    return [_Mount(part[2], _plain(part[3]), _plain(part[4])) for part in fields if len(part) > 4]


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _place(path: Path, mounts: list[_Mount]) -> tuple[str, str] | None:
    """Device and path within its file system; a later mount at the same point hides the earlier."""
    best: _Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        return None
    return best.device, os.path.normpath(f"{best.source.rstrip('/')}/{path.relative_to(best.point)}")


def _within(mount: _Mount, place: tuple[str, str]) -> bool:
    """Whether the mount shows the directory, or something in it."""
    device, source = place
    return mount.device == device and (mount.source == source or mount.source.startswith(f"{source.rstrip('/')}/"))


def _has_open(pid: int, path: str) -> bool:
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target == path or target.startswith(f"{path}/"):
                    return True
    return False


def _name(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/comm").read_text().strip()
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return f"process {pid}"
    container = _CONTAINER.search(groups)
    return f"process {pid} ({command})" + (f" of container {container[0][:12]}" if container else "")
