"""TensorBoard's events of one attempt, in ultralytics' save_dir on the volume.

Names and steps are those of ultralytics' own callback. That one cannot be used: it does not say from which step on an
attempt trains anew, it traces the model's graph at every start, and it fails the training when the disk does.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

log = logging.getLogger(__name__)


class EventFile:
    """Appends scalars; each step is in the file when `add` returns. A volume that takes none is said once."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """Begin a file beside those of earlier attempts, whose steps from `first_step` on no longer count."""
        now = time.time()
        # TensorBoard reads the files of a directory in the order of their names, as one run.
        self._path = directory / f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        self._write(
            Event(wall_time=now, step=first_step, file_version="brain.Event:2"),
            Event(wall_time=now, step=first_step, session_log=SessionLog(status=SessionLog.START)),
        )

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """One value each, all of the same step."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, *events: Event) -> None:
        try:
            with self._path.open("ab") as file:
                writer = RecordWriter(file)
                for event in events:
                    writer.write(event.SerializeToString())
        except OSError as error:
            log.warning("TensorBoard's events cannot be written, the training goes on: %s", error)
