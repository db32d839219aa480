"""A real S3 server on loopback: the Versity gateway over a directory, built from its Go module once."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "azaion-training" / "store"
PROGRAM = "github.com/versity/versitygw/cmd/versitygw"
_READY_S = 30.0


@dataclass(frozen=True)
class Store:
    """A running store with one bucket per directory."""

    endpoint: str
    key_id: str
    secret: str
    directory: Path


def program() -> Path:
    """The server, built when this version of it is not there yet (about a minute)."""
    key = hashlib.sha256((HERE / "go.sum").read_bytes() + (HERE / "go.mod").read_bytes()).hexdigest()[:16]
    built = CACHE / key / "versitygw"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        fresh = built.with_name(f".versitygw-{os.getpid()}")
        subprocess.run(["go", "build", "-trimpath", "-o", str(fresh), PROGRAM], cwd=HERE, check=True)
        fresh.replace(built)
    return built


@contextmanager
def store(directory: Path, *buckets: str) -> Iterator[Store]:
    """Serve `directory` on a free port until the end of the block."""
    for part in ("buckets", "metadata", *(f"buckets/{name}" for name in buckets)):
        (directory / part).mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = Store(f"http://127.0.0.1:{port}", "writer-key-id", "writer-secret-key", directory / "buckets")
    with (directory / "store.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(program()),
                "--port",
                f"127.0.0.1:{port}",
                "posix",
                "--sidecar",
                str(directory / "metadata"),
                str(found.directory),
            ],
            env={**os.environ, "ROOT_ACCESS_KEY": found.key_id, "ROOT_SECRET_KEY": found.secret},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(port, process, directory / "store.log")
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the store did not start: {log.read_text()[-2000:]}")
