"""How times, numbers and sentences are written for people and into the API. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

#: The API's bound on messages.
MAX_MESSAGE = 1024
MAX_DECIMAL = 32


def decimal(value: float | None) -> str | None:
    """A number as the API carries it: plain decimal, at most 6 significant digits; None for NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    rounded = Decimal(f"{value:.6g}")
    plain = format(rounded.normalize() if rounded else Decimal(0), "f")
    # Numbers too small or too large for a line of digits keep their exponent, which the pattern allows.
    return plain if len(plain) <= MAX_DECIMAL else f"{value:.6g}"


def in_seconds(time: datetime | None) -> datetime | None:
    """The time in UTC without fractions, as Kubernetes writes its own."""
    return None if time is None else time.astimezone(UTC).replace(microsecond=0)


def duration(seconds: float) -> str:
    """A duration for people: 45s, 12m, 2h14m, 3d4h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60}h"


def plural(n: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def sentence(text: str) -> str:
    """One line within the API's bound."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"
