"""A real MLflow server on loopback, and servers that are none: one that never answers, one that says no."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import free_port, serving


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 - ours
        return bool(answer.status == 200)
    return False


@contextmanager
def mlflow_server(directory: Path, port: int | None = None) -> Iterator[str]:
    """`mlflow server` with its database and files below `directory`; its address."""
    port = port or free_port()
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(directory / "files")]
    own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # What a test says of its client is not for the server, which would take it for its own store.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    log = directory / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=kept | own, cwd=directory, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline, tick = time.monotonic() + 240, threading.Event()
        while not answers(url):
            assert process.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"the server did not start in time:\n{log.read_text()[-3000:]}"
            tick.wait(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and requests, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def answering_server(status: int, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Gives every request the same answer without a body; its address, and the requests it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.headers.get("Authorization", "") + " " + self.path)
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815 - names http.server calls

    with serving(Handler) as url:
        yield url, asked
