from __future__ import annotations

import sys
from pathlib import Path

import pytest

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from rendered_chart import Chart, find_helm


@pytest.fixture(scope="session")
def chart() -> Chart:
    """Shared: what was rendered once is remembered."""
    return Chart(find_helm())
