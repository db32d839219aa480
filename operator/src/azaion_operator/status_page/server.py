"""Serves the status page: read-only, from the caches, without a word to the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from time import monotonic

from aiohttp import web

from azaion_operator.status_page.render import missing_page, overview, run_page
from azaion_operator.status_page.view import PageView

#: Many tabs ask for one rendering.
_KEEP_FOR_S = 1.0
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_STATIC = {
    "/status.css": ("status.css", "text/css"),
    "/status.js": ("status.js", "text/javascript"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}


class StatusPage:
    """The page of `look`, which is asked for on the event loop; rendering is done beside it."""

    def __init__(self, look: Callable[[], PageView], clock: Callable[[], float] = monotonic) -> None:
        self._look = look
        self._clock = clock
        self._overview = b""
        self._rendered_s = float("-inf")
        self._rendering = asyncio.Lock()

    def application(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(_harden)
        app.router.add_get("/", self._serve_overview)
        app.router.add_get("/runs/{name}", self._serve_run)
        for path, (name, content_type) in _STATIC.items():
            app.router.add_get(path, _static(name, content_type))
        return app

    async def _serve_overview(self, _: web.Request) -> web.Response:
        async with self._rendering:
            if self._clock() - self._rendered_s > _KEEP_FOR_S:
                view = self._look()
                self._overview = await asyncio.to_thread(overview, view)
                self._rendered_s = self._clock()
        return _html(self._overview)

    async def _serve_run(self, request: web.Request) -> web.Response:
        view, name = self._look(), request.match_info["name"]
        card = view.find(name)
        if card is None:
            return _html(await asyncio.to_thread(missing_page, view, name), status=404)
        return _html(await asyncio.to_thread(run_page, view, card))


async def serve(port: int, page: StatusPage) -> web.AppRunner:
    """Serve on all addresses; the caller cleans the runner up."""
    runner = web.AppRunner(page.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - people come through a Service
    return runner


def _html(body: bytes, status: int = 200) -> web.Response:
    return web.Response(
        body=body, status=status, content_type="text/html", charset="utf-8", headers={"Cache-Control": "no-store"}
    )


def _static(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    body = (files("azaion_operator.status_page") / "static" / name).read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={"Cache-Control": "max-age=300"}
        )

    return answer


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
