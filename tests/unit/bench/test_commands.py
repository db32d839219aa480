"""Every benchmark starts where it is called from: they find the tests' own modules by paths of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = [path for path in sorted((ROOT / "tests" / "bench").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.stem)
def test_a_benchmark_starts(command: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(command), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
