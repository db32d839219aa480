"""What is old on the volume and may go, by a line's policy alone: never because an object is missing."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from azaion_api.layout import Layout
from azaion_api.model_card import ModelCard, read_card
from azaion_api.model_line import Keep, Retention, RetentionStatus
from azaion_api.reporter import utc_now
from azaion_api.task import LineTask
from azaion_trainer import files
from azaion_trainer.manifest import formed_sets
from azaion_trainer.model_card import read_evaluation

log = logging.getLogger(__name__)

#: Directories named in the status.
MAX_NAMED = 50
#: A directory that is being removed; a killed pass leaves it, the next one finishes.
_REMOVING = ".removing-"


@dataclass(frozen=True)
class Entry:
    """A directory of the line that the policy speaks of."""

    path: Path
    time: datetime


def retain(layout: Layout, task: LineTask) -> RetentionStatus:
    """Remove what the policy says, or with its dryRun only say so. Raises OSError."""
    policy = task.retention or Retention()
    now = utc_now()
    kept = _kept_always(layout, task)
    going: list[Path] = []
    looked_at = 0
    for keep, entries in (
        (policy.models, models(layout, task.line)),
        (policy.runs, judged_runs(layout, task.line)),
        (policy.datasets, data_sets(layout, task.line)),
    ):
        if keep.count is not None:
            found = list(entries)
            looked_at += len(found)
            going += [entry.path for entry in old(found, keep, now) if entry.path not in kept]
    freed = sum(own_bytes(path) for path in going)
    if not policy.dry_run:
        _sweep(layout)
        for path in going:
            remove(path)
            log.info("removed", extra={"context": {"directory": str(path.relative_to(layout.root))}})
    return RetentionStatus(
        time=now,
        dry_run=policy.dry_run,
        removed=tuple(str(path.relative_to(layout.root)) for path in going[:MAX_NAMED]),
        count=len(going),
        freed_bytes=freed,
        kept=looked_at - len(going),
    )


def sentence(found: RetentionStatus) -> str:
    """What came of it, for people."""
    verb = "would go" if found.dry_run else "went"
    return f"{found.count} directories {verb}, {found.freed_bytes / 1e9:.2f} GB; {found.kept} stay"


def old(entries: list[Entry], keep: Keep, now: datetime) -> list[Entry]:
    """Those beyond the newest `keep.count` that are older than `keep.max_age_days`, oldest first."""
    ordered = sorted(entries, key=lambda entry: (entry.time, entry.path.name))
    limit = now - timedelta(days=keep.max_age_days)
    surplus = len(ordered) - (len(ordered) if keep.count is None else keep.count)
    return [entry for entry in ordered[: max(surplus, 0)] if entry.time <= limit]


def models(layout: Layout, line: str) -> Iterator[Entry]:
    """The line's published models."""
    for path in _directories(layout.models):
        card = read_card(path)
        if card is not None and card.line == line:
            yield Entry(path, card.published)


def judged_runs(layout: Layout, line: str) -> Iterator[Entry]:
    """Runs of the line whose model was judged. What was not judged yet can be resumed, and is never among them."""
    for path in _directories(layout.runs):
        record = read_evaluation(layout.run(f"runs/{path.name}").evaluation)
        if record is not None and record.line == line and record.time is not None:
            yield Entry(path, record.time)


def data_sets(layout: Layout, line: str) -> Iterator[Entry]:
    """Data sets formed by runs of the line; a plain YOLO directory is nobody's to remove."""
    for path, manifest in formed_sets(layout):
        if manifest.line == line:
            yield Entry(path, manifest.formed)


def _kept_always(layout: Layout, task: LineTask) -> frozenset[Path]:
    """What stays whatever the policy says."""
    return frozenset(
        path.resolve()
        for path in (
            *(layout.root / relative for relative in task.protected),
            *_linked_models(layout),
            *_used_by_models(layout, task),
            *_used_by_unjudged_runs(layout),
            *_newest_of_each_plan(layout),
        )
    ) | frozenset(layout.root / relative for relative in task.protected)


def _linked_models(layout: Layout) -> Iterator[Path]:
    """Models that some line's link points to."""
    for link in layout.models.glob("*.pt"):
        if link.is_symlink():
            yield link.resolve().parent


def _used_by_models(layout: Layout, task: LineTask) -> Iterator[Path]:
    """Data sets that the models in use were trained on."""
    in_use = {*_linked_models(layout), *(layout.root / name for name in task.protected if name.startswith("models/"))}
    for path in in_use:
        card: ModelCard | None = read_card(path)
        if card is not None and card.dataset is not None and card.dataset.path:
            yield layout.root / card.dataset.path


def _used_by_unjudged_runs(layout: Layout) -> Iterator[Path]:
    """Data sets of runs that can be resumed: those they were forming or name in the data.yaml of their training."""
    unjudged = [
        path
        for path in _directories(layout.runs)
        if read_evaluation(layout.run(f"runs/{path.name}").evaluation) is None
    ]
    ends = tuple(f"-{path.name[-8:]}" for path in unjudged)
    for path, manifest in formed_sets(layout):
        if f"-{manifest.run_uid[:8]}" in ends:
            yield path
    for path in unjudged:
        try:
            content = yaml.safe_load((path / "data.yaml").read_bytes())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(content, dict) and isinstance(content.get("path"), str):
            yield Path(content["path"])


def _newest_of_each_plan(layout: Layout) -> Iterator[Path]:
    """The sets that keep every image in its split when the next one is formed."""
    newest = {(manifest.source, manifest.plan()): path for path, manifest in formed_sets(layout)}
    yield from newest.values()


def _directories(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from sorted(
            path
            for path in parent.iterdir()
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
        )


def own_bytes(path: Path) -> int:
    """Bytes that removing the directory frees: files that have no other name."""
    return sum(
        status.st_blocks * 512
        for status in (entry.stat(follow_symlinks=False) for entry in _files(path))
        if status.st_nlink == 1
    )


def _files(path: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield entry


def remove(path: Path) -> None:
    """Take the directory's name away at once, then its files: nobody ever sees half of it."""
    hidden = path.with_name(f"{_REMOVING}{path.name}")
    path.rename(hidden)
    files.sync_directory(path.parent)
    shutil.rmtree(hidden)


def _sweep(layout: Layout) -> None:
    """Finish what a killed pass began."""
    for parent in (layout.models, layout.runs, layout.datasets):
        for path in parent.glob(f"{_REMOVING}*"):
            shutil.rmtree(path)
