"""The storage pod: makes and checks the directory tree, and reports what lies in it.

It mounts the claim at all times, so that a storage class that waits for a first pod binds it at installation. It has no
other duty, and deletes nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from azaion_api import logs
from azaion_api.ending import stop_event
from azaion_api.layout import MOUNT_PATH, Layout
from azaion_api.names import STORAGE_REPORT, STORAGE_REPORT_KEY
from azaion_api.pages import METRICS_TYPE, Answer, PageServer, probe
from azaion_api.report import FoundModel, StorageReport
from azaion_api.reporter import Reporter, sink_for, utc_now
from azaion_api.task import LOG_LEVEL_VARIABLE, POD_UID_VARIABLE
from azaion_operator.storage_tree import (
    COUNT_LIMIT,
    Space,
    base_models,
    check_tree,
    count_images,
    found_models,
    image_directories,
    make_tree,
    space,
)
from azaion_operator.storage_usage import Usage

log = logging.getLogger(__name__)

_HTTP_PORT_VARIABLE = "AZAION_HTTP_PORT"
_CLASSES = Path("/etc/azaion/classes.json")

_POLL_S = 2.0
#: The tree is checked, and a report is written even without a change, this often.
_CHECK_S = 60.0
#: A directory is counted again at the earliest after this, and after many times the time its last count took.
_RECOUNT_S = 5.0
_RECOUNT_COST = 20
#: The first report waits this long for the first counts.
_FIRST_COUNT_S = 60.0
#: Part of the capacity by which free space has to differ to be told before the minute is over.
_SPACE_STEP = 0.01
#: Without a turn of the loop for this long, the volume does not answer.
_STALLED_S = 120.0


@dataclass(frozen=True)
class Finding:
    """What is known of the volume."""

    base_models: tuple[str, ...] = ()
    images: tuple[tuple[str, int], ...] = ()
    space: Space = field(default_factory=Space)
    problems: tuple[str, ...] = ()
    classes_present: bool = False
    models: tuple[FoundModel, ...] = ()

    def differs(self, other: Finding) -> bool:
        """Whether a person or the operator would act on the difference."""
        if replace(self, space=other.space) != other:
            return True
        step_bytes = self.space.capacity_bytes * _SPACE_STEP
        return (
            self.space.capacity_bytes != other.space.capacity_bytes
            or abs(self.space.available_bytes - other.space.available_bytes) >= step_bytes > 0
        )

    def report(self, pod_uid: str, sequence: int) -> StorageReport:
        return StorageReport(
            pod_uid=pod_uid,
            sequence=sequence,
            time=utc_now(),
            base_models=self.base_models,
            images=dict(self.images),
            capacity_bytes=self.space.capacity_bytes,
            available_bytes=self.space.available_bytes,
            problems=self.problems,
            classes_present=self.classes_present,
            models=self.models,
        )


class Counter:
    """Counts images in a thread of its own; a directory again only when its modification time changed."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._due_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        with self._lock:
            return tuple(sorted(self._counts.items()))

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Until the count under way is done."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def poll(self) -> None:
        """Start counting what changed, unless a count is under way."""
        if self.busy:
            return
        names = image_directories(self._layout)
        with self._lock:
            for name in set(self._counts) - set(names):
                del self._counts[name]
                self._seen.pop(name, None)
        changed = [name for name in names if self._changed(name)]
        if changed:
            self._thread = threading.Thread(target=self._count, args=(changed,), name="count", daemon=True)
            self._thread.start()

    def _changed(self, name: str) -> bool:
        try:
            modified_ns = self._layout.images(name).stat().st_mtime_ns
        except OSError:
            return False
        return modified_ns != self._seen.get(name) and self._clock() >= self._due_s.get(name, 0.0)

    def _count(self, names: Iterable[str]) -> None:
        for name in names:
            started_s = self._clock()
            try:
                # Read before counting: what changes meanwhile is counted again.
                modified_ns = self._layout.images(name).stat().st_mtime_ns
                count = count_images(self._layout.images(name), COUNT_LIMIT)
            except OSError as error:
                log.warning("the images of %s cannot be counted: %s", name, error)
                continue
            finally:
                took_s = self._clock() - started_s
                self._due_s[name] = self._clock() + max(_RECOUNT_S, _RECOUNT_COST * took_s)
            with self._lock:
                self._counts[name] = count
            self._seen[name] = modified_ns


class Keeper:
    """Looks at the volume again and again; `finding` is the newest look, and safe to read from any thread."""

    def __init__(self, layout: Layout, classes: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._classes = classes
        self._clock = clock
        self._counter = Counter(layout, clock)
        self.usage = Usage(layout, clock)
        self._problems: tuple[str, ...] = ()
        self._models: tuple[FoundModel, ...] = ()
        self._checked_s = float("-inf")
        self._turned_s = clock()
        self._reported: Finding | None = None
        self._reported_s = float("-inf")
        self.finding: Finding | None = None

    @property
    def alive(self) -> bool:
        """Whether the volume answered lately."""
        return self._clock() - self._turned_s < _STALLED_S

    def look(self) -> Finding | None:
        """One turn: the finding to report, or None when nobody would act on it yet."""
        now = self._clock()
        if now - self._checked_s >= _CHECK_S or self._problems:
            self._check()
            self._checked_s = now
        self.finding = self._find()
        self._turned_s = self._clock()
        if self._reported is None or now - self._reported_s >= _CHECK_S or self.finding.differs(self._reported):
            self._reported, self._reported_s = self.finding, now
            return self.finding
        return None

    def _check(self) -> None:
        problems = tuple(dict.fromkeys(make_tree(self._layout, self._classes) + check_tree(self._layout)))
        if problems != self._problems:
            for problem in problems:
                log.warning("%s", problem)
            if not problems:
                log.info("the directory tree is in order again")
        self._problems = problems
        self._models = found_models(self._layout)

    def _find(self) -> Finding:
        try:
            self._counter.poll()
            self.usage.poll(image_directories(self._layout))
            if self.finding is None:
                self._counter.wait(_FIRST_COUNT_S)
            return Finding(
                base_models=base_models(self._layout),
                images=self._counter.counts,
                space=space(self._layout),
                problems=self._problems,
                classes_present=self._layout.classes.is_file(),
                models=self._models,
            )
        except OSError as error:
            problem = f"the volume cannot be read ({error.strerror}); check the node's disk and its logs"
            return Finding(problems=(problem,))


class VolumeCollector(Collector):
    """What /metrics says."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def collect(self) -> Iterable[Metric]:
        found = self._keeper.finding
        if found is None:
            return
        volume = found.space
        yield GaugeMetricFamily("azaion_storage_capacity_bytes", "Size of the data volume.", volume.capacity_bytes)
        yield GaugeMetricFamily("azaion_storage_available_bytes", "Free on the data volume.", volume.available_bytes)
        yield GaugeMetricFamily("azaion_storage_problems", "What is wrong with the tree.", len(found.problems))
        images = GaugeMetricFamily("azaion_storage_images", "Images per data directory.", labels=["directory"])
        for name, count in found.images:
            images.add_metric([name], count)
        yield images
        used = GaugeMetricFamily(
            "azaion_storage_used_bytes",
            "Bytes on disk by top directory; a file of datasets/ that is also elsewhere counts elsewhere.",
            labels=["directory"],
        )
        for name, used_bytes in self._keeper.usage.bytes_by_directory.items():
            used.add_metric([name], used_bytes)
        yield used


def http_server(keeper: Keeper, port: int) -> PageServer:
    """/livez: the volume answers. /readyz: the tree was made or checked. /metrics. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(VolumeCollector(keeper))
    return PageServer(
        port,
        {
            "/livez": lambda: probe(None if keeper.alive else "the volume has not answered for two minutes"),
            "/readyz": lambda: probe(None if keeper.finding is not None else "the directory tree is being looked at"),
            "/metrics": lambda: Answer(generate_latest(registry), content_type=METRICS_TYPE),
        },
    )


def keep(keeper: Keeper, reporter: Reporter, pod_uid: str, stop: threading.Event) -> None:
    """Look and report until `stop` is set."""
    while not stop.is_set():
        finding = keeper.look()
        if finding is not None:
            reporter.send(finding.report(pod_uid, reporter.next_sequence()))
        stop.wait(_POLL_S)


@dataclass(frozen=True)
class _Settings:
    """What the chart tells the storage pod."""

    pod_uid: str
    log_level: str
    http_port: int


def _read_settings(values: Mapping[str, str]) -> _Settings:
    port = values.get(_HTTP_PORT_VARIABLE) or "8080"
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{_HTTP_PORT_VARIABLE} is {port!r}, it has to be a port number")
    return _Settings(values.get(POD_UID_VARIABLE, ""), values.get(LOG_LEVEL_VARIABLE) or "INFO", int(port))


def main() -> int:
    """Run until SIGTERM; 0 then, 1 with a logged sentence when it cannot start."""
    logs.configure("azaion-storage")
    try:
        settings = _read_settings(os.environ)
        logs.configure("azaion-storage", settings.log_level)
    except ValueError as error:
        log.error("the storage pod cannot start: %s", error)
        return 1
    os.umask(0o002)
    stop = stop_event()
    keeper = Keeper(Layout(Path(MOUNT_PATH)), _CLASSES)
    try:
        server = http_server(keeper, settings.http_port)
    except OSError as error:
        log.error("the storage pod cannot listen at port %d: %s", settings.http_port, error)
        return 1
    reporter = Reporter(sink_for(STORAGE_REPORT, STORAGE_REPORT_KEY))
    log.info("keeping %s", MOUNT_PATH)
    keep(keeper, reporter, settings.pod_uid, stop)
    reporter.close(timeout_s=5.0)
    server.close()
    return 0
