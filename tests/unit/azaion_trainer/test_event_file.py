"""TensorBoard's events on the volume, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from event_reader import scalars

from azaion_trainer.event_file import EventFile


def test_the_steps_of_an_attempt_replace_those_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EventFile(tmp_path, 1)
    for step in (1, 2, 3):
        first.add({"train/box_loss": 4.0 - step, "lr/pg0": 0.5}, step)
    # Another pod, which may well have the same process id.
    monkeypatch.setattr("socket.gethostname", lambda: "zz-the-next-pod")
    second = EventFile(tmp_path, 3)
    second.add({"train/box_loss": 0.25, "lr/pg0": 0.5}, 3)
    assert scalars(tmp_path)["train/box_loss"] == [(1, 3.0), (2, 2.0), (3, 0.25)]


def test_a_volume_that_takes_no_events_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = EventFile(tmp_path / "not-there", 1)
    events.add({"lr/pg0": 0.5}, 1)
    assert "TensorBoard's events cannot be written, the training goes on" in caplog.text
