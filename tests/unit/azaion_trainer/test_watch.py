"""Signs of work, their absence, and the order to stop."""

from __future__ import annotations

import os
import signal

import pytest
from trainer_make import wait_until

from azaion_trainer.failures import PreemptionError
from azaion_trainer.watch import MIN_STALL_TIMEOUT_S, Heartbeat, StopSignal, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_follows_the_measured_pace_but_is_at_least_ten_minutes() -> None:
    heart = Heartbeat()
    assert heart.timeout_s == MIN_STALL_TIMEOUT_S == 600
    for seconds in (1.0, 2.0, 300.0):
        heart.batch(seconds)
    assert heart.timeout_s == 600
    for _ in range(10):
        heart.batch(50.0)
    assert heart.timeout_s == 1000


def test_the_runs_own_limit_is_taken_as_it_is() -> None:
    heart = Heartbeat(stall_timeout_s=90)
    heart.batch(500.0)
    assert heart.timeout_s == 90


@pytest.mark.parametrize("own_limit_s", [None, 90.0])
def test_a_call_that_cannot_beat_has_a_longer_limit_until_it_ends(own_limit_s: float | None) -> None:
    clock = Clock()
    heart = Heartbeat(stall_timeout_s=own_limit_s, clock=clock)
    with heart.patience(3600):
        clock.now = 3000.0
        assert heart.timeout_s == 3600
    assert heart.silence_s == 0.0
    assert heart.timeout_s == (own_limit_s or MIN_STALL_TIMEOUT_S)


def test_every_beat_ends_the_silence() -> None:
    clock = Clock()
    heart = Heartbeat(clock=clock)
    clock.now = 42.0
    assert heart.silence_s == 42.0
    heart.beat()
    assert heart.silence_s == 0.0


def test_the_watchdog_reports_a_silence_once() -> None:
    clock = Clock()
    heart = Heartbeat(stall_timeout_s=60, clock=clock)
    stalls: list[float] = []
    with Watchdog(heart, stalls.append, poll_s=0.01):
        clock.now = 61.0
        wait_until(lambda: bool(stalls), "the stall")
    assert stalls == [61.0]


def test_the_watchdog_is_silent_while_work_goes_on() -> None:
    clock = Clock()
    heart = Heartbeat(stall_timeout_s=60, clock=clock)
    looks: list[float] = []

    class Counting(Heartbeat):
        @property
        def silence_s(self) -> float:
            looks.append(0.0)
            return heart.silence_s

    stalls: list[float] = []
    with Watchdog(Counting(60, clock), stalls.append, poll_s=0.001):
        wait_until(lambda: len(looks) > 20, "twenty looks")
    assert stalls == []


def test_sigterm_stops_work_at_once_where_nothing_is_to_be_saved() -> None:
    stop = StopSignal()
    stop.install()
    with pytest.raises(PreemptionError):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested


def test_sigterm_waits_for_the_work_to_look_where_there_is_something_to_save() -> None:
    stop = StopSignal()
    stop.install()
    with stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(PreemptionError):
            stop.check()


def test_no_library_takes_the_order_to_stop_for_a_fault_of_its_own() -> None:
    assert not issubclass(PreemptionError, Exception)
