"""This machine: its programs, its disk, and how it reaches its package sources."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from testcluster.layout import cache_directory

from containerimages.catalogue import CHUNK_BYTES, ImageError

#: The Debian release all images are made of.
SUITE = "bookworm"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str], what: str, *, quiet: bool = False) -> str:
    """Run it, output going to the terminal unless quiet; returns standard output. Raises ImageError."""
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE if quiet else sys.stderr,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(f"{what} failed: {command[0]} is not on the PATH") from error
    if result.returncode != 0:
        detail = (result.stderr or "").strip()[-2000:] or f"see the lines above; it ended with {result.returncode}"
        raise ImageError(f"{what} failed: {detail}")
    return result.stdout or ""


def answers(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def output_of(command: Sequence[str], what: str) -> Iterator[IO[bytes]]:
    """The command's standard output. Raises ImageError when it fails, BrokenPipeError aside."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stream = process.stdout
        if stream is None:
            raise ImageError(f"{what}: no output")
        yield stream
        while stream.read(CHUNK_BYTES):
            pass
        errors = (process.stderr.read() if process.stderr else b"").decode(errors="replace")
        if process.wait() != 0:
            raise ImageError(f"{what} failed: {errors.strip()[-1000:]}")


def install(package: str) -> None:
    """Install a Debian package. Raises ImageError."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ImageError(f"{package} is needed: install it, or have docker, podman or nerdctl running")
    say(f"installing {package} with apt-get")
    os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
    run(["apt-get", "update", "-qq"], "apt-get update", quiet=True)
    run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package], f"installing {package}", quiet=True)


@contextmanager
def locked() -> Iterator[None]:
    """One build at a time on this cache."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "images.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of images to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def machine_settings(directory: Path) -> Iterator[list[str]]:
    """How this machine reaches its package sources, as volumes of a build: nothing of it stays in the image."""
    place = directory / f"machine-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    volumes = []
    try:
        (place / "apt.conf.d").mkdir(parents=True)
        (place / "sources.list.d").mkdir()
        pip = {"disable-pip-version-check": "1", **_pip_settings()}
        if _CA_BUNDLE.is_file():
            pip["cert"] = str(_CA_BUNDLE)
            volumes.append(f"{_CA_BUNDLE}:{_CA_BUNDLE}:ro")
        (place / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
        volumes.append(f"{place / 'pip.conf'}:/etc/pip.conf:ro")
        settings = [*apt_settings(), 'APT::Keep-Downloaded-Packages "false";', 'APT::Install-Recommends "false";']
        (place / "apt.conf.d" / "machine").write_text("\n".join(settings) + "\n")
        volumes.append(f"{place / 'apt.conf.d'}:/etc/apt/apt.conf.d:ro")
        if sources := apt_sources():
            (place / "sources.list.d" / "machine.list").write_text("\n".join(sources) + "\n")
            volumes.append(f"{place / 'sources.list.d'}:/etc/apt/sources.list.d:ro")
        yield volumes
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _pip_settings() -> dict[str, str]:
    """How this machine's pip downloads, from its files and its environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    wanted = ("index-url", "extra-index-url", "trusted-host", "cert", "timeout", "retries", "proxy")
    found = re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE)
    return {key: value for key, value in found if key in wanted}


def apt_settings() -> list[str]:
    """How this machine's apt downloads: proxies, certificates, what it checks. None where there is no apt."""
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    wanted = ("http", "https", "Check-", "Retries", "ForceIPv")
    return [line for line in dumped.splitlines() if line.startswith(tuple(f"Acquire::{word}" for word in wanted))]


def apt_sources() -> list[str]:
    """This machine's sources of the Debian release the images are made of; none when it runs another one."""
    if shutil.which("apt-get") is None:
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    suites = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    return sorted({f"deb {line}" for line in lines if len(line.split()) == 3 and line.split()[1] in suites})
