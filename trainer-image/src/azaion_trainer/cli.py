"""`azaion-trainer`: one command per stage, and `add-model` and `compare` for people."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from azaion_api import logs
from azaion_api.layout import MOUNT_PATH, Layout
from azaion_api.names import JobStage, LineAction
from azaion_api.outcome import AttemptReason, ExitCode, Termination
from azaion_api.task import (
    LOG_LEVEL_VARIABLE,
    TASK_VARIABLE,
    LineTask,
    NoticeTask,
    RunTask,
    decode_line_task,
    decode_notice_task,
    decode_run_task,
)
from azaion_trainer.cores import available_cores
from azaion_trainer.engine import environment
from azaion_trainer.stage import Work, run_stage, write_termination

log = logging.getLogger(__name__)

SERVICE = "azaion-trainer"
NOTIFY = "notify"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code (azaion_api.outcome for stages, 0 or 1 for add-model)."""
    parsed = _parser().parse_args(arguments)
    root = Path(getattr(parsed, "root", MOUNT_PATH))
    if parsed.command == "compare":
        from azaion_trainer.compare import compare

        return compare(Layout(root), parsed.first, parsed.second)
    if parsed.command == "add-model":
        from azaion_trainer.base_models import add_model

        return add_model(Layout(root), parsed.file, parsed.name, parsed.replace)
    try:
        logs.configure(SERVICE, os.environ.get(LOG_LEVEL_VARIABLE) or "INFO")
    except ValueError as error:
        return _refuse(f"{LOG_LEVEL_VARIABLE}: {error}")
    logging.captureWarnings(True)
    os.umask(0o002)
    if parsed.command == NOTIFY:
        return _notify()
    if parsed.command in LineAction.__members__.values():
        return _line_work(root)
    task = _task(decode_run_task)
    if isinstance(task, str):
        return _refuse(task)
    stage = JobStage(parsed.command)
    os.environ.update(environment(available_cores()))  # read by libraries when the stage's module imports them
    return run_stage(task, stage, _work(stage), root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=SERVICE, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        JobStage.PREPARE: "form or verify the data set",
        JobStage.TRAIN: "train, from the newest verified checkpoint when there is one",
        JobStage.EVALUATE: "judge the trained and the current model on the test split, and export",
        JobStage.UPLOAD: "bring the published model to its targets",
        JobStage.PUBLISH: "carry out the promotion: fill models/ and switch the line's link",
    }
    line_texts = {
        LineAction.SWITCH: "make another model of a line current",
        LineAction.RETAIN: "remove old models, runs and data sets by the line's policy, or show what would go",
    }
    for command, text in (texts | line_texts).items():
        _add_root(commands.add_parser(command, help=f"{text}; reads {TASK_VARIABLE}"))
    commands.add_parser(NOTIFY, help=f"tell a webhook how a run came out; reads {TASK_VARIABLE}")
    both = commands.add_parser("compare", help="print two runs side by side")
    both.add_argument("first", help="a run's directory below runs/, or its name")
    both.add_argument("second", help="another one")
    _add_root(both)
    add = commands.add_parser("add-model", help="put a base model into models/")
    add.add_argument("file", help="a YOLO checkpoint (.pt), or - to read it from standard input")
    add.add_argument("--name", help="name in models/, such as yolo26m.pt; the file's own by default")
    add.add_argument("--replace", action="store_true", help="replace another model of that name")
    _add_root(add)
    return parser


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default=MOUNT_PATH, help=f"top of the storage, {MOUNT_PATH} by default")


def _notify() -> ExitCode:
    from azaion_trainer.notify import notify
    from azaion_trainer.secrets import SecretFiles

    task = _task(decode_notice_task)
    return _refuse(task) if isinstance(task, str) else notify(task, SecretFiles())


def _line_work(root: Path) -> ExitCode:
    from azaion_trainer.line_work import run_line_work

    task = _task(decode_line_task)
    return _refuse(task) if isinstance(task, str) else run_line_work(task, root)


TaskT = TypeVar("TaskT", RunTask, LineTask, NoticeTask)


def _task(decode: Callable[[str], TaskT]) -> TaskT | str:
    """The task, or what is wrong with it."""
    text = os.environ.get(TASK_VARIABLE)
    if not text:
        return f"{TASK_VARIABLE} is not set: the operator starts this command, it is not for people"
    try:
        return decode(text)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return f"{TASK_VARIABLE} is not a task this trainer understands: {error}"


def _refuse(message: str) -> ExitCode:
    log.error(message)
    write_termination(Termination(AttemptReason.BAD_SPEC, message))
    return ExitCode.BAD_SPEC


def _work(stage: JobStage) -> Work:
    """The stage's function; imported late, for torch takes seconds and only two stages need it."""
    if stage is JobStage.PREPARE:
        from azaion_trainer.prepare import prepare

        return prepare
    if stage is JobStage.TRAIN:
        from azaion_trainer.train import train

        return train
    if stage is JobStage.EVALUATE:
        from azaion_trainer.evaluate import evaluate

        return evaluate
    if stage is JobStage.UPLOAD:
        from azaion_trainer.upload import upload

        return upload
    from azaion_trainer.publish import publish

    return publish


if __name__ == "__main__":
    sys.exit(main())
