"""The frame around every stage: its task, its report, and an ending that always says why."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from azaion_api.layout import Layout, RunLayout
from azaion_api.names import JobStage, report_key
from azaion_api.outcome import AttemptReason, ExitCode, Termination
from azaion_api.reporter import Reporter, sink_for
from azaion_api.task import POD_UID_VARIABLE, RunTask
from azaion_trainer.cores import available_cores
from azaion_trainer.failures import EXIT_CODES, BadSpecError, outcome_of
from azaion_trainer.reporting import STAGE_OF_JOB, StageReporter
from azaion_trainer.watch import Heartbeat, StopSignal, Watchdog

log = logging.getLogger(__name__)

#: The kubelet mounts it; another path for runs outside a cluster.
TERMINATION_LOG = Path("/dev/termination-log")
TERMINATION_LOG_VARIABLE = "AZAION_TERMINATION_LOG"


@dataclass(frozen=True)
class StageContext:
    """What the work of a stage is given."""

    task: RunTask
    layout: Layout
    report: StageReporter
    heart: Heartbeat
    stop: StopSignal
    cores: int

    @property
    def run(self) -> RunLayout:
        """The run's own directory."""
        return self.layout.run(self.task.directory)

    def relative(self, path: Path) -> str:
        """A path as reports say it: relative to the storage root."""
        return str(path.relative_to(self.layout.root))


#: The work of a stage; returns the sentence its Completed attempt ends with.
Work = Callable[[StageContext], str]


def write_termination(termination: Termination) -> None:
    """Leave the pod's last word where the kubelet keeps it; a failure to do so is only logged."""
    given = os.environ.get(TERMINATION_LOG_VARIABLE)
    path = Path(given) if given else TERMINATION_LOG
    if not given and not path.exists():
        return
    try:
        path.write_bytes(termination.encode())
    except OSError as error:
        log.warning("the termination message cannot be written: %s", error)


class LastReport(Protocol):
    """What an ending is told to."""

    @property
    def doing(self) -> str:
        """What is being done, for people."""

    def finish(self, outcome: AttemptReason, message: str) -> bool:
        """Send the last report; False when it was not taken."""


class Ending:
    """Turns however the work ends, by itself or by any exception, into a report, a termination message and a code."""

    def __init__(self, report: LastReport) -> None:
        self._report = report
        self._began = time.monotonic()
        self.message = ""
        self.code = ExitCode.CRASHED

    def __enter__(self) -> Ending:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, SystemExit):
            return False
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pod is ending already
        termination = Termination(AttemptReason.COMPLETED, self.message) if error is None else outcome_of(error)
        crashed = termination.reason is AttemptReason.CRASHED
        log.log(
            logging.ERROR if crashed else logging.INFO,
            "%s: %s",
            termination.reason,
            termination.message,
            exc_info=error if crashed else None,
            extra={"context": {"seconds": round(time.monotonic() - self._began, 1)}},
        )
        self.finish(termination)
        return True

    def finish(self, termination: Termination) -> None:
        self.code = EXIT_CODES[termination.reason]
        write_termination(termination)
        if not self._report.finish(termination.reason, termination.message):
            log.warning("the last report could not be delivered; the operator goes by the termination message")

    def stalled(self, silence_s: float) -> None:
        """End the process at once, from the watchdog's thread: the main thread does not answer."""
        self.finish(
            Termination(
                AttemptReason.STALLED,
                f"no sign of work for {silence_s:.0f} s while {self._report.doing}; "
                "where every thread stood is in the pod's log",
            )
        )
        logging.shutdown()
        os._exit(self.code)


def run_stage(task: RunTask, stage: JobStage, work: Work, root: Path) -> ExitCode:
    """Do a stage's work for a task and return the process's exit code; never raises but for SystemExit."""
    pod_uid = os.environ.get(POD_UID_VARIABLE, "")
    report = StageReporter(Reporter(sink_for(task.report, report_key(stage))), pod_uid, STAGE_OF_JOB[stage])
    heart = Heartbeat(task.spec.recovery.stall_timeout_seconds)
    stop = StopSignal()
    ending = Ending(report)
    with Watchdog(heart, ending.stalled), ending:
        stop.install()
        if task.stage is not stage:
            raise BadSpecError(f"the task is for {task.stage}, the command is {stage}")
        report.publish()
        context = StageContext(task, Layout(root), report, heart, stop, available_cores())
        ending.message = work(context)
    return ending.code
