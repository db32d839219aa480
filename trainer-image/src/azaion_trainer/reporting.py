"""The stage's report: one immutable record, replaced as the work goes on, sent without waiting for anybody."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from azaion_api.machine import boot_id
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason
from azaion_api.report import Progress, RunReport
from azaion_api.reporter import Reporter, utc_now
from azaion_api.training_run import Stage

#: Progress within an epoch or a scan is sent at most this often; facts are sent at once.
PROGRESS_INTERVAL_S = 3.0

STAGE_OF_JOB: dict[JobStage, Stage] = {
    JobStage.PREPARE: Stage.PREPARING,
    JobStage.TRAIN: Stage.TRAINING,
    JobStage.EVALUATE: Stage.EVALUATING,
    JobStage.PUBLISH: Stage.PUBLISHING,
    JobStage.UPLOAD: Stage.PUBLISHING,
}


def finite(value: float | None, digits: int = 6) -> float | None:
    """A number a report can hold: rounded, and None for NaN and infinity."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None


def _progress(activity: str, fraction: float, remaining_seconds: float | None) -> Progress:
    fraction = finite(min(max(fraction, 0.0), 1.0), 4) or 0.0
    return Progress(fraction=fraction, activity=activity, remaining_seconds=finite(remaining_seconds, 1))


class StageReporter:
    """Holds the newest report of the pod and sends it; may be used from several threads."""

    def __init__(
        self, reporter: Reporter, pod_uid: str, stage: Stage, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reporter = reporter
        self._clock = clock
        self._lock = threading.RLock()
        self._sent = -math.inf
        self._began = clock()
        self._report = RunReport(pod_uid=pod_uid, sequence=1, time=utc_now(), stage=stage, boot_id=boot_id())

    @property
    def current(self) -> RunReport:
        """The report as it would be sent now."""
        return self._report

    @property
    def doing(self) -> str:
        """What is being done, for people."""
        return self._report.progress.activity or "starting"

    def publish(self, **changes: Any) -> None:
        """Replace fields of the RunReport and send it now."""
        with self._lock:
            self._sent = self._clock()
            self._report = msgspec.structs.replace(
                self._report,
                sequence=self._reporter.next_sequence(),
                time=utc_now(),
                elapsed_seconds=round(self._sent - self._began, 1),
                **changes,
            )
            self._reporter.send(self._report)

    def progress(self, activity: str, fraction: float, remaining_seconds: float | None = None) -> None:
        """Say what is being done and how far it is; sent when the activity changes, else at most every few seconds."""
        with self._lock:
            changed = activity != self._report.progress.activity
            if changed or self._clock() - self._sent >= PROGRESS_INTERVAL_S:
                self.publish(progress=_progress(activity, fraction, remaining_seconds))

    def foretell(self, fraction: float, remaining_seconds: float | None) -> None:
        """Say how far the work is; sent with whatever is sent next."""
        with self._lock:
            now = _progress(self._report.progress.activity, fraction, remaining_seconds)
            self._report = msgspec.structs.replace(self._report, progress=now)

    def activity(self, activity: str) -> None:
        """Say what is being done; how far the stage is stays as it was."""
        now = self._report.progress
        self.progress(activity, now.fraction, now.remaining_seconds)

    def finish(self, outcome: AttemptReason, message: str, timeout_s: float = 20.0) -> bool:
        """Send the last report and wait until it is written; False when it was not within `timeout_s` seconds."""
        self.publish(outcome=outcome, message=message[:1000])
        return self._reporter.close(timeout_s)
