"""The storage pod reports what changed, soon, and costs next to nothing while nothing does."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.loopback import free_port

from azaion_api.layout import Layout
from azaion_api.report import parse_storage_report
from azaion_api.reporter import Reporter
from azaion_operator import storage_keeper
from azaion_operator.storage_keeper import Counter, Finding, Keeper, http_server, keep
from azaion_operator.storage_tree import Space

CLASSES = '[{"Id": 0, "Name": "Alpha"}]'
POD = "59d0da2f"


@dataclass
class Clock:
    """Seconds that pass when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Sink:
    """Keeps what was reported."""

    bodies: list[bytes] = field(default_factory=list)

    def write(self, body: bytes) -> None:
        self.bodies.append(body)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "azaion"
    root.mkdir()
    return Layout(root)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.json"
    path.write_text(CLASSES)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(layout: Layout, classes: Path, clock: Clock) -> Keeper:
    return Keeper(layout, classes, clock)


def eventually(what: str, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        pause.wait(0.01)


def add_model(layout: Layout, name: str) -> None:
    """A model that was copied a while ago."""
    path = layout.models / name
    path.write_bytes(b"weights")


@pytest.fixture(autouse=True)
def _settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azaion_operator.storage_tree._SETTLED_S", -1.0)


def test_the_first_look_makes_the_tree_and_counts_before_it_reports(keeper: Keeper, layout: Layout) -> None:
    layout.images("data").mkdir(parents=True)
    (layout.images("data") / "a.jpg").touch()
    found = keeper.look()
    assert found is not None
    assert dict(found.images) == {"data": 1, "data-seed": 0, "data_deleted": 0, "data-corrupted": 0}
    assert found.classes_present
    assert found.problems == ()
    assert found.base_models == ()


def test_nothing_is_reported_while_nothing_changes(keeper: Keeper, clock: Clock) -> None:
    keeper.look()
    for _ in range(29):
        clock.now += 2
        assert keeper.look() is None


def test_a_report_is_written_every_minute_all_the_same(keeper: Keeper, clock: Clock) -> None:
    keeper.look()
    clock.now += 60
    assert keeper.look() is not None


def test_a_new_model_is_reported_at_the_next_look(keeper: Keeper, layout: Layout, clock: Clock) -> None:
    keeper.look()
    add_model(layout, "yolo26m.pt")
    clock.now += 2
    found = keeper.look()
    assert found is not None
    assert found.base_models == ("yolo26m.pt",)


def test_classes_that_went_are_reported_and_made_again_within_a_minute(
    keeper: Keeper, layout: Layout, clock: Clock
) -> None:
    keeper.look()
    layout.classes.unlink()
    clock.now += 2
    found = keeper.look()
    assert found is not None
    assert not found.classes_present
    clock.now += 60
    found = keeper.look()
    assert found is not None
    assert found.classes_present


def test_a_problem_is_gone_from_the_report_soon_after_it_was_solved(
    keeper: Keeper, layout: Layout, clock: Clock
) -> None:
    (layout.root / "models").write_text("oops")
    found = keeper.look()
    assert found is not None
    assert found.problems == ("models is no directory; move it away",)
    (layout.root / "models").unlink()
    clock.now += 2
    found = keeper.look()
    assert found is not None
    assert found.problems == ()


def test_a_volume_that_went_away_is_a_problem_and_not_the_end(keeper: Keeper, layout: Layout, clock: Clock) -> None:
    keeper.look()
    layout.root.rename(layout.root.with_name("unmounted"))
    clock.now += 2
    found = keeper.look()
    assert found is not None
    assert found.problems[0].startswith("the volume cannot be read (No such file or directory)")


def test_liveness_ends_when_the_volume_does_not_answer(keeper: Keeper, clock: Clock) -> None:
    keeper.look()
    assert keeper.alive
    clock.now += 121
    assert not keeper.alive


@pytest.mark.parametrize(
    ("available_bytes", "differs"), [(500, False), (505, False), (509, False), (510, True), (490, True), (0, True)]
)
def test_free_space_is_worth_a_report_when_it_moved_by_a_hundredth_of_the_volume(
    available_bytes: int, differs: bool
) -> None:
    before = Finding(space=Space(1000, 500))
    assert Finding(space=Space(1000, available_bytes)).differs(before) is differs


def test_any_other_change_is_worth_a_report() -> None:
    before = Finding(space=Space(1000, 500))
    for change in (
        {"base_models": ("a.pt",)},
        {"images": (("data", 1),)},
        {"problems": ("x",)},
        {"classes_present": True},
        {"space": Space(2000, 500)},
    ):
        assert replace(before, **change).differs(before)  # type: ignore[arg-type]
    assert not replace(before).differs(before)


# Counting


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Directories in the order in which they were counted."""
    found: list[str] = []
    real = storage_keeper.count_images

    def count(directory: Path, limit: int) -> int:
        found.append(directory.parent.name)
        return real(directory, limit)

    monkeypatch.setattr(storage_keeper, "count_images", count)
    return found


def test_a_directory_is_counted_again_only_after_it_changed(layout: Layout, clock: Clock, counted: list[str]) -> None:
    layout.images("data").mkdir(parents=True)
    counter = Counter(layout, clock)
    for _ in range(5):
        counter.poll()
        counter.wait(10)
        clock.now += 60
    assert counted == ["data"]
    (layout.images("data") / "a.jpg").touch()
    counter.poll()
    counter.wait(10)
    assert counted == ["data", "data"]
    assert counter.counts == (("data", 1),)


def test_a_directory_that_changes_all_the_time_is_not_counted_all_the_time(
    layout: Layout, clock: Clock, counted: list[str]
) -> None:
    layout.images("data").mkdir(parents=True)
    counter = Counter(layout, clock)
    for number in range(30):
        (layout.images("data") / f"{number}.jpg").touch()
        counter.poll()
        counter.wait(10)
        clock.now += 1
    assert len(counted) == 6


def test_the_longer_a_count_takes_the_later_comes_the_next(
    layout: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.images("data").mkdir(parents=True)
    counts = 0

    def slow(directory: Path, limit: int) -> int:
        nonlocal counts
        counts += 1
        clock.now += 3.0
        return 0

    monkeypatch.setattr(storage_keeper, "count_images", slow)
    counter = Counter(layout, clock)
    counter.poll()
    counter.wait(10)
    for number in range(58):
        clock.now += 1
        (layout.images("data") / f"{number}.jpg").touch()
        counter.poll()
        counter.wait(10)
    assert counts == 1
    clock.now += 3
    counter.poll()
    counter.wait(10)
    assert counts == 2


def test_a_directory_that_went_is_counted_no_more(layout: Layout, clock: Clock) -> None:
    for name in ("data", "old"):
        layout.images(name).mkdir(parents=True)
    counter = Counter(layout, clock)
    counter.poll()
    counter.wait(10)
    layout.images("old").rmdir()
    counter.poll()
    assert counter.counts == (("data", 0),)


# The process


@contextmanager
def serving(keeper: Keeper) -> Iterator[Callable[[str], tuple[int, str]]]:
    server = http_server(keeper, 0)

    def get(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    try:
        yield get
    finally:
        server.close()


def test_it_is_ready_once_it_has_looked(keeper: Keeper) -> None:
    with serving(keeper) as get:
        assert get("/livez")[0] == 200
        assert get("/readyz") == (503, "the directory tree is being looked at\n")
        keeper.look()
        assert get("/readyz") == (200, "ok\n")


def test_it_is_not_alive_when_the_volume_hangs(keeper: Keeper, clock: Clock) -> None:
    with serving(keeper) as get:
        clock.now += 200
        assert get("/livez") == (503, "the volume has not answered for two minutes\n")


def test_metrics_tell_space_problems_and_images(keeper: Keeper, layout: Layout) -> None:
    layout.images("data").mkdir(parents=True)
    (layout.images("data") / "a.jpg").touch()
    (layout.root / "models").write_text("oops")
    with serving(keeper) as get:
        assert "azaion_storage_capacity_bytes" not in get("/metrics")[1]
        keeper.look()
        keeper.usage.wait(10)
        status, text = get("/metrics")
    assert status == 200
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["azaion_storage_capacity_bytes"]) > float(lines["azaion_storage_available_bytes"]) > 0
    assert lines["azaion_storage_problems"] == "1.0"
    assert lines['azaion_storage_images{directory="data"}'] == "1.0"
    assert float(lines['azaion_storage_used_bytes{directory="data"}']) > 0


def test_another_path_is_not_found(keeper: Keeper) -> None:
    with serving(keeper) as get:
        assert get("/etc/passwd")[0] == 404


def test_reports_carry_the_pod_and_rising_numbers(keeper: Keeper, layout: Layout, clock: Clock) -> None:
    sink, stop = Sink(), threading.Event()
    reporter = Reporter(sink)
    thread = threading.Thread(target=keep, args=(keeper, reporter, POD, stop))
    thread.start()
    try:
        eventually("the first report", lambda: len(sink.bodies) == 1)
        add_model(layout, "yolo26m.pt")
        eventually("the second report", lambda: len(sink.bodies) == 2)
    finally:
        stop.set()
        thread.join()
        reporter.close()
    first, second = (parse_storage_report(body.decode()) for body in sink.bodies)
    assert first is not None
    assert second is not None
    assert first.pod_uid == second.pod_uid == POD
    assert second.sequence > first.sequence
    assert second.base_models == ("yolo26m.pt",)


def test_a_wrong_setting_ends_the_pod_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from azaion_operator.storage_keeper import main; sys.exit(main())"],
        env={**os.environ, "AZAION_HTTP_PORT": "http"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["level"] == "ERROR"
    assert line["service"] == "azaion-storage"
    assert "AZAION_HTTP_PORT is 'http', it has to be a port number" in line["message"]
    assert done.stderr == ""


def test_sigterm_ends_the_process_at_once(layout: Layout, classes: Path) -> None:
    port = free_port()
    program = (
        "import sys; from pathlib import Path; from azaion_operator import storage_keeper as k; "
        f"k.MOUNT_PATH = {str(layout.root)!r}; k._CLASSES = Path({str(classes)!r}); sys.exit(k.main())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**environment, "AZAION_HTTP_PORT": str(port), "AZAION_LOG_LEVEL": "DEBUG"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ready() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        eventually("readiness", ready, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert layout.classes.read_text() == CLASSES
    assert all(json.loads(line)["service"] == "azaion-storage" for line in output.splitlines())
