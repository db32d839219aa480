"""Keeps a GPU from cooking: pauses between batches above a limit, and gives the GPU up where pausing does not help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from azaion_api.training_run import GpuGuard
from azaion_trainer.failures import OverheatedError
from azaion_trainer.watch import Heartbeat, StopSignal

log = logging.getLogger(__name__)

#: The temperature changes over seconds; asking the driver takes well under a millisecond.
LOOK_INTERVAL_S = 2.0
#: A GPU that is still hot after a pause of this long is left to cool down without us.
PATIENCE_S = 300.0
_PAUSE_STEP_S = 1.0


class Thermometer(Protocol):
    """Something that knows how hot the GPU is."""

    def celsius(self) -> int | None:
        """Degrees Celsius; None when it cannot be told right now."""


class NvmlThermometer:
    """One GPU's temperature by the driver's own library; says once when it cannot be read and stays silent then."""

    def __init__(self, uuid: str | None = None) -> None:
        """`uuid` is the GPU's as the driver writes it (GPU-...); the first one when None."""
        import pynvml

        self._nvml = pynvml
        self._told = False
        self._handle = None
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else pynvml.nvmlDeviceGetHandleByIndex(0)
        except pynvml.NVMLError as error:
            self._tell(error)

    def celsius(self) -> int | None:
        if self._handle is None:
            return None
        try:
            return int(self._nvml.nvmlDeviceGetTemperature(self._handle, self._nvml.NVML_TEMPERATURE_GPU))
        except self._nvml.NVMLError as error:
            self._tell(error)
            return None

    def _tell(self, error: Exception) -> None:
        if not self._told:
            log.warning("the GPU's temperature cannot be read, so nothing is done about it: %s", error)
        self._told = True


class Guard:
    """Looked at after every batch; `look` takes as long as the GPU needs to cool down."""

    def __init__(
        self,
        limits: GpuGuard,
        thermometer: Thermometer,
        heart: Heartbeat,
        stop: StopSignal,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits = limits
        self._thermometer = thermometer
        self._heart = heart
        self._stop = stop
        self._say = say
        self._clock = clock
        self._wait = wait
        self._looked = clock() - LOOK_INTERVAL_S

    def look(self) -> float:
        """Seconds paused until the GPU was cool enough, mostly 0.

        Raises OverheatedError after PATIENCE_S, and PreemptionError when the pod has to go meanwhile.
        """
        now = self._clock()
        if now - self._looked < LOOK_INTERVAL_S:
            return 0.0
        self._looked = now
        celsius = self._thermometer.celsius()
        if celsius is None or celsius <= self._limits.max_celsius:
            return 0.0
        return self._pause(celsius)

    def _pause(self, celsius: int) -> float:
        began = self._clock()
        hottest = celsius
        log.warning("training pauses: the GPU is hot", extra={"context": {"celsius": celsius}})
        limits = self._limits
        self._say(f"paused: the GPU is at {celsius} °C, training goes on below {limits.resume_below_celsius} °C")
        while True:
            self._stop.check()
            self._wait(_PAUSE_STEP_S)
            self._heart.beat()
            found = self._thermometer.celsius()
            paused_s = self._clock() - began
            if found is None or found < limits.resume_below_celsius:
                log.info("training goes on", extra={"context": {"celsius": found, "paused_seconds": round(paused_s)}})
                self._looked = self._clock()
                return paused_s
            hottest = max(hottest, found)
            if paused_s >= PATIENCE_S:
                raise OverheatedError(
                    f"the GPU was at up to {hottest} °C and still at {found} °C after a pause of {paused_s / 60:.0f} "
                    f"minutes (spec.recovery.gpuGuard: {limits.max_celsius} and {limits.resume_below_celsius} °C); "
                    "look at its fans, its dust and the room"
                )


def guard_for(limits: GpuGuard, heart: Heartbeat, stop: StopSignal, say: Callable[[str], None]) -> Guard | None:
    """The guard of the GPU this process trains on; None on a CPU or where the run wants none."""
    import torch

    if not limits.enabled or not torch.cuda.is_available():
        return None
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    return Guard(limits, NvmlThermometer(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"), heart, stop, say)
