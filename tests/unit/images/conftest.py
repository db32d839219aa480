from __future__ import annotations

import sys
from pathlib import Path

_CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
if str(_CLUSTER) not in sys.path:
    sys.path.insert(0, str(_CLUSTER))
