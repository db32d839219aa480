"""/livez, /readyz and /metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from aiohttp import web

from azaion_operator.dirty import RECONCILE_TIMEOUT_S
from azaion_operator.lease import RENEW_EVERY_S

log = logging.getLogger(__name__)

#: The Lease is renewed every few seconds, and a watch brings each renewal back.
_DEAF_AFTER_S = 90.0
_STUCK_AFTER_S = RECONCILE_TIMEOUT_S + 60.0


class Health:
    """Whether the operator makes progress. Each probe gives None or the reason why not."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._echo = clock()
        self._renewal = clock()
        self._renewals = 0
        self.synced = False

    def saw_own_lease(self) -> None:
        """A watch brought the operator's Lease."""
        self._echo = self._clock()

    def watch_age_s(self) -> float:
        return self._clock() - self._echo

    def alive(self, renewals: int, stuck_for_s: float, leads: bool) -> str | None:
        """Watches bring what is written, and reconciles end.

        Without an API server nothing can be proven, and a restart would mend nothing: then it is alive.
        """
        if renewals != self._renewals:
            # Deafness counts from renewals that really were written.
            if self._clock() - self._renewal > 4 * RENEW_EVERY_S:
                self._echo = self._clock()
            self._renewals, self._renewal = renewals, self._clock()
        renewing = leads and self._clock() - self._renewal <= 4 * RENEW_EVERY_S
        if self.synced and renewing and self.watch_age_s() > _DEAF_AFTER_S:
            return f"the watches have been deaf for {self.watch_age_s():.0f} s"
        if leads and stuck_for_s > _STUCK_AFTER_S:
            return f"a reconcile has been stuck for {stuck_for_s:.0f} s"
        return None

    def ready(self, leads: bool, holder: str | None) -> str | None:
        """It acts on caches that were filled, or stands by for another operator that does."""
        if not self.synced:
            return "the caches are not filled yet"
        if not leads and holder is None:
            return "nobody holds the Lease"
        return None


async def serve(
    port: int,
    alive: Callable[[], str | None],
    ready: Callable[[], str | None],
    metrics: Callable[[], tuple[bytes, str]],
) -> web.AppRunner:
    """Serve on all addresses; the caller cleans the runner up."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(alive())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(ready())

    async def scrape(_: web.Request) -> web.Response:
        body, content_type = metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - the kubelet and Prometheus come from outside
    return runner


def _answer(problem: str | None) -> web.Response:
    return web.Response(text="ok\n") if problem is None else web.Response(status=503, text=f"{problem}\n")
