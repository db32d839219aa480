"""A web server of a test's own, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
