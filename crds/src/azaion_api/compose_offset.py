"""The Compose installation's offset file: one number, bare or as the value of one key."""

from __future__ import annotations

import re

#: Its name at the top of the tree.
OFFSET_FILE = "offset.yaml"
_NUMBER = re.compile(r"^(\s*(?:[\w-]+\s*:)?\s*['\"]?)(\d{1,18})(['\"]?\s*(?:#.*)?)$", re.MULTILINE)


def next_offset(text: str) -> int | None:
    """The next message to read; None when the text holds none.

    Where it was the last message read instead, that one is filed twice, which changes nothing.
    """
    match = _NUMBER.search(text)
    return None if match is None else int(match[2])


def with_next_offset(text: str, offset: int) -> str:
    """The same text with another number."""
    return _NUMBER.sub(rf"\g<1>{offset}\g<3>", text, count=1)


def taken_over_by(ingest: str) -> str:
    """The file's name once that AnnotationIngest has begun at its number."""
    return f"{OFFSET_FILE}.taken-over-by-{ingest}"
