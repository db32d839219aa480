"""How durations, sizes and numbers of things are written for people. Pure."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration: 45s, 12m, 2h14m, 3d4h."""
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


def size(size_bytes: float) -> str:
    """In binary units: 3.2 GiB."""
    value, units = float(size_bytes), ("B", "KiB", "MiB", "GiB", "TiB")
    unit = 0
    while value >= 1024 and unit < len(units) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {units[unit]}" if value >= 100 or unit == 0 else f"{value:.1f} {units[unit]}"
