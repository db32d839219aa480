"""Annotation messages: from the bytes of one stream entry to a typed message, or to the reason why it is none.

Pure: nothing here reads a clock, a file or a socket. `Decoder.decode` raises `Rejected` and nothing else, whatever the
bytes are, and uses memory in proportion to their number.
"""

from __future__ import annotations

import enum
import gzip
import math
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from azaion_api.layout import IMAGE_SUFFIXES
from azaion_consumer import amqp
from azaion_consumer.amqp import Buffer, Simple

STATUS_PROPERTY = "AnnotationStatus"
#: File extensions an image may have, in the order they are looked for.
EXTENSIONS = IMAGE_SUFFIXES
MAX_NAME_BYTES = 200

_GZIP_MAGIC = b"\x1f\x8b"
#: Members of one gzip body; each costs a pass over the rest.
_MAX_GZIP_MEMBERS = 64

E = TypeVar("E", bound=enum.IntEnum)


class AnnotationStatus(enum.IntEnum):
    """What happened to the annotation; the message is routed by it."""

    CREATED = 10
    EDITED = 20
    VALIDATED = 30
    DELETED = 40


class Source(enum.IntEnum):
    """Who drew the boxes."""

    AI = 0
    MANUAL = 1


class Role(enum.IntEnum):
    """Roles of the annotators' system."""

    OPERATOR = 10
    VALIDATOR = 20
    COMPANION_PC = 30
    ADMIN = 40
    API_ADMIN = 1000


#: Their annotations need nobody else's approval.
VALIDATOR_LIKE = frozenset({Role.VALIDATOR, Role.ADMIN, Role.API_ADMIN})


class RejectReason(enum.StrEnum):
    """Why a message cannot be applied; the label of a metric, so the list is short and fixed."""

    NOT_AMQP = "NotAmqp"
    UNKNOWN_STATUS = "UnknownStatus"
    TOO_LARGE = "TooLarge"
    BAD_COMPRESSION = "BadCompression"
    BAD_MESSAGE_PACK = "BadMessagePack"
    WRONG_FIELDS = "WrongFields"
    BAD_NAME = "BadName"
    BAD_EXTENSION = "BadExtension"
    BAD_DETECTIONS = "BadDetections"
    CLASS_OUT_OF_RANGE = "ClassOutOfRange"
    COORDINATE_OUT_OF_RANGE = "CoordinateOutOfRange"
    NOT_AN_IMAGE = "NotAnImage"


class Rejected(Exception):  # noqa: N818 - an outcome, not a fault of ours
    """The message can never be applied; `str()` is a sentence that says what is wrong and where."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Detection(msgspec.Struct, frozen=True, gc=False):
    """One box: class number, centre and size as parts (0-1) of the image's width and height."""

    cls: int
    x: float
    y: float
    w: float
    h: float
    confidence: float | None = None
    annotation_name: str | None = None


class Annotation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One annotated image. `image` shares memory with the message it came in; it is empty in an edit."""

    name: str
    #: With its dot, lower case, one of EXTENSIONS; None in an edit that names none.
    extension: str | None
    detections: tuple[Detection, ...]
    image: Buffer = b""
    role: Role | int = Role.OPERATOR
    created: datetime | None = None
    media: str | None = None
    #: Position in the medium, in ticks of 100 ns.
    time_ticks: int = 0
    email: str | None = None
    source: Source | int | None = None

    @property
    def by_validator(self) -> bool:
        return self.role in VALIDATOR_LIKE


class Created(msgspec.Struct, frozen=True, gc=False):
    operation: ClassVar[str] = "created"
    annotation: Annotation


class Edited(msgspec.Struct, frozen=True, gc=False):
    operation: ClassVar[str] = "edited"
    annotation: Annotation


class Validated(msgspec.Struct, frozen=True, gc=False):
    operation: ClassVar[str] = "validated"
    names: tuple[str, ...]


class Deleted(msgspec.Struct, frozen=True, gc=False):
    operation: ClassVar[str] = "deleted"
    names: tuple[str, ...]


Message = Created | Edited | Validated | Deleted


@dataclass(frozen=True)
class Limits:
    """Sizes above which a message is rejected before it is unpacked."""

    #: Body after decompression.
    body_bytes: int = 128 * 1024 * 1024
    #: Body of a bulk message: names alone, and each costs many times its bytes in memory.
    bulk_bytes: int = 8 * 1024 * 1024
    #: JSON of the detections of one annotation.
    detections_bytes: int = 1024 * 1024


class _Wire(msgspec.Struct, array_like=True):
    """AnnotationMessage as it is sent: positional, further fields ignored."""

    created: msgspec.Raw
    name: str
    media: str | None
    time_ticks: int | None
    extension: str | None
    detections: str | None
    image: memoryview | None
    role: int | str | None
    email: str | None
    source: int | str | None
    status: int | str | None


class _WireBulk(msgspec.Struct, array_like=True):
    """AnnotationBulkMessage as it is sent."""

    names: list[str]
    status: int | str | None = None


_wire = msgspec.msgpack.Decoder(_Wire)
_wire_bulk = msgspec.msgpack.Decoder(_WireBulk)
_timestamp = msgspec.msgpack.Decoder(datetime)
_numbers = msgspec.json.Encoder()
_objects = msgspec.json.Decoder(list[dict[str, Any]] | None)

#: What msgspec raises for data from outside: ValueError for text that is not UTF-8 or a number of thousands of digits,
#: RecursionError for thousands of levels.
_UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def _members(type_: type[E]) -> dict[int | str, E]:
    """By number and by name. A look into a dictionary is a tenth of a call of the type."""
    return {key: member for member in type_ for key in (member.value, member.name.replace("_", "").lower())}


_STATUSES, _ROLES, _SOURCES = _members(AnnotationStatus), _members(Role), _members(Source)

#: Spellings of a detection's fields, lower-cased, in order of preference.
_KEYS = {
    "cls": ("cls", "classnumber"),
    "x": ("x", "centerx"),
    "y": ("y", "centery"),
    "w": ("w", "width"),
    "h": ("h", "height"),
    "confidence": ("confidence", "probability"),
    "annotation_name": ("annotationname",),
}
#: Objects with more keys are decoded the general way.
_MAX_TYPED_KEYS = 32


class Decoder:
    """Turns stream entries into messages. Class numbers from 0 to below `class_count` are accepted."""

    def __init__(self, class_count: int, limits: Limits | None = None) -> None:
        self._class_count = class_count
        self._limits = limits or Limits()
        # Every detection of one producer spells its keys alike: a typed decoder is kept for the last spelling seen.
        self._typed: msgspec.json.Decoder[list[Any]] | None = None
        self._typed_keys: frozenset[str] = frozenset()

    def decode(self, entry: Buffer) -> Message:
        """The message in the bytes of one stream entry (an AMQP 1.0 message). Raises Rejected."""
        try:
            message = amqp.decode(entry)
        except amqp.AmqpError as error:
            raise Rejected(RejectReason.NOT_AMQP, f"not an AMQP 1.0 message: {error}") from error
        return self.decode_body(message.body, message.properties)

    def decode_body(self, body: Buffer, properties: Mapping[Any, Any]) -> Message:
        """The message in an AMQP body with its properties (keys and values as str or bytes). Raises Rejected."""
        status = _status(properties)
        if status in (AnnotationStatus.VALIDATED, AnnotationStatus.DELETED):
            names = self._names(_unpacked(body, self._limits.bulk_bytes))
            return Validated(names) if status is AnnotationStatus.VALIDATED else Deleted(names)
        body = _unpacked(body, self._limits.body_bytes)
        try:
            wire = _wire.decode(body)
        except _UNDECODABLE as error:
            raise _not_unpacked(error, "an annotation message of 11 fields") from error
        if status is AnnotationStatus.CREATED:
            return Created(self._annotation(wire, with_image=True))
        return Edited(self._annotation(wire, with_image=False))

    def _annotation(self, wire: _Wire, *, with_image: bool) -> Annotation:
        check_name(wire.name)
        image: Buffer = b""
        if with_image:
            extension: str | None = normal_extension(wire.extension)
            image = wire.image if wire.image is not None else b""
            check_image(image)
        else:
            extension = normal_extension(wire.extension) if wire.extension else None
        return Annotation(
            name=wire.name,
            extension=extension,
            detections=self.detections(wire.detections),
            image=image,
            role=_role(wire.role),
            created=_created(wire.created),
            media=wire.media,
            time_ticks=wire.time_ticks or 0,
            email=wire.email,
            source=_source(wire.source),
        )

    def _names(self, body: Buffer) -> tuple[str, ...]:
        try:
            names = _wire_bulk.decode(body).names
        except _UNDECODABLE as error:
            raise _not_unpacked(error, "a bulk message (a list of names and a status)") from error
        for name in names:
            check_name(name)
        return tuple(names)

    def detections(self, text: str | None) -> tuple[Detection, ...]:
        """The boxes in the JSON text of a message; none in an empty or absent text. Raises Rejected."""
        if not text:
            return ()
        if len(text) > self._limits.detections_bytes:
            raise Rejected(
                RejectReason.TOO_LARGE,
                f"the detections are {len(text)} characters of JSON, more than {self._limits.detections_bytes}",
            )
        if self._typed is not None:
            try:
                # A list on the way: a tuple of a generator takes a third longer.
                return tuple(
                    [
                        Detection(d.cls, d.x + 0.0, d.y + 0.0, d.w + 0.0, d.h + 0.0, d.confidence, d.annotation_name)
                        for d in self._typed.decode(text)
                    ]
                )
            except _UNDECODABLE:
                pass  # another spelling, or something to reject: the general way below finds out which
        try:
            found = _objects.decode(text)
        except _UNDECODABLE as error:
            raise Rejected(
                RejectReason.BAD_DETECTIONS, f"the detections are no JSON list of objects: {error}"
            ) from error
        detections = tuple(self._detection(i, fields) for i, fields in enumerate(found or ()))
        if found:
            self._remember(frozenset(found[0]))
        return detections

    def _detection(self, index: int, fields: dict[str, Any]) -> Detection:
        keys = _spelling(fields)
        values = {field: fields[key] for field, key in keys.items()}
        cls = values.get("cls")
        if isinstance(cls, float) and cls.is_integer():
            cls = int(cls)
        if not isinstance(cls, int) or isinstance(cls, bool):
            raise Rejected(RejectReason.BAD_DETECTIONS, f"detection {index} has no class number (Cls, ClassNumber)")
        if not 0 <= cls < self._class_count:
            shown = cls if abs(cls) < 10**9 else "(huge)"
            raise Rejected(
                RejectReason.CLASS_OUT_OF_RANGE,
                f"detection {index} has class {shown}; classes 0 to {self._class_count - 1} are known",
            )
        x, y, w, h = (_part(values.get(key), index, key) for key in ("x", "y", "w", "h"))
        name = values.get("annotation_name")
        return Detection(cls, x, y, w, h, _finite(values.get("confidence")), name if isinstance(name, str) else None)

    def _remember(self, given: frozenset[str]) -> None:
        """Keep a decoder for objects with just these keys; it refuses any other, so it agrees with the general way."""
        if given == self._typed_keys or len(given) > _MAX_TYPED_KEYS or not all(map(_names_a_field, given)):
            return
        spelling = _spelling(given)
        types: dict[str, Any] = {
            "cls": Annotated[int, Meta(ge=0, lt=self._class_count)],
            **dict.fromkeys(("x", "y", "w", "h"), Annotated[float, Meta(ge=0, le=1)]),
        }
        optional: dict[str, Any] = {"confidence": float | None, "annotation_name": str | None}
        spelt = set(spelling.values())
        others = {f"other_{i}": key for i, key in enumerate(sorted(given - spelt))}
        struct = msgspec.defstruct(
            "TypedDetection",
            [
                *((field, type_) for field, type_ in types.items()),
                *((field, type_, None) for field, type_ in optional.items()),
                *((field, Any, None) for field in others),
            ],
            # A field this spelling lacks gets a key no other can be taken for.
            rename={field: f"\x7f{field}" for field in optional} | spelling | others,
            forbid_unknown_fields=True,
        )
        self._typed, self._typed_keys = msgspec.json.Decoder(list[struct]), given  # type: ignore[valid-type]


def _names_a_field(key: str) -> bool:
    """Whether msgspec takes the key as a field's name, and it is none of those kept for absent fields."""
    return not any(character in '\\"\x7f' or character < " " for character in key)


def _spelling(given: Iterable[str]) -> dict[str, str]:
    """Our name of each field that is there -> the key it has among `given`."""
    lowered: dict[str, str] = {}
    for key in sorted(given):
        lowered.setdefault(key.lower(), key)
    found = {}
    for field, spellings in _KEYS.items():
        there = [lowered[s] for s in spellings if s in lowered]
        if there:
            found[field] = there[0]
    return found


def check_name(name: str) -> None:
    """Raises Rejected unless `name` is one plain file stem: it comes from outside and becomes part of a path."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise Rejected(RejectReason.BAD_NAME, f"the name {_shown(name)} is not valid Unicode") from error
    if not 0 < size <= MAX_NAME_BYTES:
        raise Rejected(
            RejectReason.BAD_NAME, f"the name {_shown(name)} has {size} bytes; 1 to {MAX_NAME_BYTES} are allowed"
        )
    if name[0] == "." or "/" in name or "\\" in name:
        raise Rejected(RejectReason.BAD_NAME, f"the name {_shown(name)} is not a plain file name without a path")
    if not name.isascii() or not name.isprintable():
        for character in name:
            if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
                raise Rejected(RejectReason.BAD_NAME, f"the name {_shown(name)} holds a control character")


def normal_extension(given: str | None) -> str:
    """`.jpg`, ... from an extension with or without its dot, in any case. Raises Rejected."""
    extension = "." + (given or "").lower().removeprefix(".")
    if extension not in EXTENSIONS:
        allowed = " ".join(e[1:] for e in EXTENSIONS)
        raise Rejected(RejectReason.BAD_EXTENSION, f"the image extension {_shown(given or '')} is none of {allowed}")
    return extension


def check_image(image: Buffer) -> None:
    """Raises Rejected unless the bytes begin like an image of one of the allowed kinds."""
    head = bytes(image[:12])
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    ):
        return
    what = f"{len(image)} bytes beginning with {head[:8].hex(' ')}" if head else "nothing"
    raise Rejected(RejectReason.NOT_AN_IMAGE, f"the image is {what}, which is no JPEG, PNG, BMP, WebP or TIFF")


def label_content(detections: Iterable[Detection]) -> bytes:
    """The label file: a line `class cx cy w h` per box; numbers in the shortest form that reads back exactly."""
    # By way of JSON, which writes numbers so, and ten times as fast as Python's own repr.
    rows = _numbers.encode([(d.cls, d.x, d.y, d.w, d.h) for d in detections])
    return rows[2:-2].replace(b"],[", b"\n").replace(b",", b" ") + b"\n" if len(rows) > 2 else b""


# ---- producing: for the tests and the demo, and a description of the format in code ----


def encode_created(annotation: Annotation, *, compress: bool = False) -> bytes:
    """A Created message as the bytes of one stream entry."""
    return _encode(_annotation_body(annotation, AnnotationStatus.CREATED), AnnotationStatus.CREATED, compress)


def encode_edited(annotation: Annotation, *, compress: bool = False) -> bytes:
    """An Edited message as the bytes of one stream entry; it carries no image."""
    edited = msgspec.structs.replace(annotation, image=b"")
    return _encode(_annotation_body(edited, AnnotationStatus.EDITED), AnnotationStatus.EDITED, compress)


def encode_bulk(status: AnnotationStatus, names: Iterable[str], *, compress: bool = False) -> bytes:
    """A Validated or Deleted message as the bytes of one stream entry."""
    return _encode(msgspec.msgpack.encode([list(names), int(status)]), status, compress)


def _annotation_body(annotation: Annotation, status: AnnotationStatus) -> bytes:
    detections = [
        {
            "AnnotationName": d.annotation_name or annotation.name,
            "Cls": d.cls,
            "X": d.x,
            "Y": d.y,
            "W": d.w,
            "H": d.h,
            **({} if d.confidence is None else {"Confidence": d.confidence}),
        }
        for d in annotation.detections
    ]
    return msgspec.msgpack.encode(
        [
            annotation.created or datetime.fromtimestamp(0, UTC),
            annotation.name,
            annotation.media,
            annotation.time_ticks,
            annotation.extension,
            msgspec.json.encode(detections).decode(),
            bytes(annotation.image),
            int(annotation.role),
            annotation.email,
            annotation.source,
            int(status),
        ]
    )


def _encode(body: bytes, status: AnnotationStatus, compress: bool) -> bytes:
    return amqp.encode(gzip.compress(body, mtime=0) if compress else body, {STATUS_PROPERTY: status.name.capitalize()})


# ---- parts of decoding ----


def _status(properties: Mapping[Any, Any]) -> AnnotationStatus:
    """The status a message is routed by: a name or a number, as str, bytes or int."""
    value: Simple | None = properties.get(STATUS_PROPERTY)
    if value is None:
        value = properties.get(STATUS_PROPERTY.encode())
    if value is None:
        raise Rejected(RejectReason.UNKNOWN_STATUS, f"the message has no application property {STATUS_PROPERTY}")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    found = _member(value, _STATUSES)
    if not isinstance(found, AnnotationStatus):
        raise Rejected(
            RejectReason.UNKNOWN_STATUS,
            f"{STATUS_PROPERTY} is {_shown(str(value))}, not one of {_choices(AnnotationStatus)}",
        )
    return found


def _role(value: int | str | None) -> Role | int:
    """The creator's role; one we do not know is kept as its number and is not validator-like."""
    found = _member(value, _ROLES)
    if found is None:
        raise Rejected(RejectReason.WRONG_FIELDS, f"createdRole is {_shown(str(value))}, not one of {_choices(Role)}")
    return found


def _source(value: int | str | None) -> Source | int | None:
    return _member(value, _SOURCES)


def _member(value: Any, members: dict[int | str, E]) -> E | int | None:
    """The member with that number or name, an unknown number as it is, None for anything else."""
    found = members.get(value) if type(value) is int else None
    if found is not None:
        return found
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) <= 9:
            value = int(text)
        else:
            return members.get(text.replace("_", "").lower())
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return members.get(value, value)


def _created(raw: msgspec.Raw) -> datetime | None:
    """The creation time when it is a timestamp; nothing depends on it, so anything else is no reason to reject."""
    try:
        return _timestamp.decode(raw)
    except _UNDECODABLE:
        return None


def _part(value: Any, index: int, key: str) -> float:
    number = _finite(value)
    if number is None:
        raise Rejected(RejectReason.BAD_DETECTIONS, f"detection {index} has no number for {key}")
    if not 0.0 <= number <= 1.0:
        raise Rejected(
            RejectReason.COORDINATE_OUT_OF_RANGE, f"detection {index} has {key} = {number!r}, outside 0 to 1"
        )
    return number + 0.0  # -0.0 becomes 0.0


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _unpacked(body: Buffer, limit_bytes: int) -> Buffer:
    """The body, decompressed when it is gzip (an array in MessagePack never begins with 0x1f). Raises Rejected."""
    if bytes(body[:2]) != _GZIP_MAGIC:
        if len(body) > limit_bytes:
            raise Rejected(RejectReason.TOO_LARGE, f"the body has {len(body)} bytes, more than {limit_bytes}")
        return body
    plain = bytearray()
    rest: Buffer = body
    try:
        for _ in range(_MAX_GZIP_MEMBERS):
            member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            plain += member.decompress(rest, limit_bytes + 1 - len(plain))
            if len(plain) > limit_bytes:
                raise Rejected(RejectReason.TOO_LARGE, f"the body has more than {limit_bytes} bytes decompressed")
            if not member.eof:
                raise Rejected(RejectReason.BAD_COMPRESSION, "the gzip body ends too early")
            rest = member.unused_data
            if not rest:
                return memoryview(plain)
    except zlib.error as error:
        raise Rejected(RejectReason.BAD_COMPRESSION, f"the body begins like gzip but is not: {error}") from error
    raise Rejected(RejectReason.BAD_COMPRESSION, f"the gzip body has more than {_MAX_GZIP_MEMBERS} members")


def _not_unpacked(error: Exception, wanted: str) -> Rejected:
    if isinstance(error, msgspec.ValidationError):
        return Rejected(RejectReason.WRONG_FIELDS, f"the body is not {wanted}: {error}")
    return Rejected(RejectReason.BAD_MESSAGE_PACK, f"the body is no MessagePack: {error}")


def _choices(type_: type[enum.IntEnum]) -> str:
    return ", ".join(f"{m.name.replace('_', '').capitalize()} ({m.value})" for m in type_)


def _shown(text: str) -> str:
    """Text from outside for a message: quoted, escaped, short."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")
