"""The status page in a real Chromium: readable in light and dark, usable by keyboard and without JavaScript."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from tests.browser.chromium import Page, find_chromium, open_page
from tests.browser.scene import Scene

from azaion_operator.status_page.server import StatusPage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium (apt-get install chromium)"),
]
PATHS = ("/", "/runs/full-2026-11", "/runs/full-0000", "/runs/full-0003")

#: Every text that is seen with its contrast to what lies behind it (WCAG 2, relative luminance), and its size.
CONTRASTS = """(() => {
  const channel = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return { r: n[0], g: n[1], b: n[2], a: n.length > 3 ? n[3] : 1 };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a), a: 1,
  });
  const light = (c) => 0.2126 * channel(c.r) + 0.7152 * channel(c.g) + 0.0722 * channel(c.b);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 });
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || element.closest("svg,script,noscript") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), back = behind(element);
    const [a, b] = [light(over(parse(style.color), back)), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const large = size >= 24 || (size >= 18.66 && bold);
    found.push({ text: text.slice(0, 40), ratio: (a + 0.05) / (b + 0.05), needed: large ? 3 : 4.5 });
  }
  return found;
})()"""

#: Lines of charts and filled parts of bars against the card behind them: graphics need 3 to 1.
GRAPHICS = """(() => {
  const channel = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const card = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
  const ratio = (text) => { const [a, b] = [light(text), card].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  return [
    ...[...document.querySelectorAll(".line")].map((e) => [e.getAttribute("class"), ratio(getComputedStyle(e).stroke)]),
    ...[...document.querySelectorAll("progress")].map((e) => [e.className, ratio(getComputedStyle(e).color)]),
  ];
})()"""

FOCUSED = """(() => {
  const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  return {
    tag: e.tagName, text: (e.textContent || "").trim().slice(0, 30), href: e.getAttribute("href"),
    outline: parseFloat(style.outlineWidth) * (style.outlineStyle === "none" ? 0 : 1),
    seen: box.width > 0 && box.right > 0,
  };
})()"""


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    """A page of a platform in the middle of a training."""
    scene = Scene()
    async with TestServer(StatusPage(scene.page).application()) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    async with open_page() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_every_text_and_graphic_stands_out_enough(page: Page, address: str, dark: bool) -> None:
    await page.look(dark=dark)
    for path in PATHS:
        await page.open(address + path)
        texts: list[dict[str, Any]] = await page.run(CONTRASTS)
        assert len(texts) > 20, path
        faint = [found for found in texts if found["ratio"] < found["needed"]]
        assert faint == [], (path, faint)
        assert [found for found in await page.run(GRAPHICS) if found[1] < 3] == [], path
    scheme = await page.run("getComputedStyle(document.body).backgroundColor")
    assert (scheme == "rgb(13, 18, 24)") is dark
    assert page.problems == []


async def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(page: Page, address: str) -> None:
    await page.look(dark=False)
    await page.open(f"{address}/")
    wanted = await page.run(
        "[...document.querySelectorAll('a,summary')].filter(e => e.checkVisibility())"
        ".map(e => (e.textContent || '').trim().slice(0, 30))"
    )
    reached: list[str] = []
    for _ in range(200):
        await page.press("Tab")
        found = await page.run(FOCUSED)
        if found["tag"] == "BODY":
            break
        assert found["outline"] >= 2, found
        assert found["seen"], found
        reached.append(found["text"])
        if found["text"] == "Skip to the content" and len(reached) > 1:
            break
    assert reached[0] == "Skip to the content"
    assert set(wanted) <= set(reached), set(wanted) - set(reached)


async def test_without_javascript_everything_is_there_and_it_refreshes_itself(page: Page, address: str) -> None:
    await page.ask("Emulation.setScriptExecutionDisabled", value=True)
    await page.look(dark=False)
    await page.open(f"{address}/")
    text = await page.run("document.body.innerText")
    for words in ("full-2026-11", "46 of 120 epochs", "71 °C", "12 messages behind", "hires-1536", "83 %"):
        assert words in text, words
    refresh = await page.run("document.querySelector('meta[http-equiv=refresh]')?.content")
    assert refresh == "15"


async def test_nothing_is_fetched_from_elsewhere_and_the_policy_has_nothing_to_refuse(page: Page, address: str) -> None:
    for path in PATHS:
        await page.open(address + path)
        # The browser reports what a policy refuses a moment after the page is there.
        await page.run("new Promise(done => setTimeout(done, 200))")
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith(address)] == []


async def test_a_refresh_keeps_what_was_opened_and_focused_and_a_lost_server_is_said(page: Page, address: str) -> None:
    await page.look(dark=False)
    await page.open(f"{address}/")
    await page.run("document.querySelector('details[data-key=\"line-azaion\"] summary').click()")
    await page.run("document.querySelector('details[data-key=\"line-azaion\"] summary').focus()")
    await page.run("document.getElementById('content').dataset.old = '1'")
    deadline = asyncio.get_running_loop().time() + 40
    while await page.run("document.getElementById('content').dataset.old || ''"):
        assert asyncio.get_running_loop().time() < deadline, "the page did not refresh itself"
        await asyncio.sleep(0.5)
    assert await page.run("document.querySelector('details[data-key=\"line-azaion\"]').open")
    assert await page.run("document.activeElement.tagName") == "SUMMARY"
    assert await page.run("document.getElementById('lost').hidden")
    await page.ask(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
    )
    deadline = asyncio.get_running_loop().time() + 40
    while await page.run("document.getElementById('lost').hidden"):
        assert asyncio.get_running_loop().time() < deadline, "a lost connection is not said"
        await asyncio.sleep(0.5)
    assert "No connection since" in await page.run("document.getElementById('lost').innerText")
    assert await page.run("document.getElementById('content').innerText.includes('full-2026-11')")


@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_it_fits_every_screen_without_scrolling_sideways(page: Page, address: str, width: int) -> None:
    await page.look(dark=False, width=width)
    for path in PATHS:
        await page.open(address + path)
        assert await page.run("document.documentElement.scrollWidth") <= width, path


async def test_pictures_are_taken(page: Page, address: str, tmp_path: Path) -> None:
    """What a person looks at before a release; `AZAION_PICTURES` keeps them."""
    directory = Path(os.environ.get("AZAION_PICTURES", tmp_path))
    for name, path, dark, width, height in (
        ("light", "/", False, 1280, 1500),
        ("dark", "/", True, 1280, 1500),
        ("run", "/runs/full-0000", False, 1280, 1500),
        ("phone", "/", True, 390, 1700),
    ):
        await page.look(dark=dark, width=width, height=height)
        await page.open(address + path)
        await page.screenshot(directory / f"status-page-{name}.png")
        assert (directory / f"status-page-{name}.png").stat().st_size > 10_000
