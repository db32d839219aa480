"""Tracking in MLflow: a training never fails, waits or slows down for it, and a real server ends with everything.

ultralytics' callback works under pytest only in a test of this file's name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow_server import answering_server, mlflow_server, silent_server
from tests.loopback import free_port
from trainer_make import UID, spec, stage_context, storage_tree, task, wait_until

from azaion_api.names import JobStage
from azaion_trainer import tracking
from azaion_trainer.failures import LossNotFiniteError, PreemptionError
from azaion_trainer.tracking import FAILED, FINISHED, MlflowLog, TrackedRun, followed

HEADER = "epoch,time,train/box_loss,metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,lr/pg0\n"
#: What of a training may be taken up by a method of ours; a thread is woken in far less.
AT_ONCE_S = 0.5


def row(epoch: int, loss: float) -> str:
    return f"{epoch},{epoch * 10},{loss},0.5,0.{epoch:02},{loss / 2},0.01\n"


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    """One whose first two epochs are done."""
    (tmp_path / "results.csv").write_text(HEADER + row(1, 4.0) + row(2, 3.0))
    (tmp_path / "args.yaml").write_text("epochs: 3\n")
    return TrackedRun("big", UID, "azaion", f"runs/big-{UID[:8]}", "detectors", tmp_path)


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "detectors")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    mlflow.set_tracking_uri(url)


def took_s(began: float) -> float:
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_is_not_there_costs_a_training_nothing(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    to(f"http://127.0.0.1:{free_port()}", monkeypatch)
    began = time.monotonic()
    log = MlflowLog(run)
    log.began({"epochs": 3}, 0)
    log.epoch_done()
    assert took_s(began) < AT_ONCE_S
    wait_until(lambda: log._failures > 0, "a try", 60)
    began = time.monotonic()
    log.close(FINISHED)
    assert took_s(began) < AT_ONCE_S
    assert len([r for r in caplog.records if "MLflow does not take what it is told" in r.getMessage()]) == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_never_answers_is_waited_for_by_nobody(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as url:
        to(url, monkeypatch)
        log = MlflowLog(run)
        began = time.monotonic()
        log.began({"epochs": 3}, 0)
        for _ in range(100):
            log.epoch_done()
        assert took_s(began) < AT_ONCE_S
        wait_until(lambda: log._failures > 0, "a try that ran out of time", 60)
        began = time.monotonic()
        log.close(FINISHED)
        assert took_s(began) < AT_ONCE_S


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_stops_answering_at_the_end_is_waited_for_no_longer_than_is_said(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(tracking, "CLOSING_S", 1.0)
    with silent_server() as url:
        to(url, monkeypatch)
        log = MlflowLog(run)
        log.began({"epochs": 3}, 0)
        began = time.monotonic()
        log.close(FINISHED)
        assert 1.0 <= took_s(began) < 1.0 + AT_ONCE_S


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_credentials_reach_the_server_in_its_requests_and_no_log(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-that-is-secret")
    with answering_server(403) as (url, asked):
        to(url, monkeypatch)
        log = MlflowLog(run)
        log.began({"epochs": 3}, 0)
        wait_until(lambda: log._failures > 0, "a refusal", 60)
        log.close(FINISHED)
    assert asked
    assert all(request.startswith("Bearer a-token-that-is-secret /api/2.0/mlflow/") for request in asked)
    assert "a-token-that-is-secret" not in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_sends_elsewhere_is_not_followed(run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from azaion_trainer.engine import environment

    for name, value in environment(1).items():
        if name == "MLFLOW_ALLOW_HTTP_REDIRECTS":
            monkeypatch.setenv(name, value)
    with answering_server(200) as (elsewhere, asked_elsewhere):
        with answering_server(307, {"Location": f"{elsewhere}/api"}) as (url, asked):
            to(url, monkeypatch)
            log = MlflowLog(run)
            log.began({"epochs": 3}, 0)
            wait_until(lambda: log._failures > 0, "a redirection", 60)
            log.close(FINISHED)
        assert asked
        assert asked_elsewhere == []


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("mlflow-artifacts:/1/abc/artifacts", True),
        ("mlflow-artifacts://mlflow:5000/1/abc/artifacts", True),
        ("mlflow-artifacts://elsewhere:5000/1/abc/artifacts", False),
        ("s3://bucket/1/abc", False),
        ("file:///mlruns/1/abc", False),
        ("/mlruns/1/abc", False),
    ],
)
def test_files_go_to_the_tracking_server_and_nowhere_else(
    uri: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking._is_kept_by_server(uri) == kept


def test_a_line_that_is_being_written_is_left_for_the_next_time(run: TrackedRun) -> None:
    with (run.train / "results.csv").open("a") as results:
        results.write("3,30,2.0,0.5,0.0")
    assert [found["epoch"] for found in tracking._rows(run.train / "results.csv")] == [1, 2]


@pytest.mark.parametrize(
    ("error", "ended"), [(None, [FINISHED]), (LossNotFiniteError("nan"), [FAILED]), (PreemptionError("go"), [])]
)
def test_an_mlflow_run_ends_as_the_attempt_does_unless_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, ended: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    said: list[str] = []
    monkeypatch.setattr(MlflowLog, "close", lambda _log, status: said.append(status))
    context = stage_context(storage_tree(tmp_path / "azaion"), task(JobStage.TRAIN))
    raised = None
    try:
        with followed(context):
            if error is not None:
                raise error
    except (LossNotFiniteError, PreemptionError) as found:
        raised = found
    assert raised is error
    assert said == ended


@pytest.mark.parametrize(("uri", "smoke"), [("", False), ("http://mlflow:5000", True)])
def test_without_a_server_and_for_a_smoke_run_nobody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, smoke: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_task = task(JobStage.TRAIN, msgspec.structs.replace(spec(), smoke=smoke))
    with followed(stage_context(storage_tree(tmp_path / "azaion"), run_task)) as log:
        assert log is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


def the_run(url: str) -> Any:
    """The one MLflow run there is."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("detectors")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def history(url: str, name: str) -> list[tuple[int, float]]:
    import mlflow

    found = mlflow.MlflowClient(tracking_uri=url).get_metric_history(the_run(url).info.run_id, name)
    return [(metric.step, metric.value) for metric in found]


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_real_server_that_is_away_for_a_while_ends_with_every_epoch_once(
    run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    to(f"http://127.0.0.1:{port}", monkeypatch)
    log = MlflowLog(run, pauses_s=(0.2,))
    log.began({"epochs": 3, "batch": 8}, 0)
    wait_until(lambda: log._failures > 1, "two tries", 60)
    with mlflow_server(tmp_path / "server", port) as url:
        wait_until(lambda: log._delivered == 2, "both epochs delivered", 120)
        assert the_run(url).info.status == "RUNNING"
        # The attempt ends without a word, as a pod that is killed does; the next begins a step back, with other
        # arguments.
        again = MlflowLog(run, pauses_s=(0.2,))
        again.began({"epochs": 4, "batch": 4, "lr0": 0.01}, 1)
        (run.train / "results.csv").write_text(HEADER + row(1, 4.0) + row(2, 2.5) + row(3, 2.0))
        again.epoch_done()
        wait_until(lambda: again._delivered == 3, "the third epoch delivered", 120)
        monkeypatch.setattr(tracking, "CLOSING_S", 120.0)
        again.close(FINISHED)
        found = the_run(url)
        assert found.info.status == "FINISHED"
        assert found.info.run_name == "big"
        assert {name: found.data.params[name] for name in ("epochs", "batch", "lr0")} == {
            "epochs": "3",
            "batch": "8",
            "lr0": "0.01",
        }
        assert found.data.tags["azaion.uid"] == UID
        assert found.data.tags["azaion.directory"] == run.directory
        steps = [step for step, _ in history(url, "metrics/mAP50-95B")]
        assert sorted(set(steps)) == [0, 1, 2]
        # The epoch that was trained again shows what it came to the second time.
        assert [value for step, value in history(url, "train/box_loss") if step == 1][-1] == 2.5
        import mlflow

        files = {file.path for file in mlflow.MlflowClient(tracking_uri=url).list_artifacts(found.info.run_id)}
        assert files == {"args.yaml", "results.csv"}
        # An attempt that finds everything done has no arguments to tell, and tells nothing twice.
        last = MlflowLog(run)
        last.began({}, 3)
        last.close(FINISHED)
        assert the_run(url).info.status == "FINISHED"
        assert len(history(url, "metrics/mAP50-95B")) == len(steps)
        log._closing.set()
        log.epoch_done()
