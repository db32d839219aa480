"""What the watches have shown of our objects, replaced by a full LIST now and then.

Filled from one event loop only; readers never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from azaion_api.health import HEALTH_REPORT, HEALTH_REPORT_KEY, HealthReport, parse_health_report
from azaion_api.layout import needed_free_bytes
from azaion_api.names import (
    LABEL_DEVICE,
    LABEL_INGEST,
    LABEL_LINE,
    LABEL_RUN,
    STORAGE_REPORT,
    STORAGE_REPORT_KEY,
    Kind,
)
from azaion_api.report import StorageReport, parse_storage_report
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_api.training_run import FINISHED_PHASES, Phase
from azaion_operator.objects import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    INGESTS,
    JOBS,
    LINES,
    PODS,
    RUNS,
    TYPES,
    Broken,
    ConfigMap,
    Deployment,
    Job,
    Pod,
    RawObject,
    Reports,
    ResourceType,
    parse,
    read_reports,
)

EPOCH = datetime.fromtimestamp(0, UTC)
#: Deleted objects are remembered by UID: a LIST or the answer to a write may be older than a deletion seen meanwhile.
MAX_TOMBSTONES = 20000


class Key(NamedTuple):
    """What is reconciled: one resource of ours."""

    kind: Kind
    name: str


class Named(Protocol):
    """What every cached object has."""

    @property
    def metadata(self) -> Any: ...


ItemT = TypeVar("ItemT", bound=Named)


class Table(Generic[ItemT]):
    """Objects of one type by name, and by the resource of ours they belong to."""

    def __init__(self) -> None:
        self._by_name: dict[str, ItemT] = {}
        self._by_owner: dict[Key, set[str]] = {}
        #: Grows with every change.
        self.revision = 0

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> ItemT | None:
        return self._by_name.get(name)

    def owned(self, owner: Key) -> tuple[ItemT, ...]:
        return tuple(self._by_name[name] for name in sorted(self._by_owner.get(owner, ())))

    def count_owned(self, owner: Key) -> int:
        return len(self._by_owner.get(owner, ()))

    def put(self, item: ItemT) -> bool:
        """Take the object unless the same or a newer state of it is known; whether anything changed."""
        name = item.metadata.name
        known = self._by_name.get(name)
        # The version of an object made anew under an old name is larger as well.
        if known is not None and version_number(item) <= version_number(known):
            return False
        self.drop(name)
        self._by_name[name] = item
        self.revision += 1
        if owner := owner_of(item):
            self._by_owner.setdefault(owner, set()).add(name)
        return True

    def drop(self, name: str) -> ItemT | None:
        item = self._by_name.pop(name, None)
        self.revision += 1
        if item is not None and (owner := owner_of(item)):
            names = self._by_owner[owner]
            names.discard(name)
            if not names:
                del self._by_owner[owner]
        return item


def version_number(item: Named) -> int:
    """Its resource version for comparison (KEP-5504: numbers that grow); 0 when it is no number."""
    return _number(item.metadata.resource_version)


def _number(resource_version: str) -> int:
    return int(resource_version) if resource_version.isdigit() else 0


def owner_of(item: Named) -> Key | None:
    """The resource of ours an object was made for, by its labels."""
    labels = item.metadata.labels
    if name := labels.get(LABEL_RUN):
        return Key(Kind.TRAINING_RUN, name)
    if name := labels.get(LABEL_INGEST):
        return Key(Kind.ANNOTATION_INGEST, name)
    if name := labels.get(LABEL_LINE):
        return Key(Kind.MODEL_LINE, name)
    return None


class Cache:
    """Everything of ours in the namespace. `mark` is told which keys have to be looked at again."""

    def __init__(self, mark: Callable[[Key], None]) -> None:
        self._mark = mark
        self.runs: Table[TrainingRun | Broken] = Table()
        self.ingests: Table[AnnotationIngest | Broken] = Table()
        self.lines: Table[ModelLine | Broken] = Table()
        self.jobs: Table[Job] = Table()
        self.pods: Table[Pod] = Table()
        self.reports: Table[Reports] = Table()
        self.deployments: Table[Deployment] = Table()
        #: By line, the highest number a run of it was seen with: a run may be deleted before its line has recorded it.
        self.iterations: dict[str, int] = {}
        self._tombstones: dict[str, None] = {}
        self.storage: StorageReport | None = None
        self._storage_version = 0
        self.storage_revision = 0
        #: The last health check, for the status page; no plan looks at it.
        self.health: HealthReport | None = None
        self._health_version = 0
        self._tables: dict[ResourceType, Table[Any]] = {
            RUNS: self.runs,
            INGESTS: self.ingests,
            LINES: self.lines,
            JOBS: self.jobs,
            PODS: self.pods,
            CONFIG_MAPS: self.reports,
            DEPLOYMENTS: self.deployments,
        }

    def observe(self, resource: ResourceType, raw: RawObject, *, deleted: bool = False) -> None:
        """Take what a watch, a LIST or the answer to a write showed."""
        item = parse(raw, TYPES[resource])
        if resource in (RUNS, INGESTS, LINES):
            self._take(resource, item, deleted)
        elif isinstance(item, ConfigMap) and item.metadata.name == STORAGE_REPORT:
            self._take_storage(item, deleted)
        elif isinstance(item, ConfigMap) and item.metadata.name == HEALTH_REPORT:
            self._take_health(item, deleted)
        elif isinstance(item, ConfigMap) and owner_of(item):
            self._take(resource, read_reports(item, self._known_reports(item)), deleted)
        elif isinstance(item, (Job, Pod, Deployment)) and owner_of(item):
            self._take(resource, item, deleted)

    def replace(
        self, resource: ResourceType, listed: Iterable[RawObject], version: str, *, device: bool = False
    ) -> int:
        """Make the cache what a full LIST showed, and say how many objects it had wrong.

        What is newer than the LIST stays. With `device` the LIST was of the Jobs or Pods at the device only.

        An object may be known by a later version than it has: kine, the store of k3s, answers a creation under the name
        of a deleted object with the version the whole store is at (0.17.5). No watch would mend that; the LIST does.
        """
        table = self._tables[resource]
        before = {item.metadata.name: item.metadata.resource_version for item in table}
        names, wrong = set(), 0
        for raw in listed:
            name, now = raw["metadata"]["name"], raw["metadata"]["resourceVersion"]
            names.add(name)
            known = before.get(name)
            if known == now:
                continue  # the same state of it is known: there is nothing to read
            if known is not None:
                mistaken = _number(now) < _number(known) <= _number(version)
                wrong += mistaken or _number(known) < _number(now)
                if mistaken:
                    table.drop(name)
            self.observe(resource, raw)
        if resource == CONFIG_MAPS and STORAGE_REPORT not in names:
            self._set_storage(None)
        if resource == CONFIG_MAPS and HEALTH_REPORT not in names:
            self.health = None
        for item in list(table):
            elsewhere = device and LABEL_DEVICE not in item.metadata.labels
            if elsewhere or item.metadata.name in names or getattr(item, "gone", False):
                continue
            if version_number(item) <= _number(version):
                wrong += 1
                self._take(resource, item, deleted=True)
        return wrong

    def _known_reports(self, item: ConfigMap) -> Reports | None:
        known = self.reports.get(item.metadata.name)
        return known if known is not None and known.metadata.uid == item.metadata.uid else None

    def revision(self) -> tuple[int, ...]:
        """Differs whenever something changed that the queue for the device depends on."""
        return (
            self.runs.revision, self.lines.revision, self.jobs.revision, self.pods.revision, self.storage_revision
        )  # fmt: skip

    def forget_gone_pods(self, owner: Key, but: Collection[str] = ()) -> None:
        """Their ends are recorded, but for those of these UIDs."""
        for pod in self.pods.owned(owner):
            if pod.gone and pod.metadata.uid not in but:
                self.pods.drop(pod.metadata.name)

    def _take(self, resource: ResourceType, item: Any, deleted: bool) -> None:
        table = self._tables[resource]
        if deleted:
            self._bury(item.metadata.uid)
            changed = self._remove(table, item)
        else:
            changed = item.metadata.uid not in self._tombstones and table.put(item)
        if changed:
            self._count(resource, item, deleted)
            for key in self._concerned(resource, item):
                self._mark(key)

    def _count(self, resource: ResourceType, item: Any, deleted: bool) -> None:
        """A line that is made again counts from one again."""
        if isinstance(item, TrainingRun) and item.status.iteration is not None:
            line = item.spec.line_ref.name
            self.iterations[line] = max(item.status.iteration, self.iterations.get(line, 0))
        elif resource == LINES and deleted:
            self.iterations.pop(item.metadata.name, None)

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = None
        while len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]

    def _remove(self, table: Table[Any], item: Any) -> bool:
        known = table.get(item.metadata.name)
        if known is None or known.metadata.uid != item.metadata.uid:
            return False
        table.drop(item.metadata.name)
        if isinstance(item, Pod) and LABEL_RUN in item.metadata.labels:
            # Its last state is all that tells how it ended; the run's status has to record that first.
            table.put(msgspec.structs.replace(item, gone=True))
        return True

    def _concerned(self, resource: ResourceType, item: Any) -> Iterator[Key]:
        """The object's own key or its owner's, and those of others whose plan looks at it."""
        name = item.metadata.name
        if resource == RUNS:
            yield Key(Kind.TRAINING_RUN, name)
            if isinstance(item, TrainingRun):
                yield Key(Kind.MODEL_LINE, item.spec.line_ref.name)
        elif resource == INGESTS:
            yield Key(Kind.ANNOTATION_INGEST, name)
            yield from (Key(Kind.ANNOTATION_INGEST, other.metadata.name) for other in self.ingests)
        elif resource == LINES:
            yield Key(Kind.MODEL_LINE, name)
            yield from (Key(Kind.TRAINING_RUN, run.metadata.name) for run in self.unfinished_runs(name))
        elif owner := owner_of(item):
            yield owner

    def unfinished_runs(self, line: str | None = None) -> Iterator[TrainingRun]:
        """Runs (of that line) that still have something to do."""
        for run in self.runs:
            if isinstance(run, Broken) or run.status.phase in FINISHED_PHASES:
                continue
            if line is None or run.spec.line_ref.name == line:
                yield run

    def _take_storage(self, item: ConfigMap, deleted: bool) -> None:
        if version_number(item) <= self._storage_version:
            return
        self._storage_version = version_number(item)
        self._set_storage(None if deleted else parse_storage_report(item.data.get(STORAGE_REPORT_KEY, "")))

    def _take_health(self, item: ConfigMap, deleted: bool) -> None:
        if version_number(item) > self._health_version:
            self._health_version = version_number(item)
            self.health = None if deleted else parse_health_report(item.data.get(HEALTH_REPORT_KEY, ""))

    def _set_storage(self, report: StorageReport | None) -> None:
        before, self.storage = self.storage, report
        if report == before:
            return
        self.storage_revision += 1
        if (report.models if report else ()) != (before.models if before else ()):
            for line in self.lines:
                self._mark(Key(Kind.MODEL_LINE, line.metadata.name))
        # The images are counted anew all the time; only a run that waits for more of them looks at the number.
        counts_only = before is not None and report is not None and _without_counts(before) == _without_counts(report)
        for run in self.unfinished_runs():
            if not counts_only or run.status.phase in (None, Phase.PENDING):
                self._mark(Key(Kind.TRAINING_RUN, run.metadata.name))


def _without_counts(report: StorageReport) -> StorageReport:
    """What matters to a run that waits for something else than images; of the free space, whether it suffices."""
    enough = int(report.available_bytes >= needed_free_bytes(report.capacity_bytes))
    return msgspec.structs.replace(
        report, images={}, sequence=1, time=EPOCH, capacity_bytes=report.capacity_bytes, available_bytes=enough
    )
