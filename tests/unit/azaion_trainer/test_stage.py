"""However the work ends, the exit code, the termination message and the last report say the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from trainer_make import MemorySink, add_pairs, task

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason, ExitCode, parse_termination
from azaion_api.report import Report, RunReport
from azaion_api.reporter import Reporter
from azaion_api.task import encode_task
from azaion_trainer import reporting, stage
from azaion_trainer.cli import main
from azaion_trainer.failures import BadDataError
from azaion_trainer.stage import StageContext, run_stage


class CountingReporter(Reporter):
    sent = 0

    def send(self, report: Report) -> None:
        self.sent += 1
        super().send(report)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    memory = MemorySink()
    monkeypatch.setattr(stage, "sink_for", lambda *_: memory)
    return memory


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("AZAION_TERMINATION_LOG", str(path))
    return path


def last(sink: MemorySink) -> RunReport:
    return sink.reports[-1]


def test_completed_work_ends_with_its_sentence(layout: Layout, sink: MemorySink, termination: Path) -> None:
    code = run_stage(task(JobStage.PREPARE), JobStage.PREPARE, lambda _: "all is well", layout.root)
    assert code is ExitCode.COMPLETED
    assert (last(sink).outcome, last(sink).message) == (AttemptReason.COMPLETED, "all is well")
    found = parse_termination(termination.read_text())
    assert found is not None
    assert (found.reason, found.message) == (AttemptReason.COMPLETED, "all is well")


def test_reports_are_numbered_and_carry_the_pods_uid(
    layout: Layout, sink: MemorySink, termination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZAION_POD_UID", "pod-1")

    def work(context: StageContext) -> str:
        context.report.publish(message="half way")
        return "done"

    run_stage(task(JobStage.PREPARE), JobStage.PREPARE, work, layout.root)
    numbers = [report.sequence for report in sink.reports]
    assert numbers == sorted(set(numbers))
    assert {report.pod_uid for report in sink.reports} == {"pod-1"}


def test_a_failure_is_data_not_a_trace(
    layout: Layout, sink: MemorySink, termination: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work(_: StageContext) -> str:
        raise BadDataError("nothing to train on")

    assert run_stage(task(JobStage.PREPARE), JobStage.PREPARE, work, layout.root) is ExitCode.BAD_DATA
    assert (last(sink).outcome, last(sink).message) == (AttemptReason.BAD_DATA, "nothing to train on")
    assert all(record.exc_info is None for record in caplog.records)


def test_a_bug_leaves_its_trace_in_the_log(
    layout: Layout, sink: MemorySink, termination: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def work(_: StageContext) -> str:
        raise ZeroDivisionError("a bug")

    assert run_stage(task(JobStage.PREPARE), JobStage.PREPARE, work, layout.root) is ExitCode.CRASHED
    assert last(sink).outcome is AttemptReason.CRASHED
    assert "Traceback" not in last(sink).message
    assert any(record.exc_info for record in caplog.records)


def test_sigterm_ends_as_preempted(layout: Layout, sink: MemorySink, termination: Path) -> None:
    def work(_: StageContext) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "never"

    assert run_stage(task(JobStage.PREPARE), JobStage.PREPARE, work, layout.root) is ExitCode.PREEMPTED
    assert last(sink).outcome is AttemptReason.PREEMPTED


def test_a_second_sigterm_does_not_disturb_the_ending(layout: Layout, sink: MemorySink, termination: Path) -> None:
    def work(_: StageContext) -> str:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        return "never"

    assert run_stage(task(JobStage.PREPARE), JobStage.PREPARE, work, layout.root) is ExitCode.PREEMPTED


def test_the_wrong_command_for_the_task_is_a_bad_spec(layout: Layout, sink: MemorySink, termination: Path) -> None:
    code = run_stage(task(JobStage.TRAIN), JobStage.PREPARE, lambda _: "never", layout.root)
    assert code is ExitCode.BAD_SPEC
    assert "the task is for train" in last(sink).message


def test_progress_is_sent_at_most_every_few_seconds_but_a_new_activity_at_once() -> None:
    now = [0.0]
    reporter = CountingReporter(MemorySink())
    report = reporting.StageReporter(reporter, "pod", stage.STAGE_OF_JOB[JobStage.TRAIN], lambda: now[0])
    for step in range(100):
        now[0] = step * 0.1
        report.progress("epoch 1 of 3", step / 100)
    report.progress("validating", 0.99)
    assert report.current.progress.activity == "validating"
    assert 4 <= reporter.sent <= 5
    assert reporter.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_report_never_holds_what_json_cannot(value: float | None) -> None:
    assert reporting.finite(value) is None


def test_prepare_from_the_command_line(
    layout: Layout, termination: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pairs(layout, 20)
    monkeypatch.setenv("AZAION_TASK", encode_task(task(JobStage.PREPARE)))
    assert main(["prepare", "--root", str(layout.root)]) == ExitCode.COMPLETED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == {"timestamp", "level", "service", "message", "context"} for line in lines)
    assert len(list(layout.datasets.iterdir())) == 1
    made = next(layout.datasets.rglob("*.jpg"))
    assert made.parent.stat().st_mode & 0o020, "the group may write: the other pods share it"


@pytest.mark.parametrize("text", ["", "not json", '{"run": 3}'])
def test_a_command_without_a_task_says_so(
    text: str, termination: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AZAION_TASK", text)
    assert main(["prepare", "--root", str(tmp_path)]) == ExitCode.BAD_SPEC
    found = parse_termination(termination.read_text())
    assert found is not None
    assert "AZAION_TASK" in found.message


def test_an_unknown_log_level_is_a_bad_spec(termination: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZAION_LOG_LEVEL", "LOUD")
    assert main(["prepare", "--root", str(tmp_path)]) == ExitCode.BAD_SPEC
