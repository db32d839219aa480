"""The GPU exporter reads a driver's library through pynvml, and never hangs with it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.loopback import free_port
from tests.nvml.library import NvmlLibrary

from azaion_operator.gpu_exporter import STALE_S, Card, CardCollector, Reading, Watcher

GIB = 1024**3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> NvmlLibrary:
    made = NvmlLibrary(tmp_path_factory.mktemp("nvml"))
    made.build()
    return made


@dataclass
class Exporter:
    """The exporter as its pod runs it."""

    port: int
    process: subprocess.Popen[str]

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def values(self) -> dict[str, float]:
        lines = [line for line in self.text().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def wait(self, what: str, holds: Callable[[dict[str, float]], bool], timeout_s: float = 30.0) -> dict[str, float]:
        deadline = time.monotonic() + timeout_s
        seen: dict[str, float] = {}
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[0]
            try:
                seen = self.values()
            except OSError:
                continue
            if holds(seen):
                return seen
        raise AssertionError(f"{what} was not seen within {timeout_s} s: {seen}")


@contextmanager
def exporter(environment: dict[str, str]) -> Iterator[Exporter]:
    port = free_port()
    command = [sys.executable, "-c", "import sys; from azaion_operator.cli import main; sys.exit(main(['gpu']))"]
    process = subprocess.Popen(
        command,
        env={"PATH": "/usr/bin:/bin", "AZAION_HTTP_PORT": str(port), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Exporter(port, process)
    finally:
        process.kill()
        process.wait(timeout=10)


def test_every_value_of_a_card_becomes_a_series(library: NvmlLibrary) -> None:
    library.set()
    with exporter(library.environment()) as running:
        found = running.wait("the card", lambda seen: seen.get("azaion_gpu_driver_up") == 1)
        assert found == {
            "azaion_gpu_driver_up": 1,
            'azaion_gpu_info{driver="580.65.06",gpu="0",model="NVIDIA GeForce RTX 4090",uuid="GPU-5d4b6c2e"}': 1,
            'azaion_gpu_utilization_ratio{gpu="0"}': 0.97,
            'azaion_gpu_memory_used_bytes{gpu="0"}': 19 * GIB,
            'azaion_gpu_memory_total_bytes{gpu="0"}': 24 * GIB,
            'azaion_gpu_temperature_celsius{gpu="0"}': 71,
            'azaion_gpu_power_watts{gpu="0"}': 412,
            'azaion_gpu_power_limit_watts{gpu="0"}': 450,
            'azaion_gpu_fan_ratio{gpu="0"}': 0.63,
            'azaion_gpu_throttled{gpu="0",reason="power_cap"}': 1,
            'azaion_gpu_throttled{gpu="0",reason="hardware_slowdown"}': 0,
            'azaion_gpu_throttled{gpu="0",reason="software_thermal"}': 0,
            'azaion_gpu_throttled{gpu="0",reason="hardware_thermal"}': 0,
            'azaion_gpu_throttled{gpu="0",reason="power_brake"}': 0,
        }


def test_a_card_with_error_correction_tells_its_errors_and_one_without_fan_no_speed(library: NvmlLibrary) -> None:
    library.set(ecc_corrected="3", ecc_uncorrected="1", fan="-")
    with exporter(library.environment()) as running:
        found = running.wait("the card", lambda seen: seen.get("azaion_gpu_driver_up") == 1)
    assert found['azaion_gpu_ecc_errors_total{gpu="0",kind="corrected"}'] == 3
    assert found['azaion_gpu_ecc_errors_total{gpu="0",kind="uncorrected"}'] == 1
    assert not any(name.startswith("azaion_gpu_fan") for name in found)


def test_two_cards_are_told_apart(library: NvmlLibrary) -> None:
    library.set(**{"count": "2", "temperature@0": "60", "temperature@1": "80", "uuid@1": "GPU-second"})
    with exporter(library.environment()) as running:
        found = running.wait("both cards", lambda seen: 'azaion_gpu_temperature_celsius{gpu="1"}' in seen)
    assert [found[f'azaion_gpu_temperature_celsius{{gpu="{n}"}}'] for n in (0, 1)] == [60, 80]


@pytest.mark.slow
def test_a_card_that_is_lost_and_comes_back_is_seen_without_a_restart(library: NvmlLibrary) -> None:
    library.set()
    with exporter(library.environment()) as running:
        running.wait("the card", lambda seen: seen.get("azaion_gpu_driver_up") == 1)
        library.set(temperature="lost")
        lost = running.wait("the loss", lambda seen: seen.get("azaion_gpu_driver_up") == 0)
        assert set(lost) == {"azaion_gpu_driver_up"}
        library.set(temperature="55")
        back = running.wait("the return", lambda seen: seen.get("azaion_gpu_driver_up") == 1)
    assert back['azaion_gpu_temperature_celsius{gpu="0"}'] == 55


def test_a_node_without_a_driver_says_so_and_goes_on(tmp_path: Path) -> None:
    with exporter({"LD_LIBRARY_PATH": str(tmp_path)}) as running:
        running.wait("no driver", lambda seen: seen == {"azaion_gpu_driver_up": 0})
        running.process.send_signal(signal.SIGTERM)
        said, _ = running.process.communicate(timeout=20)
    assert running.process.returncode == 0
    assert "NVIDIA's driver cannot be read" in said


def test_a_driver_that_hangs_holds_up_neither_a_scrape_nor_the_end(library: NvmlLibrary) -> None:
    library.set(hang="1")
    with exporter(library.environment()) as running:
        running.wait("an answer", lambda seen: seen == {})
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=20) == 0


def test_a_reading_that_grows_old_counts_as_none() -> None:
    now = [100.0]
    watcher = Watcher(lambda: Reading((Card(0, "u", "n", temperature_celsius=50),), "1"), lambda: now[0])
    watcher.look()
    now[0] += STALE_S
    assert watcher.reading == Reading((Card(0, "u", "n", temperature_celsius=50),), "1")
    now[0] += 1
    assert watcher.reading == Reading(problem="NVIDIA's driver has not answered for 31 s")


def test_labels_are_the_card_and_words_of_ours_alone() -> None:
    card = Card(0, "u", "n", 0.5, 1, 2, 3, 4.0, 5.0, 0.6, 0xFFFF, (("corrected", 1),))
    watcher = Watcher(lambda: Reading((card,), "1"))
    watcher.look()
    labels = {
        name for family in CardCollector(watcher).collect() for sample in family.samples for name in sample.labels
    }
    assert labels == {"gpu", "uuid", "model", "driver", "reason", "kind"}
    assert all(re.fullmatch(r"azaion_gpu_[a-z_]+", family.name) for family in CardCollector(watcher).collect())
