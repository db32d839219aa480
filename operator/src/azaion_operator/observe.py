"""From the cache to the snapshot that one reconcile plans from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from azaion_api.machine import Machine
from azaion_api.names import JobStage, Kind, ingest_deployment, ingest_report, line_report, run_report
from azaion_api.report import FoundModel
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_api.training_run import FINISHED_PHASES, PromotionDecision
from azaion_operator.cache import Cache, Key
from azaion_operator.device_queue import Entry, Turn
from azaion_operator.objects import Broken, Reports
from azaion_operator.plan_ingest import rival
from azaion_operator.plan_run import queue_entry
from azaion_operator.settings import PodSettings
from azaion_operator.specs.metadata import LABEL_RUN_UID
from azaion_operator.status_run import is_done
from azaion_operator.view import IngestView, LineView, RunView

_NO_TURN = Turn(go=False)
#: On every pod of a Job, by the Job controller.
_LABEL_JOB = "batch.kubernetes.io/job-name"


class Observer:
    """Snapshots of the cache."""

    def __init__(
        self,
        cache: Cache,
        settings: PodSettings,
        gpu_celsius: Callable[[], float | None] = lambda: None,
        machine: Machine | None = None,
    ) -> None:
        self._cache = cache
        self._gpu_celsius = gpu_celsius
        self._settings = settings
        self._machine = machine
        self._entries: dict[str, tuple[object, Entry]] = {}

    def run(self, run: TrainingRun, turn: Turn = _NO_TURN) -> RunView:
        """A run and everything made for it."""
        key = Key(Kind.TRAINING_RUN, run.metadata.name)
        jobs = self._cache.jobs.owned(key)
        own = tuple(job for job in jobs if job.metadata.owned_by(run.metadata.uid))
        reports = _owned(self._cache.reports.get(run_report(run.metadata.name)), run.metadata.uid)
        return RunView(
            run=run,
            settings=self._settings,
            turn=turn,
            jobs=own,
            pods=tuple(
                pod for pod in self._cache.pods.owned(key) if pod.metadata.labels.get(LABEL_RUN_UID) == run.metadata.uid
            ),
            leftover_jobs=frozenset(job.metadata.name for job in jobs) - {job.metadata.name for job in own},
            reports=reports.by_pod if reports else {},
            has_report_map=reports is not None,
            gpu_celsius=self._gpu_celsius(),
            line=self.line_named(run.spec.line_ref.name),
            # Looked up where it is used: at the release of a run.
            next_iteration=self._next_iteration(run) if turn.confirmed else 0,
            storage=self._cache.storage,
            machine=self._machine,
            publishes_first=self._publishes_first(run) if run.status.start_time is not None else None,
        )

    def ingest(self, ingest: AnnotationIngest) -> IngestView:
        """An ingest and everything made for it."""
        name = ingest.metadata.name
        deployment = self._cache.deployments.get(ingest_deployment(name))
        reports = _owned(self._cache.reports.get(ingest_report(name)), ingest.metadata.uid)
        others = tuple(i for i in self._cache.ingests if isinstance(i, AnnotationIngest))
        return IngestView(
            ingest=ingest,
            settings=self._settings,
            deployment=deployment if deployment and deployment.metadata.owned_by(ingest.metadata.uid) else None,
            pods=self._cache.pods.owned(Key(Kind.ANNOTATION_INGEST, name)),
            report=reports.ingest if reports else None,
            has_report_map=reports is not None,
            rival=rival(ingest, others, self._settings.claim),
        )

    def line(self, line: ModelLine) -> LineView:
        """A line and the runs that train for it."""
        key = Key(Kind.MODEL_LINE, line.metadata.name)
        reports = _owned(self._cache.reports.get(line_report(line.metadata.name)), line.metadata.uid)
        jobs = tuple(job for job in self._cache.jobs.owned(key) if job.metadata.owned_by(line.metadata.uid))
        names = {job.metadata.name for job in jobs}
        return LineView(
            line=line,
            settings=self._settings,
            runs=tuple(self._runs_of(line.metadata.name)),
            jobs=jobs,
            pods=tuple(pod for pod in self._cache.pods.owned(key) if pod.metadata.labels.get(_LABEL_JOB) in names),
            report=reports.line if reports else None,
            images=dict(self._cache.storage.images) if self._cache.storage is not None else {},
            unfinished=tuple(self._cache.unfinished_runs()),
            found=self._found_models(line),
        )

    def _found_models(self, line: ModelLine) -> tuple[FoundModel, ...]:
        """Of the claim the storage pod looks at; nobody looks at another one."""
        where, storage = line.spec.storage, self._cache.storage
        if storage is None or where.sub_path is not None or where.claim_name not in (None, self._settings.claim):
            return ()
        return tuple(model for model in storage.models if model.line == line.metadata.name)

    def line_named(self, name: str) -> ModelLine | None:
        found = self._cache.lines.get(name)
        return None if isinstance(found, Broken) else found

    def entries(self) -> Iterator[Entry]:
        """Every unfinished run as the queue sees it; computed anew only for runs that changed."""
        kept: dict[str, tuple[object, Entry]] = {}
        for run in self._cache.unfinished_runs():
            name = run.metadata.name
            jobs = self._cache.jobs.count_owned(Key(Kind.TRAINING_RUN, name))
            basis = (run.metadata.resource_version, jobs, self._cache.lines.revision, self._cache.storage_revision)
            known = self._entries.get(name)
            if known is None or known[0] != basis:
                known = (basis, queue_entry(self.run(run)))
            kept[name] = known
            yield known[1]
        self._entries = kept

    def _next_iteration(self, run: TrainingRun) -> int:
        name = run.spec.line_ref.name
        line = self.line_named(name)
        taken = (line.status.iteration if line else 0, *(r.status.iteration or 0 for r in self._runs_of(name)))
        return max(*taken, self._cache.iterations.get(name, 0)) + 1

    def _publishes_first(self, run: TrainingRun) -> str | None:
        """Models of a line are published one after another, in the order of their runs' release."""
        mine = (run.status.start_time, run.metadata.name) if publishes(run) else None
        for other in self._runs_of(run.spec.line_ref.name):
            if other.metadata.uid == run.metadata.uid or not publishes(other):
                continue
            theirs = (other.status.start_time, other.metadata.name)
            if (
                mine is None
                or theirs[0] is None
                or (mine[0] is not None and (theirs[0], theirs[1]) < (mine[0], mine[1]))
            ):
                return other.metadata.name
        return None

    def _runs_of(self, line: str) -> Iterator[TrainingRun]:
        for run in self._cache.runs:
            if isinstance(run, TrainingRun) and run.spec.line_ref.name == line:
                yield run


def publishes(run: TrainingRun) -> bool:
    """Whether the run's model was promoted and is not in place yet."""
    status = run.status
    promoted = status.promotion is not None and status.promotion.decision is PromotionDecision.PROMOTED
    return promoted and status.phase not in FINISHED_PHASES and not is_done(status, JobStage.PUBLISH)


def _owned(reports: Reports | None, uid: str) -> Reports | None:
    return reports if reports is not None and reports.metadata.owned_by(uid) else None
