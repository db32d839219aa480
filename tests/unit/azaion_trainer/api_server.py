"""The HTTP API's protocol on loopback: login, Bearer, uploads, and a token that runs out when a test says so."""

from __future__ import annotations

import email.parser
import email.policy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import serving


class Api:
    """What the server saw and how it behaves."""

    email, password = "trainer@example.com", "open sesame 123"

    def __init__(self) -> None:
        self.logins = 0
        self.files: dict[str, bytes] = {}
        self.resources: dict[str, bytes] = {}
        self.token = ""
        #: Uploads that are answered before the token runs out; None for ever.
        self.token_lasts: int | None = None
        #: Status of each of the next answers to uploads, before it behaves again.
        self.answers: list[int] = []
        self.refuse_tokens_with = 401
        self.url = ""

    def login(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if (body.get("email"), body.get("password")) != (self.email, self.password):
            return 409, f"no user {body.get('email')} with password {body.get('password')}".encode()
        self.logins += 1
        self.token = f"secret-token-{self.logins}"
        return 200, json.dumps({"token": self.token}).encode()

    def accepts(self, authorization: str) -> bool:
        if authorization != f"Bearer {self.token}":
            return False
        if self.token_lasts is not None:
            self.token_lasts -= 1
            if self.token_lasts < 0:
                self.token, self.token_lasts = "", None
                return False
        return True


@contextmanager
def served(api: Api) -> Iterator[Api]:
    """Serve it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = self._answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _answer(self, body: bytes) -> tuple[int, bytes]:
            if self.path == "/login":
                return api.login(json.loads(body))
            if api.answers:
                return api.answers.pop(0), b"an error page that quotes " + self.headers["Authorization"].encode()
            if not api.accepts(self.headers.get("Authorization", "")):
                return api.refuse_tokens_with, b""
            if self.path.startswith("/resources/get/"):
                name = json.loads(body)["fileName"]
                return (200, api.resources[name]) if name in api.resources else (404, b"no such resource")
            name, content = self._file(body)
            api.files[f"{self.path.removeprefix('/resources/')}/{name}"] = content
            return 200, b""

        def _file(self, body: bytes) -> tuple[str, bytes]:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
            part = next(iter(message.iter_parts()))
            assert part.get_param("name", header="content-disposition") == "data"
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return str(part.get_filename()), content

    with serving(Handler) as api.url:
        yield api
