"""AnnotationIngest: reads annotations from a RabbitMQ stream and files them on disk."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from azaion_api.conditions import Conditions, Resource, Resources, StorageClaim
from azaion_api.schema import Frozen, Rule, sentence

#: Directories of the tree that hold something else than filed annotations.
_TAKEN = ("data-corrupted", "data-rejected", "datasets", "models", "runs")
_DIRECTORY = "^[A-Za-z0-9][A-Za-z0-9_-]*$"
_DIRECTORY_SENTENCE = sentence(
    "name a directory at the top of the storage, for example data: letters, digits, - and _, no path"
)
_SECRET = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"  # noqa: S105 - the pattern of a Secret's name


class StartFromType(enum.StrEnum):
    """Where an ingest without a stored offset begins."""

    FIRST = "First"
    NEXT = "Next"
    TIMESTAMP = "Timestamp"
    OFFSET = "Offset"


class OnMissingOffsets(enum.StrEnum):
    """What an ingest does when messages are gone from the stream before it filed them."""

    STOP = "Stop"
    CONTINUE = "Continue"


class StartFrom(Resource, frozen=True, kw_only=True):
    """Where reading begins when no offset is stored yet."""

    type: Annotated[
        StartFromType, Meta(description="First (oldest message), Next (only new ones), Timestamp or Offset.")
    ] = StartFromType.FIRST
    timestamp: Annotated[datetime, Meta(description="With type Timestamp: the oldest message wanted.")] | None = None
    #: The largest whole number that every JSON reader keeps exact.
    offset: (
        Annotated[int, Meta(ge=0, le=9007199254740991, description="With type Offset: the first offset wanted.")] | None
    ) = None


class SecretRef(Resource, frozen=True, kw_only=True):
    """A Secret of this namespace."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=253,
            pattern=_SECRET,
            description="Name of the Secret.",
            extra_json_schema=sentence("name a Secret: lower-case letters, digits, - and ."),
        ),
    ] = "azaion-rabbitmq"


class Tls(Resource, frozen=True, kw_only=True):
    """Encryption of the connection to the broker."""

    enabled: Annotated[bool, Meta(description="True connects with TLS.")] = False
    ca_secret_name: (
        Annotated[
            str,
            Meta(
                max_length=253,
                pattern=_SECRET,
                description="Secret whose key ca.crt holds the private CA; the system's authorities when empty.",
                extra_json_schema=sentence("name a Secret: lower-case letters, digits, - and ."),
            ),
        ]
        | None
    ) = None


class Stream(Resource, frozen=True, kw_only=True):
    """The stream and how to reach it."""

    host: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=253,
            pattern="^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$",
            description="Host name or IPv4 address of the broker, without the port.",
            extra_json_schema=sentence(
                "give a host name or IPv4 address alone, without scheme, port or path, for example rabbitmq.queue.svc"
            ),
        ),
    ] = "rabbitmq"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port of the stream protocol.")] = 5552
    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            pattern="^[^/\\x00-\\x1f]+$",
            description="Name of the stream.",
            extra_json_schema=sentence("name a stream: no / and no control characters"),
        ),
    ] = "azaion-annotations"
    virtual_host: Annotated[str, Meta(min_length=1, max_length=255, description="RabbitMQ virtual host.")] = "/"
    tls: Annotated[Tls, Meta(description="Encryption of the connection.")] = msgspec.field(default_factory=Tls)
    credentials_secret_ref: Annotated[SecretRef, Meta(description="Secret with the keys username and password.")] = (
        msgspec.field(default_factory=SecretRef)
    )
    start_from: Annotated[StartFrom, Meta(description="Where reading begins when no offset is stored yet.")] = (
        msgspec.field(default_factory=StartFrom)
    )
    on_missing_offsets: Annotated[
        OnMissingOffsets,
        Meta(
            description="When messages are gone from the stream before they were filed, or the stream was deleted and "
            "made again: Stop (name the missing offsets and wait) or Continue (go on with the oldest message there is)."
        ),
    ] = OnMissingOffsets.STOP


class IngestStorage(StorageClaim, frozen=True, kw_only=True):
    """The claim and the directories annotations are filed in."""

    data: Annotated[
        str,
        Meta(
            max_length=63,
            pattern=_DIRECTORY,
            description="Directory of validated annotations.",
            extra_json_schema=_DIRECTORY_SENTENCE,
        ),
    ] = "data"
    data_seed: Annotated[
        str,
        Meta(
            max_length=63,
            pattern=_DIRECTORY,
            description="Directory of annotations not validated yet.",
            extra_json_schema=_DIRECTORY_SENTENCE,
        ),
    ] = "data-seed"
    data_deleted: Annotated[
        str,
        Meta(
            max_length=63,
            pattern=_DIRECTORY,
            description="Directory of deleted annotations.",
            extra_json_schema=_DIRECTORY_SENTENCE,
        ),
    ] = "data_deleted"


class AnnotationIngestSpec(Resource, frozen=True, kw_only=True):
    """Which stream is filed where."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            at="storage",
            rule="!has(self.data) || (self.data != self.dataSeed && self.data != self.dataDeleted && self.dataSeed != self.dataDeleted)",
            message="data, dataSeed and dataDeleted have to be three different directories",
        ),
        *(
            Rule(
                at=f"storage.{name}",
                rule=f"!(self in {list(_TAKEN)})",
                message=f"this directory belongs to another part of the system ({', '.join(_TAKEN)} are taken); choose another name",
            )
            for name in ("data", "dataSeed", "dataDeleted")
        ),
        Rule(
            at="stream.startFrom",
            rule="!has(self.type) || self.type != 'Timestamp' || has(self.timestamp)",
            field_path=".timestamp",
            message="type Timestamp needs a time, for example 2026-01-31T00:00:00Z",
            reason="FieldValueRequired",
        ),
        Rule(
            at="stream.startFrom",
            rule="!has(self.type) || self.type != 'Offset' || has(self.offset)",
            field_path=".offset",
            message="type Offset needs the first offset wanted, for example 0",
            reason="FieldValueRequired",
        ),
        Rule(
            at="stream.startFrom",
            rule="!has(self.timestamp) || self.type == 'Timestamp'",
            field_path=".timestamp",
            message="a timestamp has an effect with type Timestamp only; set type: Timestamp or leave it out",
            reason="FieldValueForbidden",
        ),
        Rule(
            at="stream.startFrom",
            rule="!has(self.offset) || self.type == 'Offset'",
            field_path=".offset",
            message="an offset has an effect with type Offset only; set type: Offset or leave it out",
            reason="FieldValueForbidden",
        ),
        Rule(
            at="stream.tls",
            rule="!has(self.caSecretName) || self.enabled",
            field_path=".caSecretName",
            message="a private CA has an effect with TLS only; set enabled: true beside it or leave it out",
            reason="FieldValueForbidden",
        ),
    )
    FROZEN: ClassVar[tuple[Frozen, ...]] = (
        Frozen(
            ("storage",),
            "cannot change after creation: the stored offset belongs to these directories; make a new AnnotationIngest",
        ),
        Frozen(
            ("stream.name", "stream.virtualHost"),
            "cannot change after creation: the stored offset belongs to this stream; make a new AnnotationIngest",
        ),
    )

    stream: Annotated[Stream, Meta(description="The stream and how to reach it.")] = msgspec.field(
        default_factory=Stream
    )
    storage: Annotated[IngestStorage, Meta(description="Where annotations are filed.")] = msgspec.field(
        default_factory=IngestStorage
    )
    class_count: Annotated[
        int, Meta(ge=1, le=10000, description="Class numbers from 0 to below this are accepted.")
    ] = 80
    resources: Annotated[Resources, Meta(description="Compute resources of the consumer's pod.")] = msgspec.field(
        default_factory=lambda: Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "1Gi"})
    )
    suspend: Annotated[bool, Meta(description="True stops reading; messages wait in the stream.")] = False


class IngestPhase(enum.StrEnum):
    """Where an ingest is."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    FAILED = "Failed"


_COUNTS = Annotated[int, Meta(ge=0)]


class AnnotationIngestStatus(Resource, frozen=True, kw_only=True):
    """What the ingest does and has done; written by the operator alone."""

    phase: Annotated[IngestPhase, Meta(description="Pending, Running, Suspended or Failed.")] | None = None
    message: Annotated[
        str, Meta(max_length=1024, description="One sentence: what the ingest does or waits for, and why.")
    ] = ""
    committed_offset: (
        Annotated[int, Meta(description="Offset of the last message whose files are durable on disk.")] | None
    ) = None
    lag: Annotated[int, Meta(description="Messages in the stream behind the committed offset.")] | None = None
    messages_per_second: (
        Annotated[
            str,
            Meta(
                max_length=32,
                pattern=r"^[0-9]+(\.[0-9]+)?$",
                description="Pace of the last minute, as a decimal string.",
            ),
        ]
        | None
    ) = None
    last_message_time: Annotated[datetime, Meta(description="When the last message was filed.")] | None = None
    images: Annotated[dict[str, _COUNTS], Meta(max_length=8, description="Images per directory.")] = msgspec.field(
        default_factory=dict
    )
    images_total: Annotated[int, Meta(description="Images in data and data-seed, for people.")] | None = None
    processed: Annotated[int, Meta(description="Messages applied since the ingest was made.")] = 0
    rejected: Annotated[
        dict[str, _COUNTS], Meta(max_length=32, description="Messages set aside in data-rejected, by reason.")
    ] = msgspec.field(default_factory=dict)
    names_missing: Annotated[
        int, Meta(description="Names in Validated and Deleted messages whose files were not there: nothing to do.")
    ] = 0
    offsets_missing: Annotated[
        int,
        Meta(description="Offsets that were gone from the stream and that onMissingOffsets: Continue went on without."),
    ] = 0
    observed_generation: (
        Annotated[int, Meta(description="The metadata.generation this status was decided for.")] | None
    ) = None
    conditions: Conditions = ()


#: Condition types of an AnnotationIngest.
INGEST_CONDITIONS = ("Connected", "CaughtUp", "StorageWritable", "Ready")
