"""The yardstick of the operator's benchmark: a bare asynchronous client of the API server, with nothing around it."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Document = dict[str, Any]
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
#: As many as the operator has.
CONNECTIONS = 32


class BareClient:
    """Requests and watches with the administrator's rights."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: str) -> AsyncIterator[BareClient]:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile("wb") as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            context.load_cert_chain(pair.name)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield cls(session, cluster["server"])

    async def request(
        self, method: str, path: str, body: object = None, content_type: str = JSON, *, missing_ok: bool = False
    ) -> Document:
        """The answer's object. Raises RuntimeError with the API server's words."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type, "Accept": JSON}
        async with self._session.request(method, self._server + path, data=data, headers=headers) as answer:
            found: Document = json.loads(await answer.read())
        if answer.status >= 400 and not (missing_ok and answer.status == 404):
            raise RuntimeError(f"{method} {path}: {answer.status} {found.get('message')}")
        return found

    async def watch(self, path: str, resource_version: str) -> AsyncIterator[tuple[str, Document]]:
        """Changes after that version, for ever."""
        query = f"?watch=1&resourceVersion={resource_version}"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self._session.get(self._server + path + query, timeout=timeout) as answer:
            answer.raise_for_status()
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    yield event["type"], event["object"]


async def side_by_side(work: Iterable[Callable[[], Awaitable[None]]], at_once: int = CONNECTIONS) -> None:
    """Do all of it, so many at a time."""
    waiting = iter(work)

    async def worker() -> None:
        for item in waiting:
            await item()

    await asyncio.gather(*(worker() for _ in range(at_once)))


class Watching:
    """The newest state of the objects below a path, and a way to wait for what they become.

    Whoever waits for one object is woken for that one alone: with a hundred waiting, waking all of them for each
    other's changes would be a good part of what is measured.
    """

    def __init__(self, client: BareClient, path: str) -> None:
        self._client = client
        self._path = path
        #: Those who wait, by the object they wait for; None for whoever looks at several.
        self._waiting: dict[str | None, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self.objects: dict[str, Document] = {}

    async def __aenter__(self) -> Watching:
        self._task = asyncio.create_task(self._follow_for_ever(await self._list()))
        self._task.add_done_callback(lambda _: self._wake(*self._waiting))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _list(self) -> str:
        """Take the state as it is now; its version."""
        listed = await self._client.request("GET", self._path)
        self.objects = {item["metadata"]["name"]: item for item in listed["items"]}
        return str(listed["metadata"]["resourceVersion"])

    async def _follow_for_ever(self, version: str) -> None:
        while True:
            await self._follow(version)
            # The API server drops who is slow to read.
            version = await self._list()
            self._wake(*self._waiting)

    async def _follow(self, version: str) -> None:
        async for type_, item in self._client.watch(self._path, version):
            if type_ == "ERROR":
                return
            name = item["metadata"]["name"]
            if type_ == "DELETED":
                self.objects.pop(name, None)
            else:
                self.objects[name] = item
            self._wake(name, None)

    def _wake(self, *names: str | None) -> None:
        for name in names:
            for changed in self._waiting.get(name, ()):
                changed.set()

    async def until(
        self,
        what: str,
        holds: Callable[[dict[str, Document]], bool],
        timeout_s: float = 60.0,
        *,
        of: str | None = None,
    ) -> None:
        """Return as soon as it holds, of all objects or of that one. Raises TimeoutError saying what did not happen."""
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(of, set())
        waiting.add(changed)
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(self.objects):
                    if self._task is not None and self._task.done():
                        self._task.result()  # what ended it is the reason
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            raise TimeoutError(f"within {timeout_s:.0f} s this did not happen: {what}") from None
        finally:
            waiting.discard(changed)
