"""The trainer as a process of its own: told to stop, killed, and stuck."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from trainer_make import UID, draw_scenes, no_progress, request, spec, stage_context, storage_tree, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason, ExitCode, parse_termination
from azaion_api.task import RunTask, encode_task
from azaion_trainer.forming import form, status_of


def started(layout: Layout, run_task: RunTask, log: Path) -> subprocess.Popen[bytes]:
    """`azaion-trainer` for a task, as its pod starts it."""
    environment = {
        **os.environ,
        "AZAION_TASK": encode_task(run_task),
        "AZAION_POD_UID": "pod",
        "AZAION_TERMINATION_LOG": str(log.with_suffix(".termination")),
    }
    command = [sys.executable, "-m", "azaion_trainer.cli", run_task.stage.value, "--root", str(layout.root)]
    return subprocess.Popen(command, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Wait with a deadline, and no longer than the process lives."""
    tick = threading.Event()
    deadline = time.monotonic() + 240
    while not holds():
        ended = process.poll()
        assert ended is None, f"the trainer ended with {ended} before {what}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"{what} did not happen in time:\n{log.read_text()[-3000:]}"
        tick.wait(0.05)


@pytest.mark.slow
@pytest.mark.timeout(580)
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGKILL])
def test_a_trainer_that_is_ended_in_mid_training_is_continued_without_a_gap(
    tmp_path: Path, order: signal.Signals
) -> None:
    from azaion_trainer.train import train

    layout = storage_tree(tmp_path / "azaion")
    draw_scenes(layout, 40)
    formed = form(layout, request(), no_progress)
    training: dict[str, Any] = {"epochs": 200, "parameters": {"close_mosaic": "0"}}
    run_task = task(JobStage.TRAIN, spec(**training), dataset=status_of(layout, formed))
    log = tmp_path / "first.log"
    process = started(layout, run_task, log)
    checkpoints = layout.root / f"runs/run-{UID[:8]}" / "checkpoints"
    try:
        wait_for((checkpoints / "state-000002.pt.sha256").exists, process, log, "the second checkpoint")
        process.send_signal(order)
        code = process.wait(timeout=120)
    finally:
        process.kill()
    if order is signal.SIGTERM:
        assert code == ExitCode.PREEMPTED, log.read_text()[-3000:]
        said = parse_termination(log.with_suffix(".termination").read_text())
        assert said is not None
        assert said.reason is AttemptReason.PREEMPTED
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert all(set(line) == {"timestamp", "level", "service", "message", "context"} for line in lines)
    else:
        assert code == -signal.SIGKILL
    from azaion_trainer.checkpoints import CheckpointStore

    left = CheckpointStore(checkpoints).newest().found
    assert left is not None
    epochs = left.state["epoch"] + 2
    second = stage_context(
        layout, task(JobStage.TRAIN, spec(**{**training, "epochs": epochs}), dataset=run_task.dataset)
    )
    train(second)
    report = second.report.current.training
    assert report is not None
    assert report.first_epoch == left.state["epoch"] >= 2
    assert [row.epoch for row in report.history] == list(range(1, epochs + 1))


_STUCK = """
import sys, threading
from functools import partial
from pathlib import Path
from azaion_api import logs
from azaion_api.names import JobStage
from azaion_trainer import stage
from azaion_trainer.watch import Heartbeat, Watchdog
from trainer_make import task

logs.configure("azaion-trainer")
stage.Watchdog = partial(Watchdog, poll_s=0.05)
stage.Heartbeat = lambda _: Heartbeat(0.3)
def hang_for_ever(context):
    context.report.activity("waiting for a disk that does not answer")
    threading.Event().wait()
sys.exit(stage.run_stage(task(JobStage.PREPARE), JobStage.PREPARE, hang_for_ever, Path(sys.argv[1])))
"""


def test_a_trainer_that_is_stuck_ends_itself_and_says_where(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AZAION_TERMINATION_LOG": str(tmp_path / "termination"),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", _STUCK, str(tmp_path)], env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == ExitCode.STALLED, done.stderr.decode()
    said = parse_termination((tmp_path / "termination").read_text())
    assert said is not None
    assert said.reason is AttemptReason.STALLED
    assert "while waiting for a disk that does not answer" in said.message
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    stalled = next(line for line in lines if line["message"] == "stalled")
    assert "hang_for_ever" in stalled["context"]["threads"]["MainThread"]


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MiB."""
    place = tmp_path / "volume"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(580)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_disk_that_is_full_at_a_checkpoint_ends_the_training_with_the_checkpoint_before(small_volume: Path) -> None:
    from azaion_trainer.checkpoints import CheckpointStore
    from azaion_trainer.train import train

    layout = storage_tree(small_volume / "azaion")
    draw_scenes(layout, 40)
    training: dict[str, Any] = {"epochs": 10, "save_period": 10, "parameters": {"close_mosaic": "0"}}
    formed = status_of(layout, form(layout, request(), no_progress))
    log = small_volume.parent / "first.log"
    process = started(layout, task(JobStage.TRAIN, spec(**training), dataset=formed), log)
    checkpoints = layout.root / f"runs/run-{UID[:8]}" / "checkpoints"
    filler = small_volume / "filler"
    try:
        wait_for((checkpoints / "state-000001.pt.sha256").exists, process, log, "the first checkpoint")
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        code = process.wait(timeout=240)
    finally:
        process.kill()
    assert code == ExitCode.STORAGE_FULL, log.read_text()[-3000:]
    said = parse_termination(log.with_suffix(".termination").read_text())
    assert said is not None
    assert said.reason is AttemptReason.STORAGE_FULL
    filler.unlink()
    left = CheckpointStore(checkpoints).newest().found
    assert left is not None
    assert left.state["epoch"] >= 1
    again = stage_context(layout, task(JobStage.TRAIN, spec(**training), dataset=formed))
    train(again)
    report = again.report.current.training
    assert report is not None
    assert report.first_epoch == left.state["epoch"]
    assert [row.epoch for row in report.history] == list(range(1, 11))
