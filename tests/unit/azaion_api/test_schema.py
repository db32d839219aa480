"""Typed resource parts become the structural schemas the API server takes."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from msgspec import Meta

from azaion_api.conditions import Resource
from azaion_api.schema import Frozen, Rule, sentence, structural_schema, without_none


class Colour(enum.StrEnum):
    RED = "Red"
    GREEN = "Green"


class Number(enum.IntEnum):
    ONE = 1


class Inner(Resource, frozen=True, kw_only=True):
    """An inner part."""

    size: Annotated[int, Meta(ge=1, le=9, description="Size.")] = 3
    labels: Annotated[dict[str, str], Meta(max_length=2, description="Labels.")] = msgspec.field(default_factory=dict)


def only(type_: Any, default: Any = msgspec.NODEFAULT) -> dict[str, Any]:
    """The schema of the one field of a part made for the purpose."""
    field = msgspec.NODEFAULT if default is msgspec.NODEFAULT else default
    made = msgspec.defstruct("Made", [("the_field", type_, field)], bases=(Resource,), kw_only=True, frozen=True)
    schema = structural_schema(made)
    assert list(schema["properties"]) == ["theField"], "names are camelCase on the wire"
    assert schema.get("required", []) == (["theField"] if default is msgspec.NODEFAULT else [])
    found: dict[str, Any] = schema["properties"]["theField"]
    return found


D = "Why it is there."


@pytest.mark.parametrize(
    ("type_", "default", "expected"),
    [
        (Annotated[bool, Meta(description=D)], False, {"type": "boolean", "description": D, "default": False}),
        (
            Annotated[int, Meta(ge=1, le=5, multiple_of=2, description=D)],
            4,
            {
                "type": "integer",
                "format": "int64",
                "minimum": 1,
                "maximum": 5,
                "multipleOf": 2,
                "description": D,
                "default": 4,
            },
        ),
        (
            Annotated[int, Meta(gt=1, lt=5, description=D)],
            4,
            {"type": "integer", "format": "int64", "minimum": 2, "maximum": 4, "description": D, "default": 4},
        ),
        (
            Annotated[str, Meta(min_length=1, max_length=5, pattern="^a+$", description=D)],
            "aa",
            {
                "type": "string",
                "minLength": 1,
                "maxLength": 5,
                "pattern": "^a+$",
                "description": D,
                "default": "aa",
            },
        ),
        (
            Annotated[str, Meta(max_length=5, description=D)] | None,
            None,
            {"type": "string", "maxLength": 5, "description": D},
        ),
        (
            Annotated[datetime, Meta(description=D)] | None,
            None,
            {"type": "string", "format": "date-time", "description": D},
        ),
        (
            Annotated[Colour, Meta(description=D)],
            Colour.GREEN,
            {"type": "string", "enum": ["Red", "Green"], "description": D, "default": "Green"},
        ),
        (
            Annotated[Literal["A", "B"], Meta(description=D)],
            "A",
            {"type": "string", "enum": ["A", "B"], "description": D, "default": "A"},
        ),
        (
            Annotated[tuple[Annotated[str, Meta(max_length=3)], ...], Meta(max_length=2, description=D)],
            ("a",),
            {
                "type": "array",
                "items": {"type": "string", "maxLength": 3},
                "maxItems": 2,
                "description": D,
                "default": ["a"],
            },
        ),
        (
            Annotated[tuple[str, ...], Meta(max_length=2, min_length=1, description=D)],
            (),
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2, "description": D},
        ),
        (
            Annotated[dict[str, Annotated[int, Meta(ge=0)]], Meta(max_length=2, min_length=1, description=D)],
            {},
            {
                "type": "object",
                "additionalProperties": {"type": "integer", "format": "int64", "minimum": 0},
                "minProperties": 1,
                "maxProperties": 2,
                "description": D,
            },
        ),
        (
            Annotated[int | str, Meta(description=D)],
            11,
            {
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "description": D,
                "default": 11,
            },
        ),
        (
            Annotated[
                tuple[str, ...], Meta(max_length=2, description=D, extra_json_schema={"x-kubernetes-list-type": "set"})
            ],
            (),
            {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": 2,
                "description": D,
                "x-kubernetes-list-type": "set",
            },
        ),
    ],
    ids=[
        "boolean",
        "integer with bounds",
        "integer with open bounds",
        "string",
        "optional string",
        "time",
        "enum",
        "literal",
        "list of strings",
        "empty list has no default",
        "empty map has no default",
        "integer or string",
        "extra schema",
    ],
)
def test_a_construct_becomes_its_schema(type_: Any, default: Any, expected: dict[str, Any]) -> None:
    found = only(type_, default)
    if "default" in expected:
        # kubectl explain shows descriptions and no defaults.
        expected = {**expected, "description": f"{D} Defaults to {json.dumps(expected['default'])}."}
    assert found == expected


def test_a_field_without_a_default_is_required() -> None:
    assert only(Annotated[int, Meta(description=D)]) == {"type": "integer", "format": "int64", "description": D}


def test_a_part_defaults_to_an_empty_object_so_that_its_fields_default_one_by_one() -> None:
    schema = only(Annotated[Inner, Meta(description=D)], msgspec.field(default_factory=Inner))
    assert schema["default"] == {}
    assert schema["properties"]["size"]["default"] == 3


def test_a_part_whose_default_differs_from_its_own_spells_the_difference_out() -> None:
    schema = only(
        Annotated[Inner, Meta(description=D)], msgspec.field(default_factory=lambda: Inner(labels={"a": "b"}))
    )
    assert schema["default"] == {"labels": {"a": "b"}}
    assert schema["description"] == D + ' Defaults to {"labels": {"a": "b"}}.'


def test_the_docstring_and_the_rules_of_a_part_are_in_its_schema() -> None:
    class Ruled(Resource, frozen=True, kw_only=True):
        """Two
        lines."""

        RULES: ClassVar[tuple[Rule, ...]] = (
            Rule(rule="self.a > 0", message="mend it"),
            Rule("self.a > 1", "mend that", ".a", "FieldValueForbidden", "'no ' + string(self.a)"),
        )
        a: Annotated[int, Meta(description=D)] = 1

    schema = structural_schema(Ruled)
    assert schema["description"] == "Two lines."
    assert schema["x-kubernetes-validations"] == [
        {"rule": "self.a > 0", "message": "mend it", "reason": "FieldValueInvalid"},
        {
            "rule": "!has(self.a) || (self.a > 1)",
            "message": "mend that",
            "reason": "FieldValueForbidden",
            "messageExpression": "'no ' + string(self.a)",
            "fieldPath": ".a",
        },
    ]


class Half(Resource, frozen=True, kw_only=True):
    kept: Annotated[int, Meta(description=D)] = 1
    free: Annotated[int, Meta(description=D)] = 1


class Partly(Resource, frozen=True, kw_only=True):
    FROZEN: ClassVar[tuple[Frozen, ...]] = (Frozen(("inner.kept", "maybe"), "make a new one"),)

    inner: Annotated[Half, Meta(description=D)] = msgspec.field(default_factory=Half)
    maybe: Annotated[str, Meta(description=D, pattern="^x$", extra_json_schema=sentence("say x"))] | None = None


def test_a_frozen_field_has_a_rule_of_its_own_and_one_beside_it_where_it_may_be_absent() -> None:
    schema = structural_schema(Partly)
    words = {"message": "make a new one", "reason": "FieldValueForbidden"}
    inner = schema["properties"]["inner"]
    assert inner["properties"]["kept"]["x-kubernetes-validations"] == [{"rule": "self == oldSelf", **words}]
    assert "x-kubernetes-validations" not in inner
    assert "x-kubernetes-validations" not in inner["properties"]["free"]
    assert schema["properties"]["maybe"]["x-kubernetes-validations"] == [
        {"rule": 'self.matches("^x$")', "message": "say x", "reason": "FieldValueInvalid"},
        {"rule": "self == oldSelf", **words},
    ]
    assert schema["x-kubernetes-validations"] == [
        {"rule": "has(self.maybe) == has(oldSelf.maybe)", "fieldPath": ".maybe", **words}
    ]


@pytest.mark.parametrize(
    ("rule", "path", "written"),
    [
        ("self.a.b > 1", ".a.b", "!has(self.a) || (self.a.b > 1)"),
        ("self.a.b >= oldSelf.a.b", ".a.b", "!has(self.a) || !has(oldSelf.a) || (self.a.b >= oldSelf.a.b)"),
        ("!has(self.a) || self.a.b > 1", ".a.b", "!has(self.a) || self.a.b > 1"),
        ("size(self.metadata.name) < 9", ".metadata.name", "size(self.metadata.name) < 9"),
        ("self.a > 1", None, "self.a > 1"),
    ],
)
def test_a_rule_holds_where_the_part_it_speaks_of_is_absent(rule: str, path: str | None, written: str) -> None:
    """The API server checks the default `{}` of a spec against the rules before it fills in the parts' defaults."""
    assert Rule(rule=rule, message="mend it", field_path=path).to_schema()["rule"] == written


def test_a_pattern_with_a_sentence_becomes_a_rule_that_says_it() -> None:
    meta = Meta(max_length=9, pattern=r"^[a-z]\.pt$", description=D, extra_json_schema=sentence("name a file"))
    assert only(Annotated[str, meta], "a.pt") == {
        "type": "string",
        "maxLength": 9,
        "description": f'{D} Defaults to "a.pt".',
        "default": "a.pt",
        "x-kubernetes-validations": [
            {"rule": r'self.matches("^[a-z]\\.pt$")', "message": "name a file", "reason": "FieldValueInvalid"}
        ],
    }


def test_a_pattern_with_a_sentence_lets_the_numbers_of_an_integer_or_string_pass() -> None:
    extra = {**sentence("give a quantity"), "pattern": "^[0-9]+Gi$"}
    (rule,) = only(Annotated[int | str, Meta(description=D, extra_json_schema=extra)])["x-kubernetes-validations"]
    assert rule["rule"] == 'type(self) == int || self.matches("^[0-9]+Gi$")'


def test_the_description_of_a_field_wins_over_the_docstring_of_its_part() -> None:
    assert only(Annotated[Inner, Meta(description=D)], msgspec.field(default_factory=Inner))["description"] == D


@pytest.mark.parametrize(
    ("type_", "sentence"),
    [
        (int, "Made.theField: every field needs a description"),
        (Annotated[float, Meta(description=D)], "Made.theField: FloatType has no structural schema"),
        (Annotated[tuple[float, ...], Meta(description=D)], r"Made.theField\[\]: FloatType has no structural schema"),
        (Annotated[dict[str, float], Meta(description=D)], r"Made.theField\{\}: FloatType has no structural schema"),
        (Annotated[dict[int, str], Meta(description=D)], "Made.theField: the keys of a map are strings, not IntType"),
        (Annotated[int | bool, Meta(description=D)], "Made.theField: only `T | None` and `int | str`"),
        (Annotated[Number, Meta(description=D)], r"Made.theField: an enum of the API holds words, not \[1\]"),
        (Annotated[Literal[1, 2], Meta(description=D)], r"Made.theField: an enum of the API holds words, not \[1, 2\]"),
    ],
)
def test_what_has_no_structural_form_is_refused_by_the_name_of_the_field(type_: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        only(type_)


def test_without_none_drops_what_the_api_server_would_not_store() -> None:
    assert without_none({"a": None, "b": [{"c": None, "d": 0}, ""], "e": {}}) == {"b": [{"d": 0}, ""], "e": {}}
