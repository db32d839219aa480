"""The real Prometheus, promtool, Alertmanager and node-exporter for tests: those on PATH, or Debian's, unpacked.

Debian's packages are downloaded with apt and unpacked below the cache; nothing is installed and no service is started.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from testcluster.layout import cache_directory

PACKAGES = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
#: Name here, name of Debian's program.
PROGRAMS = {
    "prometheus": "prometheus",
    "promtool": "promtool",
    "alertmanager": "prometheus-alertmanager",
    "amtool": "amtool",
    "node_exporter": "prometheus-node-exporter",
}


#: What a program looks for at a fixed place, relative to the root.
_TEMPLATES = "usr/share/prometheus/alertmanager"
DATA = {"alertmanager": (f"{_TEMPLATES}/default.tmpl", f"{_TEMPLATES}/email.tmpl")}


class ProgramError(Exception):
    """A program is not there and cannot be had; the text says what to do."""


def program(name: str) -> Path:
    """Path of one of PROGRAMS, got on first use. Raises ProgramError."""
    for spelled in (name, PROGRAMS[name]):
        if (found := shutil.which(spelled)) is not None:
            return Path(found)
    path = _directory() / "usr" / "bin" / PROGRAMS[name]
    if not path.exists():
        unpack()
    if not path.exists():
        raise ProgramError(f"{name} is not in Debian's packages {', '.join(PACKAGES)}; install it and put it on PATH")
    return path


def data(name: str) -> tuple[Path, ...]:
    """Files of a program of ours that have to lie at the same place below the root. Raises ProgramError."""
    if not program(name).is_relative_to(_directory()):
        return ()
    return tuple(_directory() / path for path in DATA.get(name, ()))


def command(name: str) -> list[str]:
    """What starts a program; its arguments follow. Raises ProgramError."""
    found = [str(program(name))]
    if not data(name):
        return found
    # Its own view of /usr/share, in which its data is where Debian's package puts it.
    merged = f"lowerdir={_directory() / 'usr/share'}:/usr/share"
    script = f'mount -t overlay overlay -o "{merged}" /usr/share && exec "$@"'
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", script, name, *found]


def unpack() -> None:
    """Download and unpack the packages. Raises ProgramError."""
    directory = _directory()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "monitoring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            return
        downloads = directory.with_name("monitoring-packages")
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        unpacked = directory.with_name("monitoring-unpacked")
        shutil.rmtree(unpacked, ignore_errors=True)
        try:
            if subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=downloads, check=False).returncode != 0:
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=downloads, check=True)
            for package in sorted(downloads.glob("*.deb")):
                subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ProgramError(
                f"{', '.join(PACKAGES)} cannot be had from Debian ({error}); install prometheus, promtool and "
                "alertmanager and put them on PATH"
            ) from error
        unpacked.rename(directory)
        shutil.rmtree(downloads)


def _directory() -> Path:
    return cache_directory() / "monitoring"
