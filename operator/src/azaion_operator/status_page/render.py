"""From the view to HTML. Everything a template writes is escaped; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from azaion_api.health import RESPONSE_TIMES
from azaion_api.words import duration, plural, size
from azaion_operator.status_page.view import PageView, RunCard

#: Finished runs that are shown before the rest is folded away.
SHOWN = 12
REFRESH_S = 15


def overview(view: PageView) -> bytes:
    """The page."""
    return _render("overview.html", view, {"shown": SHOWN})


def run_page(view: PageView, card: RunCard) -> bytes:
    """The page of one run."""
    return _render("run.html", view, {"card": card})


def missing_page(view: PageView, name: str) -> bytes:
    """What is said of a run that is not there."""
    return _render("missing.html", view, {"name": name})


def _render(template: str, view: PageView, values: Mapping[str, Any]) -> bytes:
    text = _environment().get_template(template).render(view=view, now=view.now, refresh_s=REFRESH_S, **values)
    return text.encode()


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("azaion_operator.status_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "ago": ago,
        "clock": clock,
        "duration": _duration,
        "figure": figure,
        "percent": lambda value: f"{100 * value:.0f} %",
        "plural": plural,
        "short": short,
        "signed": signed,
        "size": size,
        "thousands": lambda value: f"{value:,}".replace(",", "\u202f"),
    }
    found.globals["response_times"] = RESPONSE_TIMES
    return found


def _duration(value: Any) -> str:
    """Of seconds or a timedelta: 2h14m."""
    return duration(value.total_seconds() if hasattr(value, "total_seconds") else float(value))


def ago(time: datetime | None, now: datetime) -> str:
    """`12m ago`."""
    if time is None:
        return "never"
    seconds = (now - time).total_seconds()
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def clock(time: datetime | None) -> str | Markup:
    """A moment as text in UTC, marked up so that a browser with scripts shows it in its own time zone."""
    if time is None:
        return "–"
    utc = time.astimezone(UTC)
    text = f"{utc:%a} {utc.day} {utc:%b}, {utc:%H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(f"{utc:%Y-%m-%dT%H:%M:%SZ}", text)


def figure(value: str | None) -> str:
    """A decimal string of the API, short: four decimals below one, three above."""
    if value is None:
        return "–"
    number = float(value)
    if number and abs(number) < 0.001:
        return f"{number:.2e}"
    return f"{number:.4f}" if abs(number) < 1 else f"{number:.3f}" if abs(number) < 100 else f"{number:.0f}"


def signed(new: str, old: str) -> str:
    """The difference of two decimal strings."""
    return f"{float(new) - float(old):+.4f}"


def short(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest.removeprefix("sha256:")[:12]
