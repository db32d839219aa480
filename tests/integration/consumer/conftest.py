"""One real RabbitMQ for the session; a stream, a tree and a consumer process of its own for every test."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent
for _path in (_HERE, _HERE.parents[2]):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

from consumer_process import Bench  # noqa: E402 - found by the path above
from tests.broker.local_broker import LocalBroker  # noqa: E402


@pytest.fixture(scope="session")
def broker() -> Iterator[LocalBroker]:
    """A broker that runs for all tests; one that stops it starts it again."""
    if not LocalBroker.is_installed():
        pytest.fail("RabbitMQ is not installed: apt-get install --no-install-recommends rabbitmq-server")
    # In memory: what is on trial is the consumer's disk, not the broker's.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as directory, LocalBroker(Path(directory, "broker")) as found:
        yield found


@pytest.fixture
def bench(broker: LocalBroker, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Everything one test needs; what it started is ended."""
    if not broker.is_running:
        broker.start()
    found = Bench(broker, request.node.name[:100].replace("/", "-"), tmp_path)
    yield found
    found.close()
