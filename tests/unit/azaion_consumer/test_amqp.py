"""The AMQP reader agrees with rstream's on what producers send, and never trusts a size or a count."""

from __future__ import annotations

import resource
import struct
from typing import Any

import pytest
from consumer_make import PROPERTY
from hypothesis import given
from hypothesis import strategies as st
from rstream import AMQPMessage, amqp_decoder

from azaion_consumer import amqp

simple = st.text(max_size=300) | st.binary(max_size=300) | st.integers(-(2**63), 2**63 - 1)


def section(code: int, value: bytes) -> bytes:
    return b"\x00\x53" + bytes([code]) + value


BODY = section(0x75, b"\xa0\x03abc")


@PROPERTY
@given(st.binary(max_size=2000), st.dictionaries(st.text(min_size=1, max_size=300), simple, max_size=5))
def test_what_is_encoded_comes_back(body: bytes, properties: dict[str, Any]) -> None:
    message = amqp.decode(amqp.encode(body, properties))
    assert bytes(message.body) == body
    assert message.properties == properties


@PROPERTY
@given(st.binary(max_size=2000), st.dictionaries(st.text(max_size=20), simple, max_size=5))
def test_rstream_reads_what_we_encode(body: bytes, properties: dict[str, Any]) -> None:
    message = amqp_decoder(amqp.encode(body, properties))
    expected = {k.encode(): v.encode() if isinstance(v, str) else v for k, v in properties.items()}
    assert (message.body, message.application_properties) == (body, expected)


@PROPERTY
@given(
    st.binary(min_size=1, max_size=2000),  # rstream leaves an empty body out
    st.dictionaries(
        st.text(min_size=1, max_size=20), st.text(max_size=300) | st.integers(-(2**31), 2**31 - 1), max_size=5
    ),
)
def test_what_rstream_encodes_is_read(body: bytes, properties: dict[str, Any]) -> None:
    message = amqp.decode(bytes(AMQPMessage(body=body, application_properties=properties or None)))
    assert (bytes(message.body), message.properties) == (body, properties)


@pytest.mark.parametrize(
    ("given_bytes", "body"),
    [
        (BODY, b"abc"),
        (section(0x75, b"\xb0\x00\x00\x00\x03abc"), b"abc"),
        (section(0x75, b"\xa0\x01a") + section(0x75, b"\xa0\x02bc"), b"abc"),
        (section(0x77, b"\xa0\x03abc"), b"abc"),
        (section(0x77, b"\xa1\x03abc"), b"abc"),
        (b"\x00\x80" + struct.pack(">Q", 0x75) + b"\xa0\x03abc", b"abc"),
        (section(0x70, b"\xc0\x02\x01\x41") + section(0x73, b"\x45") + BODY + section(0x78, b"\xc1\x01\x00"), b"abc"),
    ],
)
def test_every_form_of_a_binary_body_is_read(given_bytes: bytes, body: bytes) -> None:
    assert bytes(amqp.decode(given_bytes).body) == body


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"\x50\x0a", 10),
        (b"\x52\x0a", 10),
        (b"\x43", 0),
        (b"\x44", 0),
        (b"\x51\xf6", -10),
        (b"\x54\x0a", 10),
        (b"\x60\x00\x0a", 10),
        (b"\x70\x00\x00\x00\x0a", 10),
        (b"\x71\xff\xff\xff\xf6", -10),
        (b"\x80" + struct.pack(">Q", 10), 10),
        (b"\x81" + struct.pack(">q", -10), -10),
        (b"\xa3\x07Created", "Created"),
        (b"\xb1\x00\x00\x00\x07Created", "Created"),
        (b"\xa0\x07Created", b"Created"),
    ],
)
def test_every_integer_and_text_property_is_read(value: bytes, read: Any) -> None:
    content = b"\xa1\x01k" + value
    data = section(0x74, b"\xc1" + bytes([len(content) + 1, 2]) + content) + BODY
    assert amqp.decode(data).properties == {"k": read}


def test_properties_of_other_types_are_stepped_over() -> None:
    others = b"\xa1\x01a\x41" + b"\xa1\x01b\xc0\x02\x01\x41" + b"\xa1\x01c\x00\xa3\x01t\xa1\x01v" + b"\xa1\x01k\x52\x0a"
    data = section(0x74, b"\xc1" + bytes([len(others) + 1, 8]) + others) + BODY
    assert amqp.decode(data).properties == {"k": 10}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no body"),
        (b"\x92\x01", "no section begins"),
        (b"\x00", "ends within"),
        (b"\x00\x53\x75", "ends within"),
        (b"\x00\x53\x75\xa0\x05abc", "longer than the message"),
        (b"\x00\x53\x75\xb0\xff\xff\xff\xffabc", "longer than the message"),
        (b"\x00\x53\x75\xa1\x03abc", "no binary value"),
        (b"\x00\x53\x75\x10", "constructor"),
        (b"\x00\x53\x99\xa0\x00", "no known kind"),
        (b"\x00\xa3\x01x\xa0\x00", "no numeric descriptor"),
        (section(0x76, b"\x45"), "sequence"),
        (section(0x70, b"\x45"), "no body"),
        (section(0x74, b"\xc1\x04\x02\xa1\x01\xff") + BODY, "not UTF-8"),
        (section(0x74, b"\xc1\x04\x02\xa1\x01k") + BODY, "no value"),
    ],
)
def test_what_is_no_message_is_refused_with_the_place(data: bytes, says: str) -> None:
    with pytest.raises(amqp.AmqpError, match=says):
        amqp.decode(data)


@PROPERTY
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for prefix in (b"", b"\x00\x53\x74\xd1", b"\x00\x53\x75"):
        try:
            amqp.decode(prefix + data)
        except amqp.AmqpError:
            continue


def test_a_count_of_four_billion_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for constructor in (b"\xd0", b"\xd1", b"\xf0"):
        value = constructor + struct.pack(">II", 4, 0xFFFFFFFF)
        for code in (0x71, 0x74):
            assert bytes(amqp.decode(section(code, value) + BODY).body) == b"abc"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
