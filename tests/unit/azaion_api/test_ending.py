"""A program ends when it is asked to, whatever it does at that moment."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

#: Takes and releases the event's lock all the time, so that a signal is likely to come while it is held.
PROGRAM = """
from azaion_api.ending import stop_event
stop = stop_event()
print("waiting", flush=True)
while not stop.wait(1e-9):
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_even_while_the_event_is_locked(number: signal.Signals) -> None:
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(number)
            try:
                assert process.wait(timeout=20) == 0
            finally:
                process.kill()
