"""The part of AMQP 1.0 that a stored message is made of, read and written with every size checked.

A stream holds messages in the AMQP 1.0 message format (OASIS, part 3.2): a row of sections, each a described value. We
want two of them, the application properties and the body, and step over the rest by their declared sizes. Unlike a
general decoder this one never allocates by a count that came from outside and never recurses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

#: What an application property may be; other values are stepped over.
Simple = str | bytes | int
Buffer = bytes | memoryview

_APPLICATION_PROPERTIES = 0x74
_DATA = 0x75
_SEQUENCE = 0x76
_VALUE = 0x77
#: header, delivery annotations, message annotations, properties, ..., footer
_SECTIONS = range(0x70, 0x79)

_BINARY = (0xA0, 0xB0)
_TEXT = (0xA1, 0xA3, 0xB1, 0xB3)
_MAPS = (0xC1, 0xD1)
#: Bytes of the value by the high four bits of the constructor (part 1.2.1); larger categories carry their size.
_FIXED_WIDTH = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_UNSIGNED = {0x50: 1, 0x52: 1, 0x53: 1, 0x60: 2, 0x70: 4, 0x80: 8}
_SIGNED = {0x51: 1, 0x54: 1, 0x55: 1, 0x61: 2, 0x71: 4, 0x81: 8}
_ZERO = (0x43, 0x44)
#: Longer properties are read anew each time.
_KNOWN_BYTES = 512


class AmqpError(ValueError):
    """The bytes are not an AMQP 1.0 message; the message says where."""


@dataclass(frozen=True)
class AmqpMessage:
    """Body and simple application properties of one message; the body shares memory with the input."""

    body: Buffer
    properties: Mapping[str, Simple]


def decode(data: Buffer) -> AmqpMessage:
    """The body (data sections joined, or a binary or text value) and the simple application properties.

    Raises AmqpError when it is no AMQP 1.0 message or its body is of another kind.
    """
    view = memoryview(data)
    bodies: list[memoryview] = []
    properties: dict[str, Simple] = {}
    position, end = 0, len(view)
    while position < end:
        section, position = _descriptor(view, position)
        start, after = _extent(view, position)
        code = view[position]
        if section in (_DATA, _VALUE):
            if code not in _BINARY and not (section == _VALUE and code in _TEXT):
                raise AmqpError(f"the body at byte {position} is no binary value (constructor 0x{code:02x})")
            bodies.append(view[start:after])
        elif section == _SEQUENCE:
            raise AmqpError("the body is an AMQP sequence, not binary data")
        elif section == _APPLICATION_PROPERTIES and code in _MAPS:
            properties |= _properties(bytes(view[start:after]), 1 if code == 0xC1 else 4)
        position = after
    if not bodies:
        raise AmqpError("the message has no body")
    return AmqpMessage(bodies[0] if len(bodies) == 1 else b"".join(bodies), properties)


def encode(body: bytes, properties: Mapping[str, Simple]) -> bytes:
    """One message with application properties and one data section, as a producer sends it."""
    fields = b"".join(_encode_simple(key) + _encode_simple(value) for key, value in properties.items())
    head = struct.pack(">II", len(fields) + 4, 2 * len(properties))
    return b"\x00\x53\x74\xd1" + head + fields + b"\x00\x53\x75\xb0" + struct.pack(">I", len(body)) + body


def _descriptor(view: memoryview, position: int) -> tuple[int, int]:
    """Code of the section at `position` and the position of its value."""
    if view[position] != 0x00:
        raise AmqpError(f"no section begins at byte {position}")
    try:
        if view[position + 1] == 0x53:
            section, after = view[position + 2], position + 3
        elif view[position + 1] == 0x80:
            section, after = struct.unpack_from(">Q", view, position + 2)[0], position + 10
        else:
            raise AmqpError(f"the section at byte {position} has no numeric descriptor")
    except (IndexError, struct.error) as error:
        raise AmqpError("the message ends within a section's descriptor") from error
    if section not in _SECTIONS:
        raise AmqpError(f"the section at byte {position} is of no known kind (0x{section:x})")
    return section, after


def _extent(view: memoryview, position: int) -> tuple[int, int]:
    """Where the content of the value whose constructor is at `position` begins and ends."""
    try:
        category = view[position] >> 4
        if category in _FIXED_WIDTH:
            start, size = position + 1, _FIXED_WIDTH[category]
        elif category in (0xA, 0xC, 0xE):
            start, size = position + 2, view[position + 1]
        elif category in (0xB, 0xD, 0xF):
            start, size = position + 5, struct.unpack_from(">I", view, position + 1)[0]
        else:
            raise AmqpError(f"no AMQP type has the constructor 0x{view[position]:02x} (byte {position})")
    except (IndexError, struct.error) as error:
        raise AmqpError("the message ends within a value") from error
    if start + size > len(view):
        raise AmqpError(f"a value of {size} bytes at byte {position} is longer than the message")
    return start, start + size


def _properties(content: bytes, count_width: int) -> Mapping[str, Simple]:
    """The keys and simple values of a map; its content begins with the count of both."""
    return (_known_properties if len(content) <= _KNOWN_BYTES else _read_properties)(content, count_width)


def _read_properties(content: bytes, count_width: int) -> Mapping[str, Simple]:
    view, found = memoryview(content), dict[str, Simple]()
    position, end = count_width, len(view)
    while position < end:
        key, position = _simple(view, position)
        if position >= end:
            raise AmqpError("an application property has no value")
        value, position = _simple(view, position)
        if isinstance(key, str) and value is not None:
            found[key] = value
    return found


#: A producer's messages have the same few properties, over and over.
_known_properties = lru_cache(maxsize=32)(_read_properties)


def _simple(view: memoryview, position: int) -> tuple[Simple | None, int]:
    """The value at `position` when it is text, binary or an integer, else None; and the position after it."""
    code = view[position]
    if code == 0x00:
        # A described value: step over the descriptor and the value.
        _, position = _extent(view, position + 1)
        _, position = _extent(view, position)
        return None, position
    start, after = _extent(view, position)
    if code in _TEXT:
        try:
            return str(view[start:after], "utf-8"), after
        except UnicodeDecodeError as error:
            raise AmqpError("an application property is not UTF-8") from error
    if code in _BINARY:
        return bytes(view[start:after]), after
    if code in _UNSIGNED or code in _SIGNED:
        return int.from_bytes(view[start:after], "big", signed=code in _SIGNED), after
    return (0 if code in _ZERO else None), after


def _encode_simple(value: Simple) -> bytes:
    if isinstance(value, int):
        return b"\x81" + struct.pack(">q", value)
    raw, short, long = (value.encode(), 0xA1, 0xB1) if isinstance(value, str) else (value, 0xA0, 0xB0)
    if len(raw) < 256:
        return bytes((short, len(raw))) + raw
    return bytes((long,)) + struct.pack(">I", len(raw)) + raw
