"""Free ports, and a web server of a test's own, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports nobody listens at, each another one."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for found in sockets:
            found.bind((address, 0))
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()


def free_port(address: str = "127.0.0.1") -> int:
    """A port nobody listens at."""
    return free_ports(1, address)[0]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a free port while the context is open; its address, without a slash at the end."""

    class Quiet(handler):  # type: ignore[misc, valid-type]
        def log_message(self, *_: Any) -> None:
            """Every request would be written to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    # Looked at often: closing waits for the next look.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
