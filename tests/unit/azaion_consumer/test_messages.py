"""The decoder: every spelling of the contract, every reason to reject, and nothing else whatever the bytes are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from consumer_make import CREATED_AT, JPEG, PROPERTY, annotation, created, deleted, edited, entry, fields, validated
from hypothesis import given
from hypothesis import strategies as st

from azaion_consumer import amqp
from azaion_consumer.messages import (
    AnnotationStatus,
    Created,
    Decoder,
    Deleted,
    Detection,
    Edited,
    Limits,
    Rejected,
    RejectReason,
    Role,
    Source,
    Validated,
    check_name,
    encode_bulk,
    encode_created,
    encode_edited,
    label_content,
)

GOOD_BOX = {"Cls": 3, "X": 0.5, "Y": 0.25, "W": 0.125, "H": 0.1}


def decode(data: bytes, **options: Any) -> Any:
    return Decoder(80, **options).decode(data)


def rejection(data: bytes, **options: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode(data, **options)
    return caught.value


def boxes(*found: Any) -> bytes:
    return entry(fields(detections=json.dumps(list(found))))


# What is accepted


def test_a_validators_new_annotation_keeps_all_fields_detections_and_image_bytes() -> None:
    message = decode(created(), limits=Limits())
    assert isinstance(message, Created)
    found = message.annotation
    assert bytes(found.image) == JPEG
    assert msgspec.structs.replace(found, image=JPEG) == annotation()
    assert (found.created, found.role, found.source, found.by_validator) == (
        CREATED_AT,
        Role.VALIDATOR,
        Source.MANUAL,
        True,
    )


def test_an_edit_carries_no_image_even_when_the_producer_sends_one() -> None:
    message = decode(entry(fields(image=JPEG), "Edited"))
    assert isinstance(message, Edited)
    assert bytes(message.annotation.image) == b""


@pytest.mark.parametrize("image", [None, b"", b"not an image"])
def test_the_image_field_of_an_edit_is_not_looked_at(image: bytes | None) -> None:
    assert isinstance(decode(entry(fields(image=image, extension=""), "Edited")), Edited)


def test_bulk_messages_list_names() -> None:
    assert decode(validated("a", "b")) == Validated(("a", "b"))
    assert decode(deleted("c")) == Deleted(("c",))
    assert decode(entry([["a"]], "Validated")) == Validated(("a",)), "the status inside may be left out"
    assert decode(entry([["a"], 30, "more", 1.5], "Validated")) == Validated(("a",)), "further fields are ignored"


@pytest.mark.parametrize(
    "status",
    ["Validated", "validated", "VALIDATED", b"Validated", 30, "30", b"30", " Validated "],
)
def test_the_status_is_a_name_or_a_number_as_text_or_bytes(status: Any) -> None:
    assert decode(entry([["a"], 30], status)) == Validated(("a",))


def test_properties_may_have_byte_keys_as_rstream_gives_them() -> None:
    body = msgspec.msgpack.encode([["a"], 40])
    assert Decoder(80).decode_body(body, {b"AnnotationStatus": b"Deleted"}) == Deleted(("a",))


@pytest.mark.parametrize("cls", ["Cls", "cls", "ClassNumber", "classNumber", "CLASSNUMBER"])
@pytest.mark.parametrize(
    ("x", "y", "w", "h"), [("X", "Y", "W", "H"), ("x", "y", "w", "h"), ("CenterX", "centery", "Width", "HEIGHT")]
)
@pytest.mark.parametrize("confidence", ["Confidence", "confidence", "Probability"])
def test_every_spelling_of_a_detection_is_understood(cls: str, x: str, y: str, w: str, h: str, confidence: str) -> None:
    decoder = Decoder(80)
    box = {cls: 7, x: 0.1, y: 0.2, w: 0.3, h: 0.4, confidence: 0.5, "AnnotationName": "n", "Extra": [1, {"a": None}]}
    for _ in range(2):  # the second time by the decoder made for this spelling
        assert decoder.detections(json.dumps([box, box])) == (Detection(7, 0.1, 0.2, 0.3, 0.4, 0.5, "n"),) * 2


def test_producers_of_different_spellings_may_take_turns() -> None:
    decoder = Decoder(80)
    first = json.dumps([{"Cls": 1, "X": 0.1, "Y": 0.1, "W": 0.1, "H": 0.1}])
    second = json.dumps([{"classNumber": 2, "centerX": 0.2, "centerY": 0.2, "width": 0.2, "height": 0.2}])
    for _ in range(3):
        assert decoder.detections(first)[0].cls == 1
        assert decoder.detections(second)[0].cls == 2


@pytest.mark.parametrize("text", [None, "", "[]", "null"])
def test_no_detections_are_an_empty_label(text: str | None) -> None:
    found = decode(entry(fields(detections=text))).annotation.detections
    assert found == ()
    assert label_content(found) == b""


@pytest.mark.parametrize("extension", ["jpg", ".jpg", "JPG", ".JpG"])
def test_the_extension_may_have_a_dot_and_any_case(extension: str) -> None:
    assert decode(entry(fields(extension=extension))).annotation.extension == ".jpg"


@pytest.mark.parametrize(
    ("extension", "head"),
    [
        ("jpg", b"\xff\xd8\xff\xe0"),
        ("jpeg", b"\xff\xd8\xff\xdb"),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("bmp", b"BM6\x00"),
        ("webp", b"RIFF\x10\x00\x00\x00WEBPVP8 "),
        ("tif", b"II*\x00\x08"),
        ("tiff", b"MM\x00*\x00"),
    ],
)
def test_every_allowed_kind_of_image_is_accepted(extension: str, head: bytes) -> None:
    found = decode(entry(fields(extension=extension, image=head + b"rest"))).annotation
    assert (found.extension, bytes(found.image)) == (f".{extension}", head + b"rest")


@pytest.mark.parametrize(
    ("role", "by_validator"),
    [
        (10, False),
        (20, True),
        (30, False),
        (40, True),
        (1000, True),
        ("Validator", True),
        ("Operator", False),
        (77, False),
    ],
)
def test_validators_admins_and_api_admins_need_no_approval(role: Any, by_validator: bool) -> None:
    assert decode(entry(fields(role=role))).annotation.by_validator is by_validator


@pytest.mark.parametrize("when", [None, "yesterday", 12, [1]])
def test_a_creation_time_that_is_none_is_no_reason_to_reject(when: Any) -> None:
    assert decode(entry(fields(created=when))).annotation.created is None


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_bodies_are_unpacked(members: int) -> None:
    body = msgspec.msgpack.encode(fields())
    cut = len(body) // members
    parts = [body[i * cut : (i + 1) * cut if i < members - 1 else None] for i in range(members)]
    packed = b"".join(gzip.compress(part) for part in parts)
    assert decode(entry(packed)).annotation.name == "clip_000001"


def test_what_producers_encode_comes_back_compressed_or_not() -> None:
    for compress in (False, True):
        assert decode(encode_created(annotation(), compress=compress)).annotation.detections == annotation().detections
        assert decode(encode_edited(annotation(), compress=compress)).annotation.name == "clip_000001"
        bulk = encode_bulk(AnnotationStatus.DELETED, ["a"], compress=compress)
        assert decode(bulk) == Deleted(("a",))


@pytest.mark.parametrize(
    ("detection", "line"),
    [
        (Detection(0, 0.5, 0.5, 0.1, 0.1), "0 0.5 0.5 0.1 0.1\n"),
        (Detection(79, 1.0, 0.0, 1.0, 0.3333333333333333), "79 1.0 0.0 1.0 0.3333333333333333\n"),
    ],
)
def test_a_label_line_is_class_centre_and_size(detection: Detection, line: str) -> None:
    assert label_content([detection]).decode() == line


@PROPERTY
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_numbers_in_a_label_read_back_exactly(numbers: list[float]) -> None:
    text = json.dumps([{"Cls": 1, "X": numbers[0], "Y": numbers[1], "W": numbers[2], "H": numbers[3]}])
    line = label_content(Decoder(80).detections(text)).decode().split()
    assert [float(part) for part in line[1:]] == numbers
    assert "-" not in "".join(part for part in line if "e" not in part), "a minus zero is written as zero"


# What is rejected


NAMES = [
    ("", "0 bytes"),
    ("..", "plain file name"),
    (".hidden", "plain file name"),
    ("../x", "plain file name"),
    ("a/b", "plain file name"),
    ("/etc/passwd", "plain file name"),
    ("a\\b", "plain file name"),
    ("a\0b", "control character"),
    ("a\nb", "control character"),
    ("a\x7fb", "control character"),
    ("a\x85b", "control character"),
    ("a\u2028b", "control character"),
    ("x" * 201, "201 bytes"),
    ("ü" * 101, "202 bytes"),
]


@pytest.mark.parametrize(("name", "why"), NAMES)
def test_a_name_that_is_not_one_plain_file_stem_is_rejected(name: str, why: str) -> None:
    for data in (entry(fields(name=name)), entry(fields(name=name), "Edited"), validated("ok", name), deleted(name)):
        rejected = rejection(data)
        assert rejected.reason is RejectReason.BAD_NAME
        assert why in str(rejected)


@pytest.mark.parametrize("name", ["a", "clip.mp4_000012", "ünïcödé 名前", "x" * 200, "a b", "-", "~", "a..b", "CON"])
def test_a_plain_file_stem_is_accepted(name: str) -> None:
    assert decode(validated(name)) == Validated((name,))


BODIES: list[tuple[Any, Any, RejectReason, str]] = [
    (fields(), None, RejectReason.UNKNOWN_STATUS, "no application property AnnotationStatus"),
    (fields(), "Approved", RejectReason.UNKNOWN_STATUS, "'Approved'"),
    (fields(), 11, RejectReason.UNKNOWN_STATUS, "'11'"),
    (fields(), b"\xff\xfe", RejectReason.UNKNOWN_STATUS, "AnnotationStatus is"),
    (b"", "Created", RejectReason.BAD_MESSAGE_PACK, "no MessagePack"),
    (b"\xc1", "Created", RejectReason.BAD_MESSAGE_PACK, "no MessagePack"),
    (msgspec.msgpack.encode(fields())[:-3], "Created", RejectReason.BAD_MESSAGE_PACK, "truncated"),
    (b"\x9b" + b"\x91" * 100_000, "Created", RejectReason.BAD_MESSAGE_PACK, "recursion"),
    ({"name": "x"}, "Created", RejectReason.WRONG_FIELDS, "Expected `array`"),
    (fields()[:10], "Created", RejectReason.WRONG_FIELDS, "length"),
    (fields(name=7), "Created", RejectReason.WRONG_FIELDS, "$[1]"),
    (fields(image="text"), "Created", RejectReason.WRONG_FIELDS, "$[6]"),
    (fields(role=None), "Created", RejectReason.WRONG_FIELDS, "createdRole"),
    (fields(role="Boss"), "Created", RejectReason.WRONG_FIELDS, "'Boss'"),
    ([["a", 1]], "Validated", RejectReason.WRONG_FIELDS, "$[0][1]"),
    (["a"], "Deleted", RejectReason.WRONG_FIELDS, "bulk message"),
    (fields(extension="exe"), "Created", RejectReason.BAD_EXTENSION, "'exe'"),
    (fields(extension=None), "Created", RejectReason.BAD_EXTENSION, "''"),
    (fields(extension="../jpg"), "Created", RejectReason.BAD_EXTENSION, "none of jpg"),
    (fields(extension="gif"), "Edited", RejectReason.BAD_EXTENSION, "'gif'"),
    (fields(image=b""), "Created", RejectReason.NOT_AN_IMAGE, "nothing"),
    (fields(image=None), "Created", RejectReason.NOT_AN_IMAGE, "nothing"),
    (fields(image=b"GIF89a......"), "Created", RejectReason.NOT_AN_IMAGE, "47 49 46"),
    (fields(detections="{"), "Created", RejectReason.BAD_DETECTIONS, "no JSON list"),
    (fields(detections='{"Cls": 1}'), "Created", RejectReason.BAD_DETECTIONS, "no JSON list"),
    (fields(detections="[1]"), "Created", RejectReason.BAD_DETECTIONS, "no JSON list"),
    (fields(detections="[" * 100_000), "Created", RejectReason.BAD_DETECTIONS, "no JSON list"),
    (b"\x1f\x8bnot gzip", "Created", RejectReason.BAD_COMPRESSION, "begins like gzip"),
    (gzip.compress(b"x" * 1000, mtime=0)[:-9], "Created", RejectReason.BAD_COMPRESSION, "too early"),
    (gzip.compress(b"", mtime=0) * 65, "Created", RejectReason.BAD_COMPRESSION, "members"),
    (gzip.compress(b"\xc1", mtime=0), "Created", RejectReason.BAD_MESSAGE_PACK, "no MessagePack"),
]


@pytest.mark.parametrize(("body", "status", "reason", "says"), BODIES)
def test_a_message_that_cannot_be_applied_is_rejected_with_its_reason(
    body: Any, status: Any, reason: RejectReason, says: str
) -> None:
    rejected = rejection(entry(body, status))
    assert rejected.reason is reason
    assert says in str(rejected)


@pytest.mark.parametrize(
    ("box", "reason", "says"),
    [
        (GOOD_BOX | {"Cls": 80}, RejectReason.CLASS_OUT_OF_RANGE, "class 80; classes 0 to 79"),
        (GOOD_BOX | {"Cls": -1}, RejectReason.CLASS_OUT_OF_RANGE, "class -1"),
        (GOOD_BOX | {"Cls": 10**30}, RejectReason.CLASS_OUT_OF_RANGE, "(huge)"),
        (GOOD_BOX | {"Cls": 1.5}, RejectReason.BAD_DETECTIONS, "no class number"),
        (GOOD_BOX | {"Cls": "3"}, RejectReason.BAD_DETECTIONS, "no class number"),
        (GOOD_BOX | {"Cls": True}, RejectReason.BAD_DETECTIONS, "no class number"),
        (GOOD_BOX | {"X": 1.0000001}, RejectReason.COORDINATE_OUT_OF_RANGE, "x = 1.0000001"),
        (GOOD_BOX | {"H": -0.1}, RejectReason.COORDINATE_OUT_OF_RANGE, "h = -0.1"),
        (GOOD_BOX | {"W": "0.1"}, RejectReason.BAD_DETECTIONS, "no number for w"),
        (GOOD_BOX | {"Y": None}, RejectReason.BAD_DETECTIONS, "no number for y"),
        ({"X": 0.5, "Y": 0.5, "W": 0.1, "H": 0.1}, RejectReason.BAD_DETECTIONS, "no class number"),
    ],
)
def test_one_bad_box_of_many_condemns_the_message(box: dict[str, Any], reason: RejectReason, says: str) -> None:
    decoder = Decoder(80)
    decoder.decode(boxes(GOOD_BOX))  # so that the decoder for this spelling is there
    for data in (boxes(GOOD_BOX, box), boxes(box, GOOD_BOX)):
        with pytest.raises(Rejected) as caught:
            decoder.decode(data)
        assert caught.value.reason is reason
        assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '[{"Cls":1,"X":NaN,"Y":0,"W":0,"H":0}]',
        '[{"Cls":1,"X":1e999,"Y":0,"W":0,"H":0}]',
        '[{"Cls":1,"X":1' + "0" * 5000 + ',"Y":0,"W":0,"H":0}]',
    ],
)
def test_numbers_that_are_not_finite_are_rejected(text: str) -> None:
    assert rejection(entry(fields(detections=text))).reason in (
        RejectReason.BAD_DETECTIONS,
        RejectReason.COORDINATE_OUT_OF_RANGE,
    )


def test_a_class_given_as_a_whole_decimal_is_a_class() -> None:
    assert decode(boxes(GOOD_BOX | {"Cls": 3.0})).annotation.detections[0].cls == 3


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (msgspec.msgpack.encode(fields(image=JPEG + bytes(5000))), Limits(body_bytes=4000)),
        (gzip.compress(msgspec.msgpack.encode(fields(image=JPEG + bytes(50_000)))), Limits(body_bytes=4000)),
        (msgspec.msgpack.encode(fields(detections=json.dumps([GOOD_BOX] * 50))), Limits(detections_bytes=1000)),
    ],
)
def test_what_is_too_large_is_rejected_before_it_is_unpacked(body: bytes, limits: Limits) -> None:
    assert rejection(entry(body), limits=limits).reason is RejectReason.TOO_LARGE
    bulk = entry([["a" * 100] * 100, 30], "Validated")
    assert rejection(bulk, limits=Limits(bulk_bytes=1000)).reason is RejectReason.TOO_LARGE


def test_a_gzip_bomb_costs_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(20 * 1024 * 1024))
    assert rejection(entry(bomb), limits=Limits(body_bytes=1024 * 1024)).reason is RejectReason.TOO_LARGE


# Whatever the bytes are


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
keys = st.sampled_from(
    ["Cls", "cls", "ClassNumber", "X", "x", "CenterX", "Y", "W", "H", "Height", "Confidence", "Other"]
)
packed_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
statuses = st.sampled_from(["Created", "Edited", "Validated", "Deleted", 10, b"40", "nonsense", None])


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returns, or what it rejects; any other exception fails the test."""
    try:
        return call()
    except Rejected as rejected:
        return rejected


def decoded_or_rejected(decoder: Decoder, data: bytes) -> None:
    """Anything but a message with safe names or a Rejected with a short sentence fails the test."""
    found = outcome(lambda: decoder.decode(data))
    if isinstance(found, Rejected):
        assert isinstance(found.reason, RejectReason)
        assert 0 < len(str(found)) < 2000
        return
    for name in found.names if isinstance(found, Validated | Deleted) else (found.annotation.name,):
        check_name(name)


@PROPERTY
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_rejected(data: bytes) -> None:
    decoded_or_rejected(Decoder(80), data)


@PROPERTY
@given(packed_values, statuses)
def test_any_packed_value_is_a_message_or_rejected(value: Any, status: Any) -> None:
    decoded_or_rejected(Decoder(80), entry(value, status))


@PROPERTY
@given(st.lists(st.dictionaries(keys | st.text(max_size=8), json_values, max_size=7), max_size=3), st.booleans())
def test_any_json_is_detections_or_rejected_and_a_learnt_spelling_changes_nothing(found: Any, learnt: bool) -> None:
    text = json.dumps(found)
    taught = Decoder(80)
    if learnt:
        taught.detections(json.dumps([GOOD_BOX]))
    results = [outcome(lambda decoder=decoder: decoder.detections(text)) for decoder in (taught, Decoder(80))]
    assert [str(result) for result in results] == [str(results[0])] * 2


@PROPERTY
@given(
    st.sampled_from([created(), edited(), validated("a", "b"), encode_created(annotation(), compress=True)]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_a_damaged_message_is_a_message_or_rejected(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    decoded_or_rejected(Decoder(80), bytes(damaged))
    decoded_or_rejected(Decoder(80), bytes(damaged[: cut % len(damaged)]))


@PROPERTY
@given(st.text(max_size=300))
def test_an_accepted_name_is_one_path_component(name: str) -> None:
    rejected = outcome(lambda: check_name(name))
    if rejected is None:
        assert name not in ("", ".", "..")
        assert not set(name) & set("/\\\0\n\r")
        assert len(f"{name}.jpeg".encode()) <= 255
    else:
        assert rejected.reason is RejectReason.BAD_NAME


@PROPERTY
@given(packed_values)
def test_a_message_without_the_property_is_never_routed(value: Any) -> None:
    body = msgspec.msgpack.encode(value)
    with pytest.raises(Rejected):
        Decoder(80).decode(amqp.encode(body, {"Other": "Created"}))
