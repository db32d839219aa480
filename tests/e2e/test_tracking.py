"""The chart's TensorBoard on a real node: it shows the story's run from a volume it cannot write to."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from tests.demo.access import CommandError, wait_for
from tests.e2e.platform import Platform
from tests.e2e.story import EPOCHS, Story

#: Not seen on a node yet, so it is among the long series.
pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]


def test_tensorboard_shows_every_epoch_of_a_run_and_can_change_nothing(platform: Platform, story: Story) -> None:
    run = f"{story.run['directory'].removeprefix('runs/')}/train"
    platform.install("tracking.tensorboard.enabled=true", "tracking.tensorboard.reloadSeconds=1")
    try:
        with platform.access.forward("service/azaion-tensorboard", 6006) as port:

            def steps() -> list[int]:
                served = f"http://127.0.0.1:{port}/data/plugin/scalars"
                with urllib.request.urlopen(f"{served}/tags", timeout=10) as answer:  # noqa: S310 - ours
                    tags: dict[str, Any] = json.load(answer)
                if "lr/pg0" not in tags.get(run, {}):
                    return []
                with urllib.request.urlopen(f"{served}/scalars?run={run}&tag=lr/pg0", timeout=10) as answer:  # noqa: S310
                    return [step for _, step, _ in json.load(answer)]

            wait_for("TensorBoard has read the run's events", lambda: steps() == list(range(1, EPOCHS + 1)), 60)
        inside = ("exec", "deployment/azaion-tensorboard", "--")
        with pytest.raises(CommandError, match=r"[Rr]ead-only"):
            platform.access.kubectl(*inside, "touch", "/azaion/runs/anything")
        both = platform.access.kubectl(*inside, "azaion-trainer", "compare", run.split("/")[0], run.split("/")[0])
        assert run.split("/")[0] in both
    finally:
        platform.install()
