"""Forming a data set from the annotated images of a data directory."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path

import msgspec
import yaml

from azaion_api.layout import IMAGE_SUFFIXES, Layout, dated_name
from azaion_api.training_run import DatasetStatus
from azaion_trainer import files
from azaion_trainer.checked import CheckedPairs
from azaion_trainer.cores import available_cores
from azaion_trainer.manifest import (
    DATA_FILE,
    MANIFEST_FILE,
    Condemned,
    Manifest,
    digest_line,
    formed_sets,
    images_of,
    list_files,
)
from azaion_trainer.pairs import FileVersion, MissingLabelError, Pair, UnusableError, check_pair, label_of
from azaion_trainer.split import SPLITS, SplitPlan, assign, earlier_groups

log = logging.getLogger(__name__)

NAME_PREFIX = "azaion"
CORRUPTED_DIRECTORY = "data-corrupted"
#: An image may be a moment older than its label while ingest files the two; only then is the label missing.
LABEL_GRACE_S = 5.0
#: A hidden directory this old was left by a run that never came back.
_ABANDONED_S = 86400.0
_CHUNK = 16

#: Called with pairs done and pairs in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FormingRequest:
    """What to form, and for whom."""

    run: str
    run_uid: str
    source: str
    plan: SplitPlan
    names: tuple[str, ...]
    day: date
    #: The model line the run trains for.
    line: str = ""


@dataclass
class Formed:
    """What forming made."""

    path: Path
    manifest: Manifest
    #: Pairs that were copied because a hard link could not reach.
    copied: int = 0


@dataclass
class _Survey:
    """What the check of the source found."""

    good: list[Pair] = field(default_factory=list)
    condemned: list[Condemned] = field(default_factory=list)

    def add(self, name: str, found: Pair | UnusableError | None) -> None:
        if isinstance(found, Pair):
            self.good.append(found)
        elif found is not None:
            self.condemned.append(Condemned(name, str(found)))


def form(layout: Layout, request: FormingRequest, progress: Progress) -> Formed:
    """Form `datasets/azaion-YYYY-MM-DD[-n]/` from `{source}/images` and `{source}/labels`.

    Good pairs are hard-linked, so a file that ingest replaces meanwhile stays as it was checked. Bad ones are moved to
    data-corrupted/ with their reason. All is built in a hidden directory and renamed at the end, so a data set with a
    name is complete. A run that is asked again (its pod was killed) gets the set it formed before. An empty source
    gives empty splits. Raises OSError when the storage fails.
    """
    for path, manifest in formed_sets(layout):
        if manifest.run_uid == request.run_uid:
            log.info("the data set of this run is there already: %s", path.name)
            set_aside(layout, request, (entry.image for entry in manifest.corrupted))
            return Formed(path, manifest)
    offset = stream_offset(layout)
    checked = CheckedPairs(layout.root / request.source, len(request.names))
    survey = _check_source(layout, request, checked, progress)
    earlier = _earlier(layout, request)
    hidden = layout.datasets / f".forming-{request.run_uid[:8]}"
    _sweep(layout, hidden)
    formed = _fill(layout, request, survey, earlier, hidden, checked)
    manifest = msgspec.structs.replace(formed.manifest, stream_offset=offset)
    files.write_bytes(hidden / DATA_FILE, _data_yaml(request.names))
    files.write_bytes(hidden / MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    path = _give_name(layout, hidden, request.day)
    set_aside(layout, request, (entry.image for entry in manifest.corrupted))
    return Formed(path, manifest, formed.copied)


class _OffsetFile(msgspec.Struct, frozen=True):
    """What an AnnotationIngest keeps of the stream: the next offset to read."""

    offset: int


def stream_offset(layout: Layout) -> int | None:
    """The stream offset up to which annotations are on disk: the smallest of all ingests', None without any."""
    offsets = []
    for path in sorted(layout.ingest_state("x").parent.glob("*/offset.json")):
        try:
            offsets.append(msgspec.json.decode(path.read_bytes(), type=_OffsetFile).offset)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("the stream offset in %s cannot be read: %s", path, error)
    return min(offsets, default=None)


def _check_source(layout: Layout, request: FormingRequest, checked: CheckedPairs, progress: Progress) -> _Survey:
    """Judge every pair of the source: those not known to be good are read and decoded, on all cores."""
    names = list_files(layout.images(request.source), IMAGE_SUFFIXES)
    labels = list_files(layout.labels(request.source), (".txt",))
    survey = _Survey()
    unlabelled: list[str] = []
    unknown = []
    for name, inode in names.items():
        pair = checked.find(name, inode, labels)
        if pair is None:
            unknown.append(name)
        else:
            survey.good.append(pair)
    unknown.sort()
    known = len(names) - len(unknown)
    if known:
        progress(known, len(names))
    for number, (name, found) in enumerate(_checked(layout, request, unknown), start=known + 1):
        if isinstance(found, MissingLabelError):
            unlabelled.append(name)
        else:
            survey.add(name, found)
        progress(number, len(names))
    _wait_for_labels(layout, request, unlabelled)
    for name, found in _checked(layout, request, unlabelled):
        survey.add(name, found)
    if unknown or known != len(checked):
        checked.keep(survey.good)
    return survey


def _checked(
    layout: Layout, request: FormingRequest, names: list[str]
) -> Iterator[tuple[str, Pair | UnusableError | None]]:
    """Each name with its good pair, what is wrong with it, or None when it has gone meanwhile."""
    if not names:
        return
    # Threads: decoding and hashing release the interpreter lock, and nothing is copied between processes.
    with ThreadPool(available_cores()) as pool:
        yield from pool.imap_unordered(lambda name: (name, _judge(layout, request, name)), names, chunksize=_CHUNK)


def _judge(layout: Layout, request: FormingRequest, name: str) -> Pair | UnusableError | None:
    """The good pair, what is wrong with it, or None when the image has gone."""
    try:
        return check_pair(layout.images(request.source), layout.labels(request.source), name, len(request.names))
    except FileNotFoundError:
        return None
    except UnusableError as error:
        return error


def _wait_for_labels(layout: Layout, request: FormingRequest, unlabelled: list[str]) -> None:
    """Let the labels arrive of images that are being filed at this very moment."""
    youngest = 0.0
    for name in unlabelled:
        try:
            youngest = max(youngest, (layout.images(request.source) / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    age_s = time.time() - youngest
    if 0 <= age_s < LABEL_GRACE_S:
        time.sleep(LABEL_GRACE_S - age_s)


def _earlier(layout: Layout, request: FormingRequest) -> dict[str, str]:
    """Where the newest data set of the same source and plan put every group."""
    for path, manifest in reversed(formed_sets(layout)):
        if manifest.source == request.source and manifest.plan() == request.plan:
            stems = ((os.path.splitext(name)[0], split) for name, split in images_of(path))
            return earlier_groups(stems, request.plan.group_by)
    return {}


def _sweep(layout: Layout, hidden: Path) -> None:
    """Remove what a killed attempt of this run left, and what others abandoned."""
    layout.datasets.mkdir(parents=True, exist_ok=True)
    for path in layout.datasets.glob(".forming-*"):
        if path == hidden or time.time() - path.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(path)


def _fill(
    layout: Layout,
    request: FormingRequest,
    survey: _Survey,
    earlier: Mapping[str, str],
    hidden: Path,
    checked: CheckedPairs,
) -> Formed:
    """Link every good pair into its split and describe what came of it."""
    for split in SPLITS:
        for kind in ("images", "labels"):
            (hidden / split / kind).mkdir(parents=True)
    survey.good.sort(key=lambda pair: pair.image)
    stems = [os.path.splitext(pair.image)[0] for pair in survey.good]
    splits = assign(stems, request.plan, earlier)
    digest = hashlib.sha256()
    counts = dict.fromkeys(SPLITS, 0)
    objects: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    condemned = list(survey.condemned)
    linker = _Linker(layout, request, hidden)
    good = []
    for pair, stem in zip(survey.good, stems, strict=True):
        split = splits[stem]
        linked = linker.link(pair, f"{stem}.txt", split)
        if isinstance(linked, Condemned):
            condemned.append(linked)
        elif linked is not None:
            good.append(linked)
            counts[split] += 1
            objects[split].update(linked.classes)
            digest.update(digest_line(split, linked.image, linked.image_sha256, linked.label_sha256))
    if linker.checked_again:
        checked.keep(good)
    if linker.copied:
        log.warning(
            "%d files were copied instead of linked: %s is on another file system than datasets/, or another user's",
            linker.copied,
            request.source,
        )
    manifest = Manifest(
        run=request.run,
        run_uid=request.run_uid,
        formed=datetime.now(UTC),
        source=request.source,
        seed=request.plan.seed,
        split=request.plan.split,
        group_by=request.plan.group_by,
        counts=counts,
        per_class={
            split: {request.names[number]: count for number, count in sorted(objects[split].items())}
            for split in SPLITS
        },
        digest=f"sha256:{digest.hexdigest()}",
        corrupted=tuple(sorted(condemned, key=lambda entry: entry.image)),
        line=request.line,
    )
    return Formed(hidden, manifest, linker.copied)


class _Linker:
    """Links pairs as they were checked; one that was replaced since is checked again."""

    _TRIES = 5

    def __init__(self, layout: Layout, request: FormingRequest, hidden: Path) -> None:
        # Texts, as paths would cost more than the links do.
        self._images, self._labels = str(layout.images(request.source)), str(layout.labels(request.source))
        self._class_count = len(request.names)
        self._hidden = str(hidden)
        self.copied = 0
        #: Pairs whose files were not those that had been checked.
        self.checked_again = 0

    def link(self, pair: Pair, label_name: str, split: str) -> Pair | Condemned | None:
        """The pair that is now in the split; Condemned when it turned bad, None when it has gone meanwhile."""
        image, label = f"{self._hidden}/{split}/images/{pair.image}", f"{self._hidden}/{split}/labels/{label_name}"
        for _ in range(self._TRIES):
            try:
                if self._link(f"{self._images}/{pair.image}", image, pair.image_version) and self._link(
                    f"{self._labels}/{label_name}", label, pair.label_version
                ):
                    return pair
                _unlink(image, label)
                self.checked_again += 1
                pair = check_pair(Path(self._images), Path(self._labels), pair.image, self._class_count)
            except FileNotFoundError:
                _unlink(image)
                return None
            except UnusableError as error:
                return Condemned(pair.image, str(error))
        log.warning("%s is left out: it is replaced over and over", pair.image)
        return None

    def _link(self, source: str, target: str, version: FileVersion) -> bool:
        """Whether `target` is now the version that was checked."""
        linked = True
        # Two images of one stem share a label, which is there already for the second.
        with contextlib.suppress(FileExistsError):
            linked = files.link_or_copy(source, target)
        self.copied += not linked
        return FileVersion.of(os.stat(target if linked else source)) == version


def _unlink(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _data_yaml(names: tuple[str, ...]) -> bytes:
    """data.yaml as ultralytics reads it; paths are relative, so the directory may be moved or copied out."""
    content = {
        "train": "train/images",
        "val": "valid/images",
        "test": "test/images",
        "nc": len(names),
        "names": list(names),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def _give_name(layout: Layout, hidden: Path, day: date) -> Path:
    """Rename the finished directory to the first free dated name."""
    for split in SPLITS:
        for kind in ("images", "labels"):
            files.sync_directory(hidden / split / kind)
    files.sync_directory(hidden)
    while True:
        taken = {path.name for path in layout.datasets.iterdir()}
        path = layout.datasets / dated_name(NAME_PREFIX, day, taken)
        try:
            hidden.rename(path)
        except OSError:
            if path.exists():  # somebody was faster; a directory with files is never replaced
                continue
            raise
        files.sync_directory(layout.datasets)
        return path


def set_aside(layout: Layout, request: FormingRequest, images: Iterable[str]) -> int:
    """Move the pairs that are still bad to data-corrupted/{images,labels}, each with its reason; returns how many.

    Each is looked at once more, so one that was mended or replaced meanwhile stays.
    """
    moved = 0
    target_images, target_labels = layout.images(CORRUPTED_DIRECTORY), layout.labels(CORRUPTED_DIRECTORY)
    reasons = layout.root / CORRUPTED_DIRECTORY / "reasons"
    for image in images:
        found = _judge(layout, request, image)
        if not isinstance(found, UnusableError):
            continue
        for directory in (target_images, target_labels, reasons):
            directory.mkdir(parents=True, exist_ok=True)
        label = label_of(image)
        note = {
            "image": image,
            "reason": str(found),
            "from": request.source,
            "run": request.run,
            "time": datetime.now(UTC),
        }
        files.write_bytes(reasons / f"{image}.json", msgspec.json.encode(note))
        (layout.images(request.source) / image).replace(target_images / image)
        with contextlib.suppress(FileNotFoundError):  # a missing label is one of the reasons
            (layout.labels(request.source) / label).replace(target_labels / label)
        log.info("set aside", extra={"context": {"image": image, "reason": str(found)}})
        moved += 1
    return moved


def status_of(layout: Layout, formed: Formed) -> DatasetStatus:
    """What the report says of a formed data set."""
    manifest = formed.manifest
    return DatasetStatus(
        path=str(formed.path.relative_to(layout.root)),
        train=manifest.counts["train"],
        valid=manifest.counts["valid"],
        test=manifest.counts["test"],
        corrupted=len(manifest.corrupted),
        digest=manifest.digest,
        stream_offset=manifest.stream_offset,
    )
