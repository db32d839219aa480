"""`/livez`, `/readyz` and `/metrics`, from a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from azaion_consumer.metrics import CONTENT_TYPE


@dataclass(frozen=True)
class Health:
    """What the probes ask; both answer with the sentence of what is wrong, or None."""

    not_alive: Callable[[], str | None]
    not_ready: Callable[[], str | None]
    metrics: Callable[[], bytes]


class HealthServer:
    """Serves until closed. Raises OSError when the port is taken."""

    def __init__(self, port: int, health: Health) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10.0

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, health.metrics(), CONTENT_TYPE)
                elif self.path in ("/livez", "/readyz"):
                    problem = health.not_alive() if self.path == "/livez" else health.not_ready()
                    self._answer(503 if problem else 200, (problem or "ok").encode() + b"\n", "text/plain")
                else:
                    self._answer(404, b"only /livez, /readyz and /metrics are here\n", "text/plain")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Probes every few seconds are no news."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)
