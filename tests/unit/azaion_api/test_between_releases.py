"""What pods and operator of two releases say to each other while one replaces the other.

The release before runs as its own process from its own sources. Messages hold everything their types allow, but of
enumerations only the words both know: a new word is for a new field, or for a release later.
"""

from __future__ import annotations

import enum
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.release import previous

from azaion_api import report, resources, task

#: Runs in the older release: reads its word of what it is sent, and says back what it understood.
OLDER = """
import enum, importlib, json, pkgutil, sys
import msgspec
import azaion_api
from azaion_api import report, resources, task
TYPES = {name: getattr(module, name) for module in (report, resources, task) for name in dir(module)}
if sys.argv[1] == "words":
    found = {}
    for info in pkgutil.iter_modules(azaion_api.__path__):
        for name, value in vars(importlib.import_module(f"azaion_api.{info.name}")).items():
            if isinstance(value, type) and issubclass(value, enum.StrEnum) and value is not enum.StrEnum:
                found[name] = [str(member) for member in value]
    print(json.dumps(found))
else:
    for line in sys.stdin:
        message = json.loads(line)
        understood = msgspec.json.decode(message["text"], type=TYPES[message["type"]])
        print(msgspec.json.encode(understood).decode())
"""
MESSAGES: dict[str, type] = {
    "RunReport": report.RunReport,
    "IngestReport": report.IngestReport,
    "StorageReport": report.StorageReport,
    "RunTask": task.RunTask,
    "IngestTask": task.IngestTask,
    "TrainingRun": resources.TrainingRun,
    "AnnotationIngest": resources.AnnotationIngest,
    "ModelLine": resources.ModelLine,
}
EXAMPLES = 25


class Older:
    """The release before."""

    def __init__(self, directory: Path) -> None:
        self._path = previous.unpack(directory) / "crds" / "src"
        self.words: dict[str, list[str]] = json.loads(self.run("words"))

    def run(self, what: str, text: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-c", OLDER, what],
            input=text,
            env={"PYTHONPATH": str(self._path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def understands(self, type_: str, texts: list[str]) -> list[str]:
        """Each message as the older release has it after reading it; fails with its words when it refuses one."""
        lines = "".join(json.dumps({"type": type_, "text": text}) + "\n" for text in texts)
        return self.run("read", lines).splitlines()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Older:
    return Older(tmp_path_factory.mktemp("previous") / "sources")


def strategy(type_: Any, words: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Plain values of everything a type may hold, as JSON has them."""
    info = msgspec.inspect.type_info(type_) if not isinstance(type_, msgspec.inspect.Type) else type_
    return _plain(info, words)


def _plain(info: msgspec.inspect.Type, words: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    match info:
        case msgspec.inspect.Metadata(type=inner):
            return _plain(inner, words)
        case msgspec.inspect.StructType(fields=fields):
            return st.fixed_dictionaries(
                {f.encode_name: _plain(f.type, words) for f in fields if f.required},
                optional={f.encode_name: _plain(f.type, words) for f in fields if not f.required},
            )
        case msgspec.inspect.EnumType(cls=cls):
            members = [str(member.value) for member in cls] if issubclass(cls, enum.Enum) else []
            known = [word for word in members if word in words.get(cls.__name__, members)]
            return st.sampled_from(known)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(0 if low is None else low, 10_000 if high is None else min(high, 10_000))
        case msgspec.inspect.FloatType():
            return st.floats(0, 1)
        case msgspec.inspect.StrType(pattern=pattern, max_length=longest):
            most = longest or 40
            if pattern is None:
                return st.text("abcdefghij ", max_size=min(most, 20)).filter(bool)
            return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(lambda text: len(text) <= most)
        case msgspec.inspect.DateTimeType():
            return st.just(datetime(2026, 1, 1, tzinfo=UTC).isoformat().replace("+00:00", "Z"))
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_plain(key, words), _plain(value, words), max_size=2)
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            return st.lists(_plain(item, words), max_size=2)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of(*(_plain(inner, words) for inner in types))
        case msgspec.inspect.AnyType():
            return st.just({})
    raise AssertionError(f"messages hold something new: {info}; teach this test how it looks")


def contains(whole: Any, part: Any) -> bool:
    """Whether everything of `part` is in `whole`, unchanged."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def told(sent: Any, understood: Any) -> Any:
    """What was understood, without the defaults that were not sent."""
    if isinstance(understood, dict) and isinstance(sent, dict):
        return {key: told(sent[key], value) for key, value in understood.items() if key in sent}
    if isinstance(understood, list) and isinstance(sent, list) and len(sent) == len(understood):
        return [told(a, b) for a, b in zip(sent, understood, strict=True)]
    return understood


@pytest.mark.parametrize("name", list(MESSAGES))
def test_the_release_before_understands_ours(older: Older, name: str) -> None:
    @settings(
        max_examples=1, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.lists(strategy(MESSAGES[name], older.words), min_size=EXAMPLES, max_size=EXAMPLES))
    def check(messages: list[Any]) -> None:
        # As our own code writes them.
        texts = [msgspec.json.encode(msgspec.convert(m, MESSAGES[name])).decode() for m in messages]
        for text, understood in zip(texts, older.understands(name, texts), strict=True):
            sent = json.loads(text)
            back = told(sent, json.loads(understood))
            assert contains(sent, back), f"sent {sent}, understood {back}"

    check()


@pytest.mark.parametrize("name", list(MESSAGES))
def test_we_understand_the_release_before(older: Older, name: str) -> None:
    @settings(
        max_examples=1, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.lists(strategy(MESSAGES[name], older.words), min_size=EXAMPLES, max_size=EXAMPLES))
    def check(messages: list[Any]) -> None:
        texts = [msgspec.json.encode(msgspec.convert(m, MESSAGES[name])).decode() for m in messages]
        # What the older release writes of such a message holds its own fields only, all of them.
        for text in older.understands(name, texts):
            ours = json.loads(msgspec.json.encode(msgspec.json.decode(text, type=MESSAGES[name])))
            sent = json.loads(text)
            assert contains(sent, told(sent, ours))

    check()


def test_no_word_that_the_release_before_knows_was_taken_away(older: Older) -> None:
    import importlib
    import pkgutil

    import azaion_api

    now: dict[str, set[str]] = {}
    for module in pkgutil.iter_modules(azaion_api.__path__):
        for name, value in vars(importlib.import_module(f"azaion_api.{module.name}")).items():
            if isinstance(value, type) and issubclass(value, enum.StrEnum):
                now[name] = {str(member) for member in value}
    gone = {name: set(words) - now.get(name, set()) for name, words in older.words.items()}
    assert {name: words for name, words in gone.items() if words} == {}
