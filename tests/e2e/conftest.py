"""One test cluster with the chart and a broker for the whole session; it is made here and removed afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.demo.clusters import TestCluster
from tests.demo.terminal import Terminal
from tests.e2e.observer import DeviceObserver, shared_devices
from tests.e2e.platform import Platform
from tests.e2e.story import Story, tell

#: The one module that looks at the bundled monitoring.
_MONITORING = Path(__file__).with_name("test_monitoring.py")
#: Keeps the cluster after the session and takes it up again in the next: for writing tests.
KEEP = "AZAION_E2E_KEEP"
#: Name of the cluster, where several sessions run beside each other.
NAME = "AZAION_E2E_CLUSTER"


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """The platform, installed; never a cluster that somebody else made."""
    keep = bool(os.environ.get(KEEP))
    terminal = Terminal(3)
    place = TestCluster(os.environ.get(NAME, "e2e"), keep, audit=True)
    try:
        with terminal.step("cluster", "a test cluster"):
            access = place.start(terminal)
        with terminal.step("images", "its images"):
            place.bring_images(access, terminal)
        with terminal.step("install", "broker and chart"):
            # Only one module looks at the bundled monitoring, so it is there when that module is among the tests.
            monitored = any(item.path == _MONITORING for item in request.session.items)
            found = Platform(place, access, monitored=monitored)
            found.start_broker()
            found.install()
        yield found
    finally:
        if not keep:
            place.remove(terminal)


@pytest.fixture(scope="session")
def observer(platform: Platform) -> Iterator[DeviceObserver]:
    """Watches the GPU from the first test to the last."""
    found = DeviceObserver(platform.access)
    found.start()
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def never_two_at_the_gpu(platform: Platform, observer: DeviceObserver) -> Iterator[None]:
    """Whatever the test does, no two pods ever share the device."""
    yield
    assert observer.pods.overlaps == [], "two pods that ask for the GPU were there at once"
    assert shared_devices(platform.device_log().splitlines()) == [], "the test device was held by two pods at once"


@pytest.fixture(scope="session")
def story(platform: Platform) -> Story:
    """Told once; every test may look at it."""
    return tell(platform)
