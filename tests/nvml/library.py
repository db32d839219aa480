"""A shared library in the place of NVIDIA's, and the cards it tells of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "nvml.c"
#: What NVIDIA's loader and pynvml call it.
LIBRARY = "libnvidia-ml.so.1"
#: Names the file with the cards.
VARIABLE = "AZAION_TEST_NVML"
#: An RTX 4090 at work.
RTX_4090 = {
    "driver": "580.65.06",
    "count": "1",
    "uuid": "GPU-5d4b6c2e",
    "name": "NVIDIA GeForce RTX 4090",
    "utilization": "97",
    "memory_total": str(24 * 1024**3),
    "memory_used": str(19 * 1024**3),
    "temperature": "71",
    "power": "412000",
    "power_limit": "450000",
    "fan": "63",
    "throttle": "0x4",
    "ecc_corrected": "-",
    "ecc_uncorrected": "-",
}


@dataclass(frozen=True)
class NvmlLibrary:
    """The library and the file it reads, below one directory."""

    directory: Path

    @property
    def cards(self) -> Path:
        return self.directory / "cards"

    def build(self) -> None:
        """Compile it with the machine's C compiler. Raises CalledProcessError with the compiler's words on stderr."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            "cc",
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-s",
            "-o",
            str(self.directory / LIBRARY),
            str(SOURCE),
        ]
        subprocess.run(command, check=True)

    def set(self, **changes: str) -> None:
        """The card as RTX_4090 is, but for these."""
        self.set_all({**RTX_4090, **changes})

    def set_all(self, values: Mapping[str, str]) -> None:
        written = self.cards.with_suffix(".new")
        written.write_text("".join(f"{key} {value}\n" for key, value in values.items()))
        written.rename(self.cards)

    def environment(self) -> dict[str, str]:
        """For a process that is to see these cards."""
        path = ":".join(filter(None, [str(self.directory), os.environ.get("LD_LIBRARY_PATH", "")]))
        return {"LD_LIBRARY_PATH": path, VARIABLE: str(self.cards)}
