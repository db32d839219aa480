"""ModelLine: which model is current, and what came before it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from azaion_api.conditions import Conditions, Resource, StorageClaim
from azaion_api.names import LineAction
from azaion_api.outcome import AttemptReason
from azaion_api.schema import Frozen, Rule, sentence
from azaion_api.training_run import FILE_NAME, Decimal, Model, TrainingRunSpec


class Keep(Resource, frozen=True, kw_only=True):
    """How much of one kind is kept: the newest `count`, and of the others what is younger than `maxAgeDays`."""

    count: (
        Annotated[int, Meta(ge=1, le=10000, description="The newest so many are always kept; all for ever when empty.")]
        | None
    ) = None
    max_age_days: Annotated[
        int, Meta(ge=0, le=36500, description="Of the others, those older than this many days are removed.")
    ] = 0


class Retention(Resource, frozen=True, kw_only=True):
    """What is removed from the volume in time; nothing by default."""

    models: Annotated[Keep, Meta(description="Directories of models/ of this line.")] = msgspec.field(
        default_factory=Keep
    )
    runs: Annotated[Keep, Meta(description="Directories of runs/ whose model was judged for this line.")] = (
        msgspec.field(default_factory=Keep)
    )
    datasets: Annotated[Keep, Meta(description="Data sets that runs of this line have formed.")] = msgspec.field(
        default_factory=Keep
    )
    dry_run: Annotated[bool, Meta(description="Removes nothing; status.retention shows what would go.")] = False

    @property
    def removes(self) -> bool:
        """Whether there is anything to do."""
        return any(keep.count is not None for keep in (self.models, self.runs, self.datasets))


class RunTemplate(TrainingRunSpec, frozen=True, kw_only=True):
    """What each run of the line trains. lineRef is the line's own."""

    RULES: ClassVar[tuple[Rule, ...]] = tuple(rule for rule in TrainingRunSpec.RULES if "oldSelf" not in rule.rule)
    FROZEN: ClassVar[tuple[Frozen, ...]] = ()

    model: Annotated[
        Model, Meta(description="What training starts from; the line's current model if nothing else.")
    ] = msgspec.field(default_factory=lambda: Model(base="Current"))


class Retrain(Resource, frozen=True, kw_only=True):
    """When a new run is made by itself; never without schedule or newImages, and never while one is unfinished."""

    schedule: (
        Annotated[
            str,
            Meta(
                max_length=100,
                pattern=r"^[0-9A-Za-z*,/#?LW-]+( +[0-9A-Za-z*,/#?LW-]+){4}$",
                description="Minute, hour, day, month and weekday as cron has them, for example 0 3 * * 6.",
                extra_json_schema=sentence("give five fields as cron has them, for example 0 3 * * 6"),
            ),
        ]
        | None
    ) = None
    time_zone: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
            description="Time zone of the schedule, for example Europe/Kyiv.",
            extra_json_schema=sentence("name a time zone, for example UTC or Europe/Kyiv"),
        ),
    ] = "UTC"
    new_images: (
        Annotated[
            int,
            Meta(ge=1, le=100000000, description="Also when the template's dataset.source holds so many more images."),
        ]
        | None
    ) = None
    template: Annotated[RunTemplate, Meta(description="What is trained.")] = msgspec.field(default_factory=RunTemplate)


class RetrainStatus(Resource, frozen=True, kw_only=True):
    """What retraining did last and does next."""

    checked: Annotated[datetime, Meta(description="Ticks of the schedule up to here are dealt with.")]
    next_time: Annotated[datetime, Meta(description="The schedule's next tick.")] | None = None
    images: (
        Annotated[int, Meta(description="Images of the source when a run was made last; newImages counts from here.")]
        | None
    ) = None
    last_run: Annotated[str, Meta(max_length=63, description="Run made last.")] | None = None
    making: Annotated[str, Meta(max_length=63, description="Run that is about to be made.")] | None = None
    message: Annotated[str, Meta(max_length=1024, description="One sentence for people.")] = ""


class ModelLineSpec(Resource, frozen=True, kw_only=True):
    """A line of models that replace one another."""

    description: Annotated[str, Meta(max_length=512, description="What the line is for, for people.")] | None = None
    pinned_model: (
        Annotated[
            str,
            Meta(
                max_length=128,
                pattern=rf"^{FILE_NAME}$",
                description="Directory of models/ that is current as long as this is set, for example azaion-2026-11-22: "
                "goes back to it at once, and later runs are judged but not promoted.",
                extra_json_schema=sentence("name a directory of models/, for example azaion-2026-11-22; no path"),
            ),
        ]
        | None
    ) = None
    retention: Annotated[Retention, Meta(description="What is removed from the volume in time.")] = msgspec.field(
        default_factory=Retention
    )
    retrain: Annotated[Retrain, Meta(description="When a new run is made by itself.")] = msgspec.field(
        default_factory=Retrain
    )
    storage: Annotated[StorageClaim, Meta(description="Where the line's models lie.")] = msgspec.field(
        default_factory=StorageClaim
    )


class RetentionStatus(Resource, frozen=True, kw_only=True):
    """What the newest pass over the volume removed, or would remove."""

    time: Annotated[datetime, Meta(description="When it looked.")]
    dry_run: Annotated[bool, Meta(description="Nothing was removed.")] = False
    removed: Annotated[
        tuple[Annotated[str, Meta(max_length=256)], ...],
        Meta(
            max_length=50,
            description="Directories that went, or with dryRun would go; the first 50.",
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ] = ()
    count: Annotated[int, Meta(description="How many directories went, or would go.")] = 0
    freed_bytes: Annotated[int, Meta(description="Space their files had to themselves, in bytes.")] = 0
    kept: Annotated[int, Meta(description="Directories looked at and kept.")] = 0


class LineWork(Resource, frozen=True, kw_only=True):
    """The newest Job of the line."""

    action: Annotated[LineAction, Meta(description="switch makes another model current, retain removes what is old.")]
    number: Annotated[int, Meta(description="Number of the Job, from 1.")]
    generation: Annotated[int, Meta(description="The metadata.generation it was made for.")] = 0
    model: Annotated[str, Meta(max_length=128, description="Model to make current.")] | None = None
    started: Annotated[datetime, Meta(description="When it was made.")] | None = None
    ended: Annotated[datetime, Meta(description="When it ended; empty while it runs.")] | None = None
    reason: Annotated[AttemptReason, Meta(description="Why it ended.")] | None = None
    message: Annotated[str, Meta(max_length=1024, description="Its last word.")] = ""
    failures: Annotated[int, Meta(description="How many Jobs for the same have failed in a row.")] = 0


class ModelRecord(Resource, frozen=True, kw_only=True):
    """One published model."""

    name: Annotated[
        str, Meta(max_length=128, description="Its directory under models/, for example azaion-2026-11-22.")
    ]
    path: Annotated[str, Meta(max_length=512, description="The .pt relative to the storage root.")]
    sha256: Annotated[str, Meta(max_length=64, description="Digest of the .pt.")]
    run: Annotated[str, Meta(max_length=63, description="TrainingRun that made it.")]
    run_uid: Annotated[str, Meta(max_length=64, description="UID of that TrainingRun.")]
    time: Annotated[datetime, Meta(description="When it became current.")]
    map50: Annotated[Decimal, Meta(description="Test mAP50 when it was judged.")] | None = None
    map50to95: Annotated[Decimal, Meta(description="Test mAP50-95 when it was judged.")] | None = None


class ModelLineStatus(Resource, frozen=True, kw_only=True):
    """Which model is current and what came before it; written by the operator alone."""

    current: Annotated[ModelRecord, Meta(description="The model models/<line>.pt points to.")] | None = None
    previous: Annotated[ModelRecord, Meta(description="The model before it.")] | None = None
    history: Annotated[
        tuple[ModelRecord, ...],
        Meta(
            max_length=50,
            description="The newest 50 published models, newest first.",
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ] = ()
    iteration: Annotated[int, Meta(description="Trainings of this line that were released so far.")] = 0
    work: Annotated[LineWork, Meta(description="The newest Job of the line: a switch or a retention.")] | None = None
    retention: Annotated[RetentionStatus, Meta(description="What retention removed, or would.")] | None = None
    retrain: Annotated[RetrainStatus, Meta(description="What retraining did and does next.")] | None = None
    message: Annotated[str, Meta(max_length=1024, description="One sentence for people.")] = ""
    observed_generation: (
        Annotated[int, Meta(description="The metadata.generation this status was decided for.")] | None
    ) = None
    conditions: Conditions = ()


#: Condition types of a ModelLine.
LINE_CONDITIONS = ("Ready",)
