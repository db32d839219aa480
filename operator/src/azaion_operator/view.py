"""What one reconcile looks at: a snapshot of a resource of ours and of everything made for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from azaion_api.machine import Machine
from azaion_api.report import FoundModel, IngestReport, LineReport, RunReport, StorageReport
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_operator.device_queue import Turn
from azaion_operator.objects import Deployment, Job, Pod
from azaion_operator.settings import PodSettings


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A TrainingRun."""

    run: TrainingRun
    settings: PodSettings
    turn: Turn
    #: Jobs and pods of this very run, not of an earlier one of its name.
    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    #: Names of Jobs left over from an earlier run of this name.
    leftover_jobs: frozenset[str] = frozenset()
    #: The newest report of each pod, by its UID.
    reports: dict[str, RunReport] = field(default_factory=dict)
    has_report_map: bool = False
    #: The GPU's temperature; None where nobody reads it.
    gpu_celsius: float | None = None
    #: Why the API server takes no Job of this spec, in its own words; empty while nothing was refused.
    refused: str = ""
    line: ModelLine | None = None
    #: Number of the line's next training, with a confirmed turn.
    next_iteration: int = 0
    storage: StorageReport | None = None
    machine: Machine | None = None
    #: Another run of the line that publishes before this one may be judged or published.
    publishes_first: str | None = None


@dataclass(frozen=True, kw_only=True)
class IngestView:
    """An AnnotationIngest."""

    ingest: AnnotationIngest
    settings: PodSettings
    deployment: Deployment | None = None
    pods: tuple[Pod, ...] = ()
    report: IngestReport | None = None
    has_report_map: bool = False
    #: Name of an older ingest that files into the same directories.
    rival: str | None = None


@dataclass(frozen=True, kw_only=True)
class LineView:
    """A ModelLine."""

    line: ModelLine
    settings: PodSettings
    #: The runs that train for it.
    runs: tuple[TrainingRun, ...] = ()
    #: Jobs and pods of this very line, not of an earlier one of its name.
    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    report: LineReport | None = None
    #: Images per data directory, as far as the storage pod has told.
    images: dict[str, int] = field(default_factory=dict)
    #: Runs of any line that have not finished: what they use stays on the volume.
    unfinished: tuple[TrainingRun, ...] = ()
    #: Models of the line with a card, as the storage pod found them on the volume.
    found: tuple[FoundModel, ...] = ()
