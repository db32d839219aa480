"""One fault after another, under load: a few of each in `make test`, the long series in `make test-faults`."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumer_process import INGEST, JPEG, Bench, annotation, wait_for
from tests import faketime
from tests.broker.local_broker import LocalBroker
from workload import filed, uninterrupted, workload

from azaion_consumer.messages import encode_created

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_HOST, _POD = "10.213.87.1", "10.213.87.2"


def long(count: int) -> object:
    return pytest.param(count, marks=pytest.mark.faults)


def staged_files(bench: Bench) -> int:
    try:
        return len(os.listdir(bench.root / ".ingest" / INGEST / "staging"))
    except FileNotFoundError:
        return 0


def committed_offset(bench: Bench) -> int:
    return int(bench.committed().get("offset", -1))


@pytest.mark.parametrize("kills", [6, long(100)])
def test_a_consumer_killed_at_random_moments_ends_with_the_tree_of_an_undisturbed_one(bench: Bench, kills: int) -> None:
    """Every kill comes under load: in the middle of staging, after a commit, or at a moment of chance after either."""
    per_kill = 250
    entries = workload(per_kill * (kills + 1), seed=kills)
    choose = random.Random(kills)
    in_a_batch = 0
    for kill in range(kills):
        bench.publish(entries[per_kill * kill : per_kill * (kill + 1)])
        before, staged = committed_offset(bench), choose.randrange(1, 250)
        until_s = choose.choice([0.0, choose.random() * 0.1])
        consumer = bench.start(quiet=True)

        def begun(staged: int = staged, before: int = before) -> bool:
            return staged_files(bench) >= staged or committed_offset(bench) > before

        wait_for("some work to be interrupted", begun, interval_s=0.0005)
        # The moment is chosen by chance, not by what the consumer does.
        threading.Event().wait(until_s)
        in_a_batch += staged_files(bench) > 0
        consumer.kill()
    bench.publish(entries[per_kill * kills :])
    last = bench.start(quiet=True)
    bench.wait_until_filed(len(entries), last, 300)
    assert last.terminate() == 0
    assert in_a_batch > 0
    print(f"{kills} kills, {in_a_batch} of them in the middle of a batch")
    assert bench.tree() == uninterrupted(bench, len(entries))
    assert len(bench.rejected()) == entries.count(b"poison")


@pytest.mark.parametrize("kills", [2, long(20)])
def test_a_broker_killed_again_and_again_under_load_costs_nothing(bench: Bench, kills: int) -> None:
    per_kill = 1500
    entries = workload(per_kill * (kills + 1), seed=kills)
    consumer = bench.start(quiet=True)
    choose = random.Random(kills)
    for kill in range(kills):
        before = committed_offset(bench)
        bench.publish(entries[per_kill * kill : per_kill * (kill + 1)])
        wanted = before + choose.randrange(per_kill)
        wait_for("some of it to be filed", lambda wanted=wanted: committed_offset(bench) >= wanted, 120)
        bench.broker.kill()
        bench.broker.start()
    bench.publish(entries[per_kill * kills :])
    bench.wait_until_filed(len(entries), consumer, 300)
    assert consumer.terminate() == 0
    assert bench.tree() == uninterrupted(bench, len(entries))


# The network


class Network:
    """A network of its own for the consumer, one cable away from the broker's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inside, self._outside = f"{name}i", f"{name}o"

    @property
    def prefix(self) -> list[str]:
        """Runs a command inside."""
        return ["ip", "netns", "exec", self.name]

    def make(self) -> bool:
        """False when this machine cannot."""
        steps = [
            f"ip netns add {self.name}",
            f"ip link add {self._outside} type veth peer name {self._inside} netns {self.name}",
            f"ip address add {_HOST}/30 dev {self._outside}",
            f"ip link set {self._outside} up",
            f"ip -n {self.name} address add {_POD}/30 dev {self._inside}",
            f"ip -n {self.name} link set {self._inside} up",
            f"ip -n {self.name} link set lo up",
            f"ip netns exec {self.name} iptables -L",
        ]
        return all(subprocess.run(s.split(), capture_output=True, check=False).returncode == 0 for s in steps)

    def lose(self, part: float, *chains: str) -> None:
        """Lose that part (0-1] of the packets of the chains INPUT, OUTPUT."""
        for chain in chains:
            rule = [*self.prefix, "iptables", "-A", chain]
            if part < 1:
                rule += ["-m", "statistic", "--mode", "random", "--probability", str(part)]
            subprocess.run([*rule, "-j", "DROP"], check=True)

    def heal(self) -> None:
        subprocess.run([*self.prefix, "iptables", "-F"], check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "link", "del", self._outside], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Needs root and iptables."""
    found = Network("azingest")
    found.remove()
    if not found.make():
        found.remove()
        pytest.skip("a network of its own needs root, network namespaces and iptables")
    yield found
    found.remove()


@pytest.fixture(scope="module")
def distant_broker(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path_factory.mktemp("distant"), host=_HOST) as found:
        yield found


@pytest.fixture
def distant(
    distant_broker: LocalBroker, network: Network, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Bench]:
    if not distant_broker.is_running:
        distant_broker.start()
    network.heal()
    found = Bench(distant_broker, request.node.name[:100].replace("/", "-"), tmp_path)
    yield found
    found.close()
    network.heal()


@pytest.mark.parametrize("messages", [400, long(6000)])
def test_packets_that_get_lost_cost_time_and_nothing_else(distant: Bench, network: Network, messages: int) -> None:
    entries = workload(messages)
    distant.publish(entries)
    network.lose(0.15, "INPUT", "OUTPUT")
    consumer = distant.start(prefix=network.prefix, quiet=True)
    wait_for("everything in spite of the losses", lambda: filed(distant) >= messages, 900, 0.2)
    network.heal()
    assert consumer.terminate() == 0
    assert filed(distant) == messages
    assert distant.tree() == uninterrupted(distant, messages)


@pytest.mark.parametrize("rounds", [1, long(5)])
@pytest.mark.parametrize("chain", ["INPUT", "OUTPUT"])
def test_a_connection_dead_on_one_side_is_noticed_and_made_anew(
    distant: Bench, network: Network, chain: str, rounds: int
) -> None:
    """Neither side sees an end: the other one's packets, or ours, just no longer arrive."""
    distant.create_stream()
    consumer = distant.start(prefix=network.prefix)
    consumer.wait_for_report("a connection", lambda r: r.connected.status)
    for number in range(rounds):
        network.lose(1, chain)
        distant.publish([encode_created(annotation(f"x{number}"))])
        report = consumer.wait_for_report("the loss", lambda r: not r.connected.status, 90)
        assert report.connected.reason == "BrokerUnreachable"
        network.heal()
        distant.wait_until_filed(number + 1, consumer, 90)
        consumer.wait_for_report("a connection", lambda r: r.connected.status)
    assert consumer.terminate() == 0


def test_a_broker_that_was_replaced_while_nothing_got_through_is_found_again(distant: Bench, network: Network) -> None:
    """A half-open connection: the broker's end is gone, and nobody could tell us."""
    distant.publish([encode_created(annotation("x"))])
    consumer = distant.start(prefix=network.prefix)
    distant.wait_until_filed(1, consumer)
    network.lose(1, "INPUT", "OUTPUT")
    distant.broker.kill()
    distant.broker.start()
    network.heal()
    distant.publish([encode_created(annotation("y"))])
    distant.wait_until_filed(2, consumer, 120)
    assert consumer.terminate() == 0


# The disk and the clock


@pytest.mark.parametrize("rounds", [2, long(20)])
def test_a_disk_that_fills_up_again_and_again_loses_nothing(bench: Bench, tmp_path: Path, rounds: int) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        bench.root = small
        picture = JPEG + bytes(range(256)) * 300
        filler = small / "somebody-elses-file"
        consumer = bench.start()
        for number in range(rounds):
            free = os.statvfs(small)
            # About half a round of new pictures fits; of pictures that replace others, not even one.
            room = 2_500_000 if number == 0 else 50_000
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
            bench.publish(encode_created(annotation(f"x{i}", image=picture + bytes([number]))) for i in range(60))
            consumer.wait_for_report("a full disk", lambda r: r.storage_writable.reason == "DiskFull")
            filler.unlink()
            bench.wait_until_filed(60 * (number + 1), consumer, 120)
            consumer.wait_for_report("a disk that can be written", lambda r: r.storage_writable.status)
        assert consumer.terminate() == 0
        assert bench.tree()["data/images/x59.jpg"] == picture + bytes([rounds - 1])
        assert len(bench.tree()) == 120
    finally:
        bench.close()
        subprocess.run(["umount", "--lazy", str(small)], check=True)


_JUMPS = ["+1h", "-1h", "+400d", "-800d", "+0"]


@pytest.mark.parametrize("jumps", [["+400d", "-800d"], pytest.param(_JUMPS * 4, marks=pytest.mark.faults)])
def test_a_clock_that_jumps_disturbs_nothing(
    bench: Bench, jumps: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The consumer's own wall clock jumps; the time that only goes forward stays as it is, as on a real machine."""
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    with monkeypatch.context() as moved:
        for name, value in faketime.environment(faketime.library(), clock).items():
            moved.setenv(name, value)
        consumer = bench.start()
    bench.publish([encode_created(annotation("before"))])
    bench.wait_until_filed(1, consumer)
    for number, jump in enumerate(jumps):
        then = bench.committed()["time"]
        clock.write_text(f"{jump}\n")
        bench.publish([encode_created(annotation(f"x{number}"))])
        bench.wait_until_filed(number + 2, consumer, 20)
        if jump.endswith("d"):
            assert abs(int(bench.committed()["time"][:4]) - int(then[:4])) >= 1, "the clock did not jump"
        consumer.wait_for_report("everything", lambda r, n=number: r.processed == n + 2 and r.caught_up.status, 20)
    assert consumer.log.count('"message":"reading the stream') == 1, "the connection was kept"
    assert consumer.terminate() == 0


@pytest.mark.parametrize("rounds", [1, long(15)])
def test_sigterm_under_full_load_always_ends_within_its_grace(bench: Bench, rounds: int) -> None:
    picture = JPEG + bytes(200_000)
    count = 0
    for number in range(rounds):
        count += bench.publish(encode_created(annotation(f"x{i}", image=picture)) for i in range(300))
        before = committed_offset(bench)
        consumer = bench.start(quiet=True)
        wait_for("the first batch", lambda before=before: committed_offset(bench) > before, interval_s=0.001)
        assert consumer.terminate() == 0, number
    last = bench.start(quiet=True)
    bench.wait_until_filed(count, last, 300)
