"""How many processor cores this container may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def available_cores() -> int:
    """Cores by affinity and by the container's CPU limit, at least 1; a limit of 1.5 cores counts as 2."""
    cores = len(os.sched_getaffinity(0))
    limit = _cgroup_limit()
    return max(1, cores if limit is None else min(cores, math.ceil(limit)))


def _cgroup_limit() -> float | None:
    """The container's CPU limit in cores, None when it has none."""
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int(_CGROUP_V1_QUOTA.read_text())
        return quota_us / int(_CGROUP_V1_PERIOD.read_text()) if quota_us > 0 else None
    except (OSError, ValueError):
        return None
