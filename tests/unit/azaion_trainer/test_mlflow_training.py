"""Real trainings that are followed: TensorBoard's events by its own reader, a real MLflow server by its own client.

ultralytics' MLflow callback works under pytest only in a test whose file's name begins like this one's.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from event_reader import scalars
from mlflow_server import mlflow_server, silent_server
from trainer_make import UID, draw_scenes, no_progress, request, spec, stage_context, storage_tree, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.outcome import ExitCode
from azaion_api.task import RunTask, encode_task
from azaion_trainer.engine import environment
from azaion_trainer.forming import form, status_of

EPOCHS = 5


def formed_task(layout: Layout, epochs: int = EPOCHS) -> RunTask:
    draw_scenes(layout, 40)
    training: dict[str, Any] = {"epochs": epochs, "parameters": {"close_mosaic": "0"}}
    formed = form(layout, request(), no_progress)
    return task(JobStage.TRAIN, spec(**training), dataset=status_of(layout, formed))


def started(layout: Layout, run_task: RunTask, log: Path, url: str) -> subprocess.Popen[bytes]:
    """`azaion-trainer train` as its pod starts it when the chart names a server."""
    known = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    own = {
        "AZAION_TASK": encode_task(run_task),
        "AZAION_POD_UID": "pod",
        "AZAION_TERMINATION_LOG": str(log.with_suffix(".termination")),
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_EXPERIMENT_NAME": "azaion",
    }
    command = [sys.executable, "-m", "azaion_trainer.cli", "train", "--root", str(layout.root)]
    return subprocess.Popen(command, env=known | own, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def epochs_done(layout: Layout) -> int:
    results = layout.run(f"runs/run-{UID[:8]}").train / "results.csv"
    return len(results.read_text().splitlines()) - 1 if results.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_an_interrupted_training_is_one_run_to_tensorboard_and_to_mlflow(tmp_path: Path) -> None:
    import mlflow

    layout = storage_tree(tmp_path / "azaion")
    run_task = formed_task(layout)
    log = tmp_path / "first.log"
    with mlflow_server(tmp_path / "mlflow") as url:
        process = started(layout, run_task, log, url)
        try:
            deadline, tick = time.monotonic() + 240, threading.Event()
            while epochs_done(layout) < 2:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, f"two epochs were not done in time:\n{log.read_text()[-3000:]}"
                tick.wait(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == ExitCode.PREEMPTED, log.read_text()[-3000:]
            assert epochs_done(layout) < EPOCHS
            process = started(layout, run_task, tmp_path / "second.log", url)
            assert process.wait(timeout=240) == ExitCode.COMPLETED, (tmp_path / "second.log").read_text()[-3000:]
        finally:
            process.kill()
        client = mlflow.MlflowClient(tracking_uri=url)
        experiment = client.get_experiment_by_name("azaion")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"args.yaml", "results.csv", "results.png"}
    assert run.data.params["epochs"] == str(EPOCHS)
    assert run.data.tags["azaion.directory"] == f"runs/run-{UID[:8]}"
    train = layout.run(f"runs/run-{UID[:8]}").train
    rows = list(csv.DictReader((train / "results.csv").read_text().splitlines()))
    assert len(list(train.glob("events.out.tfevents.*"))) == 2
    shown = scalars(train)
    columns = [name for name in rows[0] if name not in ("epoch", "time")]
    assert list(shown) == sorted(columns)
    for name in columns:
        expected = [(number, float(row[name])) for number, row in enumerate(rows, start=1)]
        assert shown[name] == [(step, pytest.approx(value, rel=1e-4)) for step, value in expected], name
        # ultralytics' callback leaves out the brackets and counts from 0.
        told = [(m.step + 1, m.value) for m in histories[name.replace("(", "").replace(")", "")]]
        assert told == expected, name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_ends_well_beside_a_server_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    from azaion_trainer.train import train

    layout = storage_tree(tmp_path / "azaion")
    context = stage_context(layout, formed_task(layout, 2))
    for name, value in environment(1).items():
        monkeypatch.setenv(name, value)
    with silent_server() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        mlflow.set_tracking_uri(url)
        assert train(context).startswith("trained 2 epochs")
    assert "MLflow has not heard of the end of this attempt" in caplog.text or "MLflow does not take" in caplog.text
    assert [step for step, _ in scalars(context.run.train)["metrics/mAP50-95(B)"]] == [1, 2]
