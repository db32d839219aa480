"""From typed resources to structural OpenAPI schemas, as the API server wants them.

The API server refuses `$ref`, `anyOf` with null and unbounded CEL inputs, so the schema is written
from msgspec's type information directly instead of being mended after `msgspec.json.schema`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect

Schema = dict[str, Any]

_SENTENCE = "sentence"


class Rule(msgspec.Struct, frozen=True):
    """One CEL rule of the API server, for the part or field at `at` of the class that lists it (`dataset.split`).

    The API server asks every rule at each write of a status as well, and for each field that a rule names it makes anew
    the list of all its neighbours. So a rule stands as deep as it can.

    `rule` must hold; `message` is what a person reads when it does not: what is wrong and what to do. The API server
    puts the path of the field before it (`field_path`, relative to where the rule stands, as `.timestamp`), so the
    message does not repeat it. `message_expression` is CEL for a message with the offending value in it;
    `message` stands in when it cannot be evaluated.
    """

    rule: str
    message: str
    field_path: str | None = None
    reason: str = "FieldValueInvalid"
    message_expression: str | None = None
    at: str = ""

    def to_schema(self) -> Schema:
        found: Schema = {"rule": self._guarded(), "message": self.message, "reason": self.reason}
        if self.message_expression is not None:
            found["messageExpression"] = self.message_expression
        if self.field_path is not None:
            found["fieldPath"] = self.field_path
        return found

    def _guarded(self) -> str:
        """The rule, true where the part it speaks of is absent.

        No stored object lacks a part that has a default, but the API server also checks a default `{}` against the
        rules, and that before it fills in the parts' own defaults.
        """
        part = (self.field_path or "").removeprefix(".").partition(".")[0]
        if part in ("", "metadata") or f"has(self.{part})" in self.rule:
            return self.rule
        sides = ("self", "oldSelf") if "oldSelf." in self.rule else ("self",)
        return " || ".join([*(f"!has({side}.{part})" for side in sides), f"({self.rule})"])


class Frozen(msgspec.Struct, frozen=True):
    """Fields that keep the value they were created with, by their paths in the API (`training.batch`).

    A class lists them as `FROZEN`. `message` says why and what to do instead.
    """

    paths: tuple[str, ...]
    message: str

    def add_to(self, schema: Schema) -> None:
        """Write the rules into the schema of the class: at the fields themselves."""
        for path in self.paths:
            _add_rule(schema, self._rule("self == oldSelf", at=path))
            if "default" not in _part(schema, path):
                # The field's own rule is not asked where there was none, or is none any more.
                parent, _, name = path.rpartition(".")
                _add_rule(schema, self._rule(f"has(self.{name}) == has(oldSelf.{name})", f".{name}", at=parent))

    def _rule(self, rule: str, field_path: str | None = None, *, at: str) -> Rule:
        return Rule(rule=rule, message=self.message, field_path=field_path, reason="FieldValueForbidden", at=at)


def _part(schema: Schema, path: str) -> Schema:
    """The schema of a part or field."""
    for name in path.split(".") if path else ():
        schema = schema["properties"][name]
    return schema


def _add_rule(schema: Schema, rule: Rule) -> None:
    """Write the rule to where it stands."""
    part = _part(schema, rule.at)
    part["x-kubernetes-validations"] = [*part.get("x-kubernetes-validations", ()), rule.to_schema()]


def sentence(text: str) -> dict[str, str]:
    """Extra schema of a string with a pattern: what a person reads instead of the pattern when a value does not match.

    It follows the path of the field, so it begins with what to do: "name a file of models/, for example yolo26m.pt".
    """
    return {_SENTENCE: text}


def structural_schema(type_: type) -> Schema:
    """The structural schema of a typed resource part.

    Raises TypeError naming the field when a type has no structural form or a field has no description.
    """
    return _schema(inspect.type_info(type_), type_.__name__)


def _schema(info: inspect.Type, where: str) -> Schema:
    if isinstance(info, inspect.Metadata):
        found = _schema(info.type, where)
        found.update(info.extra_json_schema or {})
        return _with_sentence(found)
    if isinstance(info, inspect.UnionType):
        return _union(info, where)
    if isinstance(info, inspect.StructType):
        return _struct(info, where)
    if isinstance(info, inspect.BoolType):
        return {"type": "boolean"}
    if isinstance(info, inspect.IntType):
        minimum = info.ge if info.gt is None else info.gt + 1
        maximum = info.le if info.lt is None else info.lt - 1
        return {
            "type": "integer",
            "format": "int64",
            **_bounds(minimum=minimum, maximum=maximum, multipleOf=info.multiple_of),
        }
    if isinstance(info, inspect.StrType):
        return {
            "type": "string",
            **_bounds(minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern),
        }
    if isinstance(info, inspect.DateTimeType):
        return {"type": "string", "format": "date-time"}
    if isinstance(info, inspect.EnumType):
        return {"type": "string", "enum": _words((member.value for member in info.cls), where)}
    if isinstance(info, inspect.LiteralType):
        return {"type": "string", "enum": _words(info.values, where)}
    if isinstance(info, (inspect.ListType, inspect.VarTupleType)):
        return {
            "type": "array",
            "items": _schema(info.item_type, f"{where}[]"),
            **_bounds(minItems=info.min_length, maxItems=info.max_length),
        }
    if isinstance(info, inspect.DictType):
        if not isinstance(info.key_type, inspect.StrType):
            raise TypeError(f"{where}: the keys of a map are strings, not {type(info.key_type).__name__}")
        return {
            "type": "object",
            "additionalProperties": _schema(info.value_type, f"{where}{{}}"),
            **_bounds(minProperties=info.min_length, maxProperties=info.max_length),
        }
    raise TypeError(
        f"{where}: {type(info).__name__} has no structural schema; use str, int, bool, enum, list, map or a Struct"
    )


def _with_sentence(schema: Schema) -> Schema:
    """The pattern as a rule with a message, as the API server's own words for a pattern are the pattern."""
    text = schema.pop(_SENTENCE, None)
    if text is None:
        return schema
    rule = f"self.matches({json.dumps(schema.pop('pattern'))})"
    if schema.get("x-kubernetes-int-or-string"):
        rule = f"type(self) == int || {rule}"
    return {**schema, "x-kubernetes-validations": [Rule(rule=rule, message=text).to_schema()]}


def _words(values: Iterable[Any], where: str) -> list[str]:
    words = list(values)
    if not all(isinstance(word, str) for word in words):
        raise TypeError(f"{where}: an enum of the API holds words, not {words}")
    return words


def _union(info: inspect.UnionType, where: str) -> Schema:
    members = [m for m in info.types if not isinstance(m, inspect.NoneType)]
    if len(members) == 1:
        return _schema(members[0], where)
    kinds = {type(m.type if isinstance(m, inspect.Metadata) else m) for m in members}
    if kinds == {inspect.IntType, inspect.StrType}:
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    raise TypeError(f"{where}: only `T | None` and `int | str` have a structural schema")


def _struct(info: inspect.StructType, where: str) -> Schema:
    properties: Schema = {}
    required: list[str] = []
    for field in info.fields:
        at = f"{where}.{field.encode_name}"
        schema = _schema(field.type, at)
        if "description" not in schema:
            raise TypeError(f"{at}: every field needs a description")
        if field.required:
            required.append(field.encode_name)
        else:
            default = _default(field)
            if default is not None:
                schema["default"] = default
            if default not in (None, {}):
                # `kubectl explain` shows descriptions and no defaults.
                schema["description"] += f" Defaults to {json.dumps(default)}."
        properties[field.encode_name] = schema
    found: Schema = {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    if info.cls.__doc__:
        found["description"] = " ".join(info.cls.__doc__.split())
    rules: tuple[Rule, ...] = getattr(info.cls, "RULES", ())
    for rule in rules:
        _add_rule(found, rule)
    frozen: tuple[Frozen, ...] = getattr(info.cls, "FROZEN", ())
    for fields in frozen:
        fields.add_to(found)
    return found


def _default(field: inspect.Field) -> Any:
    """The default as plain JSON, or None when there is nothing to say.

    A Struct defaults to `{}` so that its own fields' defaults apply one by one; only what this field's default has
    beyond those is spelled out.
    """
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return None
    if isinstance(value, msgspec.Struct):
        own = _plain(type(value)())
        return {name: item for name, item in _plain(value).items() if item != own[name]}
    plain = _plain(value)
    # An empty list or map as a default says nothing that its absence does not.
    return None if plain in ([], {}) else plain


def _plain(value: Any) -> Any:
    """Plain JSON: lists instead of tuples, words instead of enums."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _bounds(**limits: Any) -> Schema:
    return {name: value for name, value in limits.items() if value is not None}


def without_none(value: Any) -> Any:
    """Plain JSON (dictionaries, lists, tuples) with every None dropped from maps, as the API server stores it."""
    # Asked of every field of every status that is written: of the classes alone, not of what is like them.
    if type(value) is dict:
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if type(value) in (list, tuple):
        return [without_none(item) for item in value]
    return value
