"""Conditions as the Kubernetes API conventions define them, and the resource parts every kind shares."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from azaion_api.schema import Rule, sentence


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every part of a resource: immutable, camelCase on the wire."""


class ConditionStatus(enum.StrEnum):
    """Unknown means: not decided yet."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Resource, frozen=True, kw_only=True):
    """One condition; the list is keyed by type."""

    type: Annotated[
        str,
        Meta(min_length=1, max_length=64, pattern="^[A-Z][A-Za-z]*$", description="CamelCase name of the condition."),
    ]
    status: Annotated[ConditionStatus, Meta(description="True, False or Unknown.")]
    reason: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            pattern="^[A-Z][A-Za-z0-9]*$",
            description="One CamelCase word for the last transition.",
        ),
    ]
    message: Annotated[str, Meta(max_length=1024, description="One sentence for people.")] = ""
    last_transition_time: Annotated[datetime, Meta(description="When the status last changed.")]
    observed_generation: (
        Annotated[int, Meta(description="The metadata.generation this condition was decided for.")] | None
    ) = None


CONDITIONS_SCHEMA = {
    "description": "What is known of the resource, one entry per type.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}
Conditions = Annotated[tuple[Condition, ...], Meta(max_length=16, extra_json_schema=CONDITIONS_SCHEMA)]


def find_condition(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == type_), None)


def set_condition(conditions: tuple[Condition, ...], wanted: Condition) -> tuple[Condition, ...]:
    """The list with `wanted` in place of its type's entry.

    The transition time moves only when the status flips, so a message may change without looking like an event.
    """
    found = find_condition(conditions, wanted.type)
    if found is None:
        return (*conditions, wanted)
    if found.status == wanted.status:
        wanted = msgspec.structs.replace(wanted, last_transition_time=found.last_transition_time)
    return tuple(wanted if c.type == wanted.type else c for c in conditions)


class StorageClaim(Resource, frozen=True, kw_only=True):
    """Where the directory tree lies; empty means the claim the chart made or adopted."""

    claim_name: (
        Annotated[
            str,
            Meta(
                max_length=253,
                pattern="^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
                description="PersistentVolumeClaim; the chart's claim when empty.",
                extra_json_schema=sentence("name a PersistentVolumeClaim: lower-case letters, digits, - and ."),
            ),
        ]
        | None
    ) = None
    sub_path: (
        Annotated[
            str,
            Meta(
                max_length=200,
                pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
                description="Directory inside the claim that holds data*/, datasets/, models/ and runs/; the claim's top when empty.",
                extra_json_schema=sentence(
                    "name a directory inside the claim, for example team/azaion: no leading /, no .., no hidden directories"
                ),
            ),
        ]
        | None
    ) = None


Quantity = Annotated[
    str | int,
    Meta(
        extra_json_schema={
            **sentence("is no quantity; give one such as 500m, 4 or 8Gi"),
            "maxLength": 64,
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        }
    ),
]


class Toleration(Resource, frozen=True, kw_only=True):
    """A taint the pods tolerate; the meaning is core/v1's."""

    key: (
        Annotated[str, Meta(max_length=316, description="Taint key; empty with operator Exists matches all.")] | None
    ) = None
    operator: (
        Annotated[
            str,
            Meta(
                max_length=16,
                pattern="^(Exists|Equal)$",
                description="Exists or Equal.",
                extra_json_schema=sentence("use Exists or Equal"),
            ),
        ]
        | None
    ) = None
    value: Annotated[str, Meta(max_length=63, description="Taint value for Equal.")] | None = None
    effect: (
        Annotated[
            str,
            Meta(
                max_length=32,
                pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$",
                description="Effect to match; empty matches all.",
                extra_json_schema=sentence("use NoSchedule, PreferNoSchedule or NoExecute"),
            ),
        ]
        | None
    ) = None
    toleration_seconds: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=315360000,
                description="How long a NoExecute taint is tolerated, in seconds; for ever when empty.",
            ),
        ]
        | None
    ) = None


class Resources(Resource, frozen=True, kw_only=True):
    """Compute resources of a pod's container; the meaning is core/v1's ResourceRequirements."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule=" || ".join(
                f"(has(self.{part}) && self.{part}.exists(k, k == 'cpu' || k == 'memory'))"
                for part in ("requests", "limits")
            ),
            message="name cpu or memory in requests or limits, or leave resources out for the defaults; "
            "a pod with neither is the first to be killed when memory is short",
        ),
    )

    requests: Annotated[dict[str, Quantity], Meta(max_length=16, description="What the scheduler sets aside.")] = (
        msgspec.field(default_factory=dict)
    )
    limits: Annotated[dict[str, Quantity], Meta(max_length=16, description="What the container may not exceed.")] = (
        msgspec.field(default_factory=dict)
    )
