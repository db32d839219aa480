"""The dated models of a Compose installation, and which of them models/azaion.pt is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from azaion_api.layout import Layout, dated_name
from azaion_api.model_card import ModelCard, foreign_uid, read_card
from azaion_kubectl.errors import CommandError

#: Where a training of the Compose installation leaves its best weights, the first that is there.
_WEIGHTS = ("{line}.pt", "best.pt", "weights/best.pt")
_REASON = "adopted from Docker Compose"


@dataclass(frozen=True)
class DatedModel:
    """A directory of models/."""

    name: str
    #: When the line's history says it became current: the day in its name.
    day: date
    #: Relative to the directory; None when no model is in it.
    weights: str | None
    carded: bool
    #: The directory is still to be made, for a model that lies beside the dated ones.
    new: bool = False

    def file(self, line: str) -> str:
        """The model beside the card: weights of a directory below get a second name there."""
        return self.weights if self.weights is not None and "/" not in self.weights else f"{line}.pt"


@dataclass(frozen=True)
class Current:
    """What models/<line>.pt is."""

    model: DatedModel
    #: The file itself, relative to models/.
    file: str
    #: Whether the link has to be made, or pointed elsewhere.
    switch: bool
    #: What is there now, for people.
    now: str


def dated_models(layout: Layout, line: str) -> list[DatedModel]:
    """The line's directories of models/, oldest first."""
    pattern = re.compile(rf"{re.escape(line)}-(\d{{4}}-\d{{2}}-\d{{2}}).*")
    found = []
    for name in sorted(os.listdir(layout.models)):
        match = pattern.fullmatch(name)
        directory = layout.models / name
        if match is None or directory.is_symlink() or not directory.is_dir():
            continue
        try:
            day = date.fromisoformat(match[1])
        except ValueError:
            continue
        found.append(DatedModel(name, day, _weights(directory, line), read_card(directory) is not None))
    return found


def _weights(directory: Path, line: str) -> str | None:
    for name in _WEIGHTS:
        path = directory / name.format(line=line)
        if path.is_file() and not path.is_symlink():
            return name.format(line=line)
    others = [path for path in directory.glob("*.pt") if path.is_file() and not path.is_symlink()]
    return others[0].name if len(others) == 1 else None


def find_current(layout: Layout, line: str, models: Iterable[DatedModel], old_root: str) -> Current | None:
    """What the line's file is; None when there is none. `old_root` is what containers called the tree's root.

    Raises CommandError when it is no model that can be taken over.
    """
    link, models = layout.model_link(line), list(models)
    if link.is_symlink():
        return _of_link(layout, line, models, old_root)
    if not link.exists():
        return None
    if not link.is_file():
        raise CommandError(f"{link} is no file; move it away, or put the current model there")
    for model in reversed(models):
        if model.weights is not None and same_content(link, layout.models / model.name / model.weights):
            return Current(model, f"{model.name}/{model.weights}", True, f"a copy of {model.name}")
    return Current(_new_directory(layout, line, link), link.name, True, "a file that no dated model is the same as")


def _of_link(layout: Layout, line: str, models: list[DatedModel], old_root: str) -> Current:
    link = layout.model_link(line)
    text = os.readlink(link)
    target = Path(os.path.normpath(layout.models / text))
    for prefix in (Path(old_root), layout.root):
        if Path(text).is_absolute() and Path(text).is_relative_to(prefix):
            target = layout.root / Path(text).relative_to(prefix)
            break
    if not target.is_relative_to(layout.models) or not target.is_file() or target.is_symlink():
        raise CommandError(
            f"{link} is a symbolic link to {text}, where there is no model within {layout.models}; "
            "point it to a model of a dated directory, or remove it"
        )
    inside = target.relative_to(layout.models)
    now = f"a link to {text}"
    if len(inside.parts) == 1:
        return Current(_new_directory(layout, line, target), inside.name, True, now)
    name = inside.parts[0]
    model = next((model for model in models if model.name == name), None)
    if model is None:
        carded = read_card(layout.models / name) is not None
        model = DatedModel(name, _day(target), None, carded)
    # The file it names, also where the directory holds another one as well.
    model = replace(model, weights=str(inside.relative_to(name)))
    return Current(model, str(inside), text != f"{name}/{model.file(line)}", now)


def _new_directory(layout: Layout, line: str, file: Path) -> DatedModel:
    day = _day(file)
    return DatedModel(dated_name(line, day, set(os.listdir(layout.models))), day, None, carded=False, new=True)


def _day(file: Path) -> date:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).date()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    return os.path.samefile(one, other) or sha256_of(one) == sha256_of(other)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_of(line: str, model: DatedModel, sha256: str, number: int) -> ModelCard:
    """The card of an adopted model; `number` orders those of one day."""
    published = datetime(model.day.year, model.day.month, model.day.day, tzinfo=UTC) + timedelta(seconds=number)
    return ModelCard(
        name=model.name,
        line=line,
        run="",
        run_uid=foreign_uid(model.name),
        published=published,
        model=model.file(line),
        sha256=sha256,
        dataset=None,
        evaluation=None,
        per_class={},
        exports=(),
        reason=_REASON,
        ultralytics="",
    )
