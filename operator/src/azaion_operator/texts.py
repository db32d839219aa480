"""How times, numbers and sentences are written for people and into the API. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

from azaion_api.words import duration as duration
from azaion_api.words import plural as plural
from azaion_api.words import size as size

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


def sentence(text: str) -> str:
    """One line within the API's bound."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"
