"""A platform in the middle of a long training, for pictures of the status page and for measuring it."""

from __future__ import annotations

import math
import random
import sys
from datetime import timedelta
from pathlib import Path

import msgspec

_FACTORIES = Path(__file__).resolve().parents[1] / "unit" / "azaion_operator"
if str(_FACTORIES) not in sys.path:
    sys.path.insert(0, str(_FACTORIES))

import make  # noqa: E402
from make import NOW, ago  # noqa: E402

from azaion_api.annotation_ingest import AnnotationIngestStatus  # noqa: E402
from azaion_api.health import Check, HealthReport, Outcome, Severity  # noqa: E402
from azaion_api.names import LABEL_RUN, JobStage, run_report  # noqa: E402
from azaion_api.outcome import AttemptReason  # noqa: E402
from azaion_api.report import EpochRow, Progress, RunReport  # noqa: E402
from azaion_api.resources import TrainingRun  # noqa: E402
from azaion_api.training_run import (  # noqa: E402
    Attempt,
    Best,
    Checkpoint,
    DatasetStatus,
    EvaluationStatus,
    Phase,
    PromotionDecision,
    PromotionStatus,
    Scores,
    Stage,
    TrainingRunStatus,
    ValidationMetrics,
)
from azaion_operator.cache import Cache  # noqa: E402
from azaion_operator.curves import curve_of  # noqa: E402
from azaion_operator.device_queue import Queue  # noqa: E402
from azaion_operator.gpu import GpuReading  # noqa: E402
from azaion_operator.objects import ObjectMeta, OwnerReference, Reports  # noqa: E402
from azaion_operator.status_page.view import PageView, page_view  # noqa: E402

_DAY_S = 86400.0
_EPOCHS = 120
_DONE = 46
_EPOCH_S = 8280.0
_QUEUED = ("hires-1536", "small-n", "no-mosaic")


class Scene:
    """The caches of an operator, and its page."""

    def __init__(self, finished: int = 30) -> None:
        self._random = random.Random(3)
        self.cache = Cache(lambda _: None)
        self._add_running()
        self._add_waiting()
        for number in range(finished):
            self._add_finished(number)
        self._add_platform()

    def page(self) -> PageView:
        base = PageView(namespace="azaion", version="0.1.0", now=NOW)
        places = {name: place for place, name in enumerate(_QUEUED, 1)}
        queue = Queue(holder="full-2026-11", line=_QUEUED, places=places)
        gib = 2.0**30
        gpu = GpuReading("0", "NVIDIA GeForce RTX 4090", 0.97, 71.0, 21.3 * gib, 24 * gib, 402.0, 450.0)
        return page_view(self.cache, queue, base, (gpu,))

    def _history(self, epochs: int) -> list[EpochRow]:
        noise = self._random.gauss
        return [
            EpochRow(
                epoch=n,
                seconds=_EPOCH_S + noise(0, 60),
                train_loss=1.1 + 3.1 * math.exp(-n / 14) + noise(0, 0.03),
                map50=0.86 * (1 - math.exp(-n / 13)) + noise(0, 0.006),
                map50to95=0.62 * (1 - math.exp(-n / 17)) + noise(0, 0.005),
                learning_rate=0.01,
            )
            for n in range(1, epochs + 1)
        ]

    def _put(self, run: TrainingRun, epochs: int = 0, report: RunReport | None = None) -> None:
        self.cache.runs.put(run)
        owner = OwnerReference(kind="TrainingRun", name=run.metadata.name, uid=run.metadata.uid)
        labels = {LABEL_RUN: run.metadata.name}
        meta = ObjectMeta(
            name=run_report(run.metadata.name), resource_version="1", labels=labels, owner_references=(owner,)
        )
        by_pod = {report.pod_uid: report} if report else {}
        self.cache.reports.put(Reports(metadata=meta, curve=curve_of(self._history(epochs)), by_pod=by_pod))

    def _add_running(self) -> None:
        attempts = (
            make.ended(JobStage.PREPARE, since=4.3 * _DAY_S, ran=1260, exit_code=0, node="gpu-1"),
            make.ended(
                JobStage.TRAIN, reason=AttemptReason.NODE_LOST, since=3 * _DAY_S, ran=1.3 * _DAY_S, node="gpu-1",
                first_epoch=0, last_epoch=13, batch=11, exit_code=137, message="the node restarted",
            ),
            Attempt(
                pod="full-2026-11-train-2-x", pod_uid="pod-train-2", stage="train", number=2, node="gpu-1",
                started=ago(3 * _DAY_S), first_epoch=13, batch=11, active_seconds=int(3 * _DAY_S),
            ),
        )  # fmt: skip
        left_s = (_EPOCHS - _DONE) * _EPOCH_S
        status = make.released(
            start_time=ago(4.4 * _DAY_S),
            stage=Stage.TRAINING,
            message="trains epoch 47 of 120",
            completed_epochs=_DONE,
            epochs=_EPOCHS,
            remaining_seconds=int(left_s),
            estimated_completion_time=NOW + timedelta(seconds=left_s),
            active_seconds=int(4.35 * _DAY_S),
            batch=11,
            iteration=8,
            metrics=ValidationMetrics(map50="0.8312", map50to95="0.5781", train_loss="1.214"),
            best=Best(epoch=44, map50to95="0.5799"),
            checkpoint=Checkpoint(
                epoch=_DONE, images_seen=18315, time=ago(660), path="runs/full/checkpoints/state.pt", sha256="c" * 64
            ),
            dataset=DatasetStatus(
                path="datasets/azaion-2026-11-18", train=70000, valid=20000, test=10000, stream_offset=182311
            ),
            attempts=attempts,
            restarts=1,
        )
        run = make.run("full-2026-11", uid="running", status=status, age=4.5 * _DAY_S, training={"epochs": _EPOCHS})
        progress = Progress(fraction=0.389, activity="epoch 47 of 120")
        self._put(run, _DONE, make.report(JobStage.TRAIN, 2, progress=progress))

    def _add_waiting(self) -> None:
        for number, name in enumerate(_QUEUED):
            message = f"place {number + 1} in the queue: run full-2026-11 is at the device"
            status = TrainingRunStatus(phase=Phase.QUEUED, message=message)
            priority = 10 if number == 0 else 0
            self._put(make.run(name, uid=name, status=status, age=3600.0 * (number + 2), priority=priority))
        message = (
            "test mAP50-95 0.6012 against 0.5871 of the current model; set spec.publish.approved to true to publish it"
        )
        status = TrainingRunStatus(phase=Phase.AWAITING_APPROVAL, message=message)
        self._put(make.run("by-hand", uid="by-hand", status=status, age=_DAY_S))

    def _add_finished(self, number: int) -> None:
        score = f"0.{5900 - number % 50 * 13}"
        ended_s = _DAY_S * (number * 9 + 5)
        times = {"start_time": ago(ended_s + 8.6 * _DAY_S), "completion_time": ago(ended_s)}
        if number % 7 == 3:
            message = "the data set has no image with a label; look at data/labels and start again"
            status = TrainingRunStatus(phase=Phase.FAILED, message=message, epochs=_EPOCHS, **times)
            self._put(make.run(f"full-{number:04}", uid=f"finished-{number}", status=status))
            return
        scores = Scores(map50="0.8511", map50to95=score, precision="0.9012", recall="0.8031", f1="0.8493")
        before = Scores(map50="0.8433", map50to95="0.5312", precision="0.8944", recall="0.8010", f1="0.8451")
        reason = f"test mAP50-95 {score} against 0.5312 of the current model: a gain of at least 0.003, minGain is 0"
        status = TrainingRunStatus(
            phase=Phase.SUCCEEDED,
            message=f"published models/azaion-{number:04}/azaion.pt",
            completed_epochs=_EPOCHS,
            epochs=_EPOCHS,
            active_seconds=int(8.5 * _DAY_S),
            evaluation=EvaluationStatus(new=scores, current=before, images=10000, hard_samples=412),
            promotion=PromotionStatus(decision=PromotionDecision.PROMOTED, reason=reason),
            best=Best(epoch=113, map50to95="0.6263"),
            metrics=ValidationMetrics(map50="0.8552", map50to95="0.6259", train_loss="1.12"),
            attempts=(make.ended(JobStage.TRAIN, since=ended_s, ran=8.5 * _DAY_S, node="gpu-1", exit_code=0),),
            models=(make.TRAINED, make.EXPORTED, make.DEPLOYED),
            **times,
        )
        self._put(make.run(f"full-{number:04}", uid=f"finished-{number}", status=status), _EPOCHS)

    def _add_platform(self) -> None:
        records = [
            msgspec.structs.replace(
                make.record(f"azaion-2026-{11 - n:02}-01", run_uid=f"r{n}", age=_DAY_S * (5 + 30 * n)),
                map50to95=f"0.{590 - n * 11}",
                map50=f"0.{860 - n * 7}",
                run=f"full-{n:04}",
            )
            for n in range(6)
        ]
        self.cache.lines.put(make.line(*records, iteration=8))
        ingest = {
            "phase": "Running",
            "message": "files new annotations as they come",
            "committedOffset": 182311,
            "lag": 12,
            "imagesTotal": 104213,
            "lastMessageTime": ago(120).isoformat(),
            "rejected": {"BadImage": 3},
        }
        self.cache.ingests.put(make.ingest(status=msgspec.convert(ingest, AnnotationIngestStatus)))
        self.cache.storage = make.storage(
            capacity_bytes=4 << 40, available_bytes=696 << 30, images={"data": 100000, "data-seed": 4213}
        )
        disk = "83% used, 696 GiB of 4.0 TiB free"
        remedy = "remove data sets and runs that are no longer needed, or enlarge the volume"
        self.cache.health = HealthReport(
            time=ago(130),
            checks=(
                Check(name="Operator", message="renewed its Lease 2 s ago"),
                Check(name="Consumer", subject="annotations", message="files new annotations as they come"),
                Check(name="Broker", subject="annotations", message="connected to rabbitmq:5552"),
                Check(name="Credentials", subject="annotations", message="the consumer is logged in"),
                Check(name="Offset", subject="annotations", message="at 182311, 12 messages wait"),
                Check(name="Storage", message="in order, images: 100000 in data, 4213 in data-seed"),
                Check(name="Disk", outcome=Outcome.FAILED, severity=Severity.MEDIUM, message=disk, action=remedy),
                Check(name="GPU", message="1 GPU on 1 node"),
                Check(name="Images", message="3 images on the node"),
                Check(name="Training", subject="full-2026-11", message="trains epoch 47 of 120"),
                Check(name="Checkpoint", subject="full-2026-11", message="verified 11 minutes ago, epoch 46"),
            ),
        )
