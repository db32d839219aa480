"""From classes.json to the 80 class names of a data set."""

from __future__ import annotations

import enum
from pathlib import Path

import msgspec

from azaion_trainer.failures import BadDataError

CLASS_COUNT = 80


class Weather(enum.IntEnum):
    """Offsets by which an annotation's class id tells the weather."""

    NORM = 0
    WINT = 20
    NIGHT = 40


class BaseClass(msgspec.Struct, frozen=True):
    """One entry of classes.json; other keys (ShortName, Color) are for the annotation tools."""

    id: int = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")


def class_names(classes: list[BaseClass]) -> tuple[str, ...]:
    """80 names: `Name` for class Id, `Name(Wint)` at Id + 20, `Name(Night)` at Id + 40, `Class-N` where none is used.

    Raises BadDataError when ids are twice there, leave the room between two offsets, or a name is empty.
    """
    room = Weather.WINT - Weather.NORM
    names = [f"Class-{number}" for number in range(CLASS_COUNT)]
    seen: set[int] = set()
    for entry in classes:
        if not 0 <= entry.id < room:
            raise BadDataError(f"classes: Id {entry.id} ({entry.name}) is not from 0 to {room - 1}")
        if entry.id in seen:
            raise BadDataError(f"classes: Id {entry.id} is there twice; every class needs an Id of its own")
        if not entry.name.strip():
            raise BadDataError(f"classes: Id {entry.id} has no Name")
        seen.add(entry.id)
        for weather in Weather:
            suffix = "" if weather is Weather.NORM else f"({weather.name.title()})"
            names[entry.id + weather] = entry.name + suffix
    return tuple(names)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The 80 names by a classes.json. Raises BadDataError saying what is wrong with the file."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[BaseClass])
    except FileNotFoundError:
        raise BadDataError(
            f"{path.name} is missing at the top of the storage; put the list of {{Id, Name, ShortName, Color}} there"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadDataError(f"{path.name} is not a list of {{Id, Name, ShortName, Color}}: {error}") from error
    return class_names(entries)
