"""A training as an MLflow server sees it: ultralytics' own callback, in a thread that the training never waits for.

The thread reads results.csv, which the training writes anyway, and brings the server whatever rows it lacks. So a
server that was away for an epoch, a day or a whole attempt has everything once it is back, and a resumed attempt goes
on in the same MLflow run, which is found by the TrainingRun's uid.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ultralytics.utils import IterableSimpleNamespace

from azaion_trainer.failures import PreemptionError
from azaion_trainer.stage import StageContext

log = logging.getLogger(__name__)

#: Set by the operator when the chart names a server; MLflow's client reads it, and the credentials beside it, itself.
URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
#: Tags of ours on an MLflow run.
TAG_UID, TAG_LINE, TAG_DIRECTORY = "azaion.uid", "azaion.line", "azaion.directory"
#: Pauses between tries while the server does not answer; a completed epoch is a try as well.
PAUSES_S = (15.0, 60.0, 300.0, 900.0)
#: At its very end a training waits this long for a server that has answered so far, and not at all for another.
CLOSING_S = 15.0
#: A metric of every row, among the last that are sent of it: by it is seen what the server has.
_EVERY_ROW = "metrics/mAP50-95B"
#: Small files for people. Weights stay on the volume: which of them is worth anything is the gate's to say.
_FILES = ("args.yaml", "results.csv", "results.png")

#: How a training ended, in MLflow's words. One that was preempted is still running to MLflow, for it will go on.
FINISHED, FAILED = "FINISHED", "FAILED"


class NotTakenError(Exception):
    """The server did not take something; ultralytics' callback said why."""


@dataclass(frozen=True)
class TrackedRun:
    """What names a training to MLflow."""

    name: str
    uid: str
    line: str
    #: `runs/<name>-<uid8>`.
    directory: str
    experiment: str
    #: ultralytics' save_dir.
    train: Path


class MlflowLog:
    """Follows one attempt of a training. No method but `close` takes longer than to wake a thread."""

    def __init__(self, run: TrackedRun, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._run = run
        self._pauses_s = pauses_s
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._status = FAILED
        self._failures = 0
        self._arguments: dict[str, Any] = {}
        self._completed = 0
        self._delivered: int | None = None
        self._thread: threading.Thread | None = None

    def began(self, arguments: Mapping[str, Any], completed: int) -> None:
        """The attempt goes on after `completed` epochs; rows of later ones that the server has are written anew."""
        self._arguments, self._completed = dict(arguments), completed
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def epoch_done(self) -> None:
        """results.csv has a row more."""
        self._wake.set()

    def close(self, status: str) -> None:
        """Bring the rest and end the MLflow run, unless the server does not answer; bounded by CLOSING_S."""
        if self._thread is None:
            return
        self._status = status
        self._closing.set()
        self._wake.set()
        if not self._failures:
            self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            log.warning("MLflow has not heard of the end of this attempt")

    # In the thread

    def _follow(self) -> None:
        import mlflow
        import requests

        # The last few are what MLflow's client makes of an answer that is none of MLflow's.
        not_taken = (
            NotTakenError,
            mlflow.exceptions.MlflowException,
            requests.RequestException,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        )
        callbacks = _ultralytics_callbacks()
        while True:
            closing = self._closing.is_set()  # before the rows are read, so that the last one is among them
            self._wake.clear()
            try:
                self._deliver(callbacks)
                if closing:
                    self._end()
            except not_taken as error:
                self._failed(error)
            else:
                if self._failures:
                    log.info("MLflow answers again")
                self._failures = 0
            if closing:
                return
            if not self._closing.is_set():
                self._wake.wait(
                    self._pauses_s[min(self._failures, len(self._pauses_s)) - 1] if self._failures else None
                )

    def _failed(self, error: Exception) -> None:
        if not self._failures:
            log.warning(
                "MLflow does not take what it is told, the training goes on and it is tried again: %s",
                " ".join(str(error).split())[:500],
            )
        self._failures += 1

    def _deliver(self, callbacks: ModuleType) -> None:
        """Everything the server lacks. Raises NotTakenError or whatever MLflow's client does."""
        if self._delivered is None:
            self._delivered = self._open(callbacks)
        for row in _rows(self._run.train / "results.csv"):
            epoch = int(row.pop("epoch"))
            if epoch <= self._delivered:
                continue
            row.pop("time", None)
            seen = _seen(epoch, row)
            for callback in (callbacks.on_train_epoch_end, callbacks.on_fit_epoch_end):
                callback(seen)
                _require_taken(callbacks, seen)
            self._delivered = epoch

    def _open(self, callbacks: ModuleType) -> int:
        """Go on in this run's MLflow run, or begin it; returns the epochs it has already."""
        import mlflow

        run, client = self._run, mlflow.MlflowClient()
        if mlflow.active_run() is None:
            experiment = mlflow.set_experiment(run.experiment)
            found = client.search_runs([experiment.experiment_id], f"tags.`{TAG_UID}` = '{run.uid}'", max_results=1)
            if found:
                mlflow.start_run(run_id=found[0].info.run_id)
            else:
                tags = {TAG_UID: run.uid, TAG_LINE: run.line, TAG_DIRECTORY: run.directory}
                mlflow.start_run(run_name=run.name, tags=tags)
        active = mlflow.active_run()
        if active is None:
            raise NotTakenError("there is no MLflow run")
        there = client.get_run(active.info.run_id)
        # A parameter cannot change in MLflow, and one that does is refused together with all others.
        new = {name: value for name, value in self._arguments.items() if name not in there.data.params}
        if new:
            # It would find a run that it began itself; this one it leaves as it is, also when it fails.
            seen = IterableSimpleNamespace(args=IterableSimpleNamespace(**{"project": "", "name": run.name, **new}))
            callbacks.on_pretrain_routine_end(seen)
            _require_taken(callbacks, seen)
        steps = [metric.step for metric in client.get_metric_history(active.info.run_id, _EVERY_ROW)]
        return min(max(steps, default=-1) + 1, self._completed)

    def _end(self) -> None:
        import mlflow

        active = mlflow.active_run()
        if active is None:
            return
        if _is_kept_by_server(active.info.artifact_uri):
            for name in _FILES:
                if (self._run.train / name).exists():
                    mlflow.log_artifact(str(self._run.train / name))
        mlflow.end_run(self._status)


def _seen(epoch: int, row: Mapping[str, float]) -> IterableSimpleNamespace:
    """What ultralytics' callback looks at after an epoch, from its row of results.csv."""

    def of(*prefixes: str) -> dict[str, float]:
        return {name: value for name, value in row.items() if name.startswith(prefixes)}

    return IterableSimpleNamespace(
        epoch=epoch - 1,
        lr=of("lr/"),
        tloss=of("train/"),
        label_loss_items=lambda losses, **_prefix: losses,  # they have their names already
        metrics=of("metrics/", "val/"),
        _mlflow_active=True,
    )


def _rows(path: Path) -> Iterator[dict[str, float]]:
    """The whole lines of results.csv; the training may be writing the next one."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        yield {name.strip(): float(value) for name, value in row.items()}


def _is_kept_by_server(artifact_uri: str) -> bool:
    """Whether files go to the tracking server itself, and to no other host and no directory of this pod."""
    there, server = urlsplit(artifact_uri), urlsplit(os.environ[URI_VARIABLE])
    return there.scheme == "mlflow-artifacts" and there.netloc in ("", server.netloc)


class _LastWord(logging.Handler):
    """Keeps what ultralytics' callback says, which is why it gave up when it did."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and "Not tracking" not in record.getMessage():
            self.text = record.getMessage()


def _ultralytics_callbacks() -> ModuleType:
    """ultralytics' MLflow callback, without what it switches on beside."""
    import mlflow
    from ultralytics.utils.callbacks import mlflow as callbacks

    # It would have MLflow watch other libraries of this process, and log from their threads.
    mlflow.autolog = lambda: None
    # It speaks of giving up for good where here it is tried again.
    quiet = logging.getLogger(f"{__name__}.ultralytics")
    quiet.propagate = False
    quiet.handlers[:] = [_LastWord()]
    callbacks.LOGGER = quiet
    return callbacks  # type: ignore[no-any-return]


def _require_taken(callbacks: ModuleType, seen: IterableSimpleNamespace) -> None:
    """Raises NotTakenError when the callback gave up."""
    if not seen._mlflow_active:
        (last,) = callbacks.LOGGER.handlers
        raise NotTakenError(last.text or "ultralytics' callback gave up")


@contextlib.contextmanager
def followed(context: StageContext) -> Iterator[MlflowLog | None]:
    """The attempt's MLflow log, ended however the attempt ends; None without a server, and for a smoke run."""
    if not os.environ.get(URI_VARIABLE) or context.task.spec.smoke:
        yield None
        return
    task = context.task
    line = task.spec.line_ref.name
    experiment = os.environ.get(EXPERIMENT_VARIABLE) or line
    mlflow_log = MlflowLog(TrackedRun(task.run, task.uid, line, task.directory, experiment, context.run.train))
    try:
        yield mlflow_log
    except PreemptionError:
        raise  # at once: the next attempt brings what is missing
    except BaseException:
        mlflow_log.close(FAILED)
        raise
    mlflow_log.close(FINISHED)
