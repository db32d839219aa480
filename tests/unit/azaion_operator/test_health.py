"""Probes that mean something."""

from __future__ import annotations

import pytest

from azaion_operator.health import Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    found = Health(clock)
    found.synced = True
    return found


def renew_for(health: Health, clock: Clock, seconds: int, *, echo: bool, leads: bool = True) -> str | None:
    """Probe every five seconds while the Lease is renewed; the answer of the last probe."""
    answer = None
    for n in range(seconds // 5):
        clock.now += 5
        if echo:
            health.saw_own_lease()
        answer = health.alive(int(clock.now) + n, 0, leads)
    return answer


def test_an_operator_whose_watches_bring_its_own_lease_is_alive(health: Health, clock: Clock) -> None:
    assert renew_for(health, clock, 600, echo=True) is None


def test_an_operator_with_deaf_watches_is_restarted(health: Health, clock: Clock) -> None:
    assert renew_for(health, clock, 60, echo=False) is None
    assert renew_for(health, clock, 60, echo=False) == "the watches have been deaf for 120 s"


def test_without_an_api_server_a_restart_would_mend_nothing(health: Health, clock: Clock) -> None:
    renew_for(health, clock, 30, echo=True)
    clock.now += 3600
    assert health.alive(int(clock.now) - 3600, 0, False) is None
    # Back again, the watches get their time.
    assert renew_for(health, clock, 30, echo=False) is None


def test_a_reconcile_that_is_stuck_is_not_alive_unless_it_waits_for_the_lease(health: Health) -> None:
    assert health.alive(0, 1000, True) == "a reconcile has been stuck for 1000 s"
    assert health.alive(0, 1000, False) is None


@pytest.mark.parametrize(
    ("synced", "leads", "holder", "problem"),
    [
        (False, True, None, "the caches are not filled yet"),
        (True, False, None, "nobody holds the Lease"),
        (True, True, None, None),
        (True, False, "other", None),
    ],
)
def test_ready_means_acting_on_filled_caches_or_standing_by(
    health: Health, synced: bool, leads: bool, holder: str | None, problem: str | None
) -> None:
    health.synced = synced
    assert health.ready(leads, holder) == problem
