"""Every line a part of ours writes is one JSON object."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from azaion_api.logs import JsonFormatter, configure


def line(message: str, *args: object, level: int = logging.INFO, **extra: object) -> dict[str, Any]:
    record = logging.LogRecord("azaion_trainer.train", level, "train.py", 1, message, args, None)
    record.created = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC).timestamp()
    vars(record).update(extra)
    text = JsonFormatter("trainer").format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_record_is_one_object_with_the_founding_fields() -> None:
    assert line("epoch %d of %d", 3, 120, context={"epoch": 3}) == {
        "timestamp": "2026-01-31T12:00:00.123Z",
        "level": "INFO",
        "service": "trainer",
        "message": "epoch 3 of 120",
        "context": {"logger": "azaion_trainer.train", "epoch": 3},
    }


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "DEBUG"),
        (logging.INFO, "INFO"),
        (logging.WARNING, "WARN"),
        (logging.ERROR, "ERROR"),
        (logging.CRITICAL, "ERROR"),
    ],
)
def test_levels_have_their_founding_names(level: int, name: str) -> None:
    assert line("x", level=level)["level"] == name


def test_an_exception_is_on_the_same_line_with_its_trace() -> None:
    try:
        int("x")
    except ValueError:
        found = line("no number", exc_info=sys.exc_info())
    assert found["message"] == "no number"
    assert found["context"]["trace"].startswith("Traceback (most recent call last):\n")
    assert found["context"]["trace"].endswith("ValueError: invalid literal for int() with base 10: 'x'")


def test_line_ends_in_a_message_stay_in_the_line() -> None:
    assert line("a\nb\r\nc\u2028d")["message"] == "a\nb\r\nc\u2028d"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"\x89PNG" * 1000, "<4000 bytes>"),
        ([bytearray(3), {"image": memoryview(b"12")}], ["<3 bytes>", {"image": "<2 bytes>"}]),
        (float("nan"), None),
        ({"map50": float("inf")}, {"map50": None}),
        (Path("/azaion/data"), "/azaion/data"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00Z"),
        ({1: "a"}, {"1": "a"}),
        (ZeroDivisionError("x"), "x"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_any_value_can_be_context(value: object, written: object) -> None:
    assert line("x", context={"value": value})["context"]["value"] == written


def test_bytes_are_counted_and_never_written() -> None:
    text = json.dumps(line("x", context={"image": b"secret" * 100}))
    assert "secret" not in text
    assert "c2VjcmV0" not in text, "base64 is no better"


def test_a_file_name_that_is_not_utf_8_does_not_lose_the_line() -> None:
    name = b"frame-\xff.jpg".decode("utf-8", "surrogateescape")
    found = line("%s is no image", name, context={"file": name, "keys": {(1, 2): 3}, "share": float("nan")})
    assert found["message"] == "frame-\udcff.jpg is no image"
    assert found["context"] == {
        "logger": "azaion_trainer.train",
        "file": "frame-\udcff.jpg",
        "keys": {},
        "share": None,
    }


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="log level 'LOUD' is not one of DEBUG, INFO, WARN, ERROR"):
        configure("trainer", "LOUD")


PROGRAM = """
import logging, sys, threading, warnings
from azaion_api.logs import configure

configure("trainer", "warn")
log = logging.getLogger("somebody.else")
log.info("too quiet")
log.warning("first", extra={"context": {"epoch": 1}})
warnings.warn("old ways", DeprecationWarning, stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="loader")
thread.start()
thread.join()
configure("trainer")
log.info("once")
raise RuntimeError("the\\nend")
"""


def test_a_whole_process_writes_nothing_but_json_even_when_it_dies() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert [(found["level"], found["message"].splitlines()[0]) for found in lines] == [
        ("WARN", "first"),
        ("WARN", "<string>:9: DeprecationWarning: old ways"),
        ("ERROR", "uncaught ZeroDivisionError in thread loader: division by zero"),
        ("INFO", "once"),
        ("ERROR", "uncaught RuntimeError: the"),
    ]
    assert "ZeroDivisionError: division by zero" in lines[2]["context"]["trace"]
    assert lines[4]["context"]["trace"].endswith("RuntimeError: the\nend")
