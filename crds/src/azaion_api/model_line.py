"""ModelLine: which model is current, and what came before it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from azaion_api.conditions import Conditions, Resource
from azaion_api.schema import sentence
from azaion_api.training_run import FILE_NAME, Decimal


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
    message: Annotated[str, Meta(max_length=1024, description="One sentence for people.")] = ""
    observed_generation: (
        Annotated[int, Meta(description="The metadata.generation this status was decided for.")] | None
    ) = None
    conditions: Conditions = ()


#: Condition types of a ModelLine.
LINE_CONDITIONS = ("Ready",)
