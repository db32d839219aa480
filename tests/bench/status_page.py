#!/usr/bin/env python3
"""How long the status page takes with a thousand runs, and what reconciles wait for it (`make bench-page`)."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from pathlib import Path

import aiohttp
from aiohttp.test_utils import TestServer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.browser.scene import Scene

from azaion_operator.status_page.server import StatusPage
from azaion_operator.status_page.view import PageView

RUNS = 1000
REQUESTS = 50
LIMIT_MS = 300.0


async def measure() -> int:
    """Print the figures; 1 when the page with a thousand runs takes more than LIMIT_MS."""
    scene = Scene(RUNS)
    views_ms: list[float] = []

    def look() -> PageView:
        began = time.perf_counter()
        view = scene.page()
        views_ms.append(1000 * (time.perf_counter() - began))
        return view

    # Every request finds the kept rendering too old.
    ticks = itertools.count(0, 10)
    page = StatusPage(look, lambda: float(next(ticks)))
    async with TestServer(page.application()) as server, aiohttp.ClientSession(trust_env=False) as session:
        answers_ms = []
        size = 0
        for _ in range(REQUESTS):
            began = time.perf_counter()
            async with session.get(server.make_url("/")) as answer:
                size = len(await answer.read())
            answers_ms.append(1000 * (time.perf_counter() - began))
    first, later = answers_ms[0], sorted(answers_ms[1:])
    print(f"{scene.page().runs} runs, {size / 1024:.0f} KiB, {REQUESTS} requests one after the other")
    print(f"first {first:.0f} ms; then median {statistics.median(later):.0f} ms, slowest {later[-1]:.0f} ms")
    print(f"reconciles wait median {statistics.median(views_ms):.1f} ms, at most {max(views_ms):.1f} ms")
    return int(max(first, later[-1]) > LIMIT_MS)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    sys.exit(asyncio.run(measure()))
