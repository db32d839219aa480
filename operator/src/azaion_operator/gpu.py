"""What the GPU exporter says, read every few seconds; nothing where there is no exporter."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import aiohttp

log = logging.getLogger(__name__)

_READ_EVERY_S = 10.0
#: Older readings say nothing about now.
FRESH_FOR_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MAX_BYTES = 1 << 20
_SAMPLE = re.compile(r"^azaion_gpu_([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_FIELDS = {
    "utilization_ratio": "utilization",
    "temperature_celsius": "temperature_c",
    "memory_used_bytes": "memory_used_bytes",
    "memory_total_bytes": "memory_total_bytes",
    "power_watts": "power_w",
    "power_limit_watts": "power_limit_w",
}


@dataclass(frozen=True)
class GpuReading:
    """One GPU; a value that is None was not told."""

    index: str
    model: str = ""
    #: 0 to 1.
    utilization: float | None = None
    temperature_c: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    #: Why it is held back, if it is.
    throttled: tuple[str, ...] = ()


def parse_readings(exposition: str) -> tuple[GpuReading, ...]:
    """The GPUs in an exporter's text; lines that are no samples of ours are passed over."""
    figures: dict[str, dict[str, float]] = {}
    models: dict[str, str] = {}
    throttled: dict[str, list[str]] = {}
    for line in exposition.splitlines():
        sample = _SAMPLE.match(line)
        labels = dict(_LABEL.findall(sample[2] or "")) if sample else {}
        if sample is None or "gpu" not in labels:
            continue
        gpu, name = labels["gpu"], sample[1]
        try:
            value = float(sample[3])
        except ValueError:
            continue
        if name == "info":
            models[gpu] = labels.get("model", "")
        elif name == "throttled" and value:
            throttled.setdefault(gpu, []).append(labels.get("reason", ""))
        elif name in _FIELDS and math.isfinite(value):
            figures.setdefault(gpu, {})[_FIELDS[name]] = value
    return tuple(
        GpuReading(
            index=gpu, model=models.get(gpu, ""), throttled=tuple(throttled.get(gpu, ())), **figures.get(gpu, {})
        )
        for gpu in sorted(figures.keys() | models.keys())
    )


class GpuWatch:
    """The newest readings of the exporter at `url`."""

    def __init__(self, url: str | None, clock: Callable[[], float] = monotonic) -> None:
        self._url = url
        self._clock = clock
        self._readings: tuple[GpuReading, ...] = ()
        self._read_at_s = float("-inf")

    @property
    def readings(self) -> tuple[GpuReading, ...]:
        """Empty when there is no exporter, or it has not answered for a minute."""
        return self._readings if self._clock() - self._read_at_s <= FRESH_FOR_S else ()

    async def run(self) -> None:
        """Read for ever; without an exporter there is nothing to do."""
        if self._url is None:
            await asyncio.Event().wait()
            return
        said = ""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
            while True:
                problem = await self.read(session)
                if problem != said:
                    log.info("the GPU exporter answers again") if not problem else log.warning("%s", problem)
                    said = problem
                await asyncio.sleep(_READ_EVERY_S)

    async def read(self, session: aiohttp.ClientSession) -> str:
        """Read once; what is wrong, or nothing."""
        url = self._url or ""
        try:
            async with session.get(url) as response:
                if response.status != 200:
                    return f"the GPU exporter at {url} answered with {response.status}"
                body = await response.content.read(_MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"the GPU exporter at {url} cannot be read: {type(error).__name__}"
        self._readings, self._read_at_s = parse_readings(body.decode(errors="replace")), self._clock()
        return ""
