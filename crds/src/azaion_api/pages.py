"""A few pages over HTTP from threads of their own: probes and metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = logging.getLogger(__name__)

#: Prometheus' text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_S = 10.0
#: What `close` waits at most for the thread to notice.
_CLOSE_WAIT_S = 0.1


@dataclass(frozen=True)
class Answer:
    """What a page says."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


def probe(problem: str | None) -> Answer:
    """A probe's answer: 503 with the sentence of what is wrong, or 200."""
    return Answer(f"{problem or 'ok'}\n".encode(), 503 if problem else 200)


class PageServer:
    """Answers GET for these paths until it is closed. Raises OSError when the port is taken."""

    def __init__(self, port: int, pages: Mapping[str, Callable[[], Answer]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                answer = page() if page else Answer(f"there are {', '.join(pages)}\n".encode(), 404)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Probes and scrapes every few seconds are no news."""
                log.debug(format, *args)

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_CLOSE_WAIT_S,), name="http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)
