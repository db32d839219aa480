"""The GPU exporter: what NVIDIA's driver says of every card of the node, as metrics.

A program of its own beside the operator's. It asks for no GPU: with the nvidia RuntimeClass and NVIDIA_VISIBLE_DEVICES
it sees all of them without taking one from the trainings. The driver is read in a thread, as a call may hang for as
long as the card does; a scrape never waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pynvml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from azaion_api import logs
from azaion_api.ending import stop_event
from azaion_api.pages import METRICS_TYPE, Answer, PageServer, probe
from azaion_api.task import LOG_LEVEL_VARIABLE

log = logging.getLogger(__name__)

_HTTP_PORT_VARIABLE = "AZAION_HTTP_PORT"
_INTERVAL_S = 5.0
#: A reading older than this is none: the driver hangs.
STALE_S = 30.0
#: Why the driver keeps a card slower than it could be.
THROTTLE_REASONS = {
    "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "software_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
}
_ECC_TYPES = {
    "corrected": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "uncorrected": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}


@dataclass(frozen=True)
class Card:
    """One GPU; None where this card does not tell."""

    index: int
    uuid: str
    name: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    fan: float | None = None
    throttle_reasons: int | None = None
    #: By kind; empty for cards without error correction.
    ecc_errors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Reading:
    """What the driver said, or why it said nothing."""

    cards: tuple[Card, ...] = ()
    driver: str = ""
    problem: str | None = None


class Driver:
    """NVIDIA's driver, kept open while it answers: opening it anew may wake the cards up."""

    def __init__(self) -> None:
        self._open = False

    def read(self) -> Reading:
        """Ask once. Every failure is a Reading with a problem; the next call opens the driver again."""
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            cards = tuple(_card(index) for index in range(pynvml.nvmlDeviceGetCount()))
            driver = str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            self._close()
            return Reading(problem=f"NVIDIA's driver cannot be read: {error}")
        return Reading(cards, driver, None if cards else "NVIDIA's driver knows no GPU")

    def _close(self) -> None:
        if self._open:
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _card(index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    ecc = {
        kind: _told(partial(pynvml.nvmlDeviceGetTotalEccErrors, handle, of, pynvml.NVML_VOLATILE_ECC))
        for kind, of in _ECC_TYPES.items()
    }
    return Card(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        utilization=_scaled(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu, 0.01),
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_celsius=_told(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        power_watts=_scaled(lambda: pynvml.nvmlDeviceGetPowerUsage(handle), 0.001),
        power_limit_watts=_scaled(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle), 0.001),
        fan=_scaled(lambda: pynvml.nvmlDeviceGetFanSpeed(handle), 0.01),
        throttle_reasons=_told(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        ecc_errors=tuple((kind, count) for kind, count in ecc.items() if count is not None),
    )


def _told(ask: Callable[[], Any]) -> Any:
    """The answer, or None when this card does not have it; any other failure is the driver's. Raises NVMLError."""
    try:
        return ask()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None


def _scaled(ask: Callable[[], Any], factor: float) -> float | None:
    value = _told(ask)
    return None if value is None else value * factor


class Watcher:
    """Reads the driver again and again; `reading` is the newest that is not stale."""

    def __init__(self, read: Callable[[], Reading], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._reading: Reading | None = None
        self._read_s = clock()
        self._said: str | None = ""

    @property
    def reading(self) -> Reading | None:
        """What the driver said last, or that it hangs; None while it is asked for the first time."""
        silence_s = self._clock() - self._read_s
        if silence_s > STALE_S:
            return Reading(problem=f"NVIDIA's driver has not answered for {silence_s:.0f} s")
        return self._reading

    def look(self) -> None:
        """Read once, and log when it became better or worse."""
        reading = self._read()
        self._reading, self._read_s = reading, self._clock()
        if reading.problem != self._said:
            self._said = reading.problem
            if reading.problem:
                log.error("%s", reading.problem)
            else:
                names = ", ".join(card.name for card in reading.cards)
                log.info("driver %s sees %s", reading.driver, names)

    def watch(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.is_set():
            self.look()
            stop.wait(_INTERVAL_S)


_GAUGES: dict[str, tuple[str, Callable[[Card], float | None]]] = {
    "utilization_ratio": ("Part of the last second in which the GPU worked.", lambda card: card.utilization),
    "memory_used_bytes": ("GPU memory in use.", lambda card: card.memory_used_bytes),
    "memory_total_bytes": ("GPU memory.", lambda card: card.memory_total_bytes),
    "temperature_celsius": ("Temperature of the GPU.", lambda card: card.temperature_celsius),
    "power_watts": ("Power drawn.", lambda card: card.power_watts),
    "power_limit_watts": ("Power limit in force.", lambda card: card.power_limit_watts),
    "fan_ratio": ("Fan speed as part of the highest.", lambda card: card.fan),
}


class CardCollector(Collector):
    """What /metrics says; a series a card does not have is left out."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterable[Metric]:
        reading = self._watcher.reading
        if reading is None:
            return
        yield GaugeMetricFamily(
            "azaion_gpu_driver_up", "1 when NVIDIA's driver answers and knows a GPU.", float(reading.problem is None)
        )
        info = GaugeMetricFamily("azaion_gpu_info", "The cards.", labels=["gpu", "uuid", "model", "driver"])
        for card in reading.cards:
            info.add_metric([str(card.index), card.uuid, card.name, reading.driver], 1)
        yield info
        for name, (text, value_of) in _GAUGES.items():
            family = GaugeMetricFamily(f"azaion_gpu_{name}", text, labels=["gpu"])
            for card in reading.cards:
                value = value_of(card)
                if value is not None:
                    family.add_metric([str(card.index)], value)
            yield family
        throttled = GaugeMetricFamily("azaion_gpu_throttled", "1 while held back.", labels=["gpu", "reason"])
        ecc = CounterMetricFamily(
            "azaion_gpu_ecc_errors", "Memory errors since the driver's start.", labels=["gpu", "kind"]
        )
        for card in reading.cards:
            if card.throttle_reasons is not None:
                for reason, bit in THROTTLE_REASONS.items():
                    throttled.add_metric([str(card.index), reason], float(bool(card.throttle_reasons & bit)))
            for kind, count in card.ecc_errors:
                ecc.add_metric([str(card.index), kind], count)
        yield throttled
        yield ecc


def page_server(watcher: Watcher, port: int) -> PageServer:
    """/livez and /metrics. A driver that is away is no reason to restart. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(CardCollector(watcher))
    return PageServer(
        port,
        {
            "/livez": lambda: probe(None),
            "/metrics": lambda: Answer(generate_latest(registry), content_type=METRICS_TYPE),
        },
    )


def _port(values: Mapping[str, str]) -> int:
    port = values.get(_HTTP_PORT_VARIABLE) or "8080"
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{_HTTP_PORT_VARIABLE} is {port!r}, it has to be a port number")
    return int(port)


def main() -> int:
    """Run until SIGTERM; 0 then, 1 with a logged sentence when it cannot start."""
    logs.configure("azaion-gpu-exporter")
    stop = stop_event()
    watcher = Watcher(Driver().read)
    try:
        logs.configure("azaion-gpu-exporter", os.environ.get(LOG_LEVEL_VARIABLE) or "INFO")
        server = page_server(watcher, _port(os.environ))
    except (ValueError, OSError) as error:
        log.error("the GPU exporter cannot start: %s", error)
        return 1
    threading.Thread(target=watcher.watch, args=(stop,), name="driver", daemon=True).start()
    stop.wait()
    server.close()
    return 0
