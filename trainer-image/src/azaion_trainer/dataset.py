"""Data sets as the later stages see them: formed here, or a plain YOLO directory somebody made."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import yaml

from azaion_api.layout import Layout
from azaion_api.training_run import DatasetStatus
from azaion_trainer import files
from azaion_trainer.cores import available_cores
from azaion_trainer.failures import BadDataError, BadSpecError
from azaion_trainer.forming import Progress
from azaion_trainer.manifest import DATA_FILE, MANIFEST_FILE, Manifest, digest_line, list_images, read_manifest
from azaion_trainer.pairs import UnusableError, check_image, check_pair, label_of
from azaion_trainer.split import SPLITS
from azaion_trainer.stage import StageContext

_CHUNK = 16
#: Batches of each split a smoke run sees, and their size where the run leaves that to the GPU's memory.
_SMOKE_BATCHES = 2
_SMOKE_BATCH = 16


@dataclass(frozen=True)
class DataSet:
    """A data set that can be trained on; directories are absolute, named as ultralytics wants them."""

    path: Path
    names: tuple[str, ...]
    images: Mapping[str, tuple[Path, ...]]
    manifest: Manifest | None = None

    def training_yaml(self) -> bytes:
        """The file ultralytics is given, made from checked values: nothing in a user's data.yaml runs or downloads."""
        content: dict[str, Any] = {
            "path": str(self.path),
            "train": [str(path) for path in self.images["train"]],
            "val": [str(path) for path in self.images["valid"]],
            "nc": len(self.names),
            "names": dict(enumerate(self.names)),
        }
        if self.images["test"]:
            content["test"] = [str(path) for path in self.images["test"]]
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def open_data_set(layout: Layout, relative: str) -> DataSet:
    """The data set at `datasets/NAME`, ours or a plain YOLO directory.

    Raises BadDataError when its data.yaml, directories or class names are not usable.
    """
    path = layout.root / relative
    if not path.is_dir():
        raise BadDataError(f"{relative} is not there; look at datasets/ for what is")
    if not files.within(layout.root, path):
        raise BadDataError(f"{relative} leads out of the storage by a symbolic link; copy the data set into datasets/")
    content = _read_data_yaml(path, relative)
    names = _names(content, relative)
    images = {
        "train": _image_directories(layout, path, content, ("train",), relative),
        "valid": _image_directories(layout, path, content, ("val", "valid", "validation"), relative),
        "test": _image_directories(layout, path, content, ("test",), relative),
    }
    for split in ("train", "valid"):
        if not images[split]:
            raise BadDataError(f"{relative}/{DATA_FILE} names no directory for the {split} split")
    return DataSet(path.resolve(), names, images, read_manifest(path))


def data_set_of(context: StageContext) -> DataSet:
    """The data set `prepare` found, for training and judging; in a smoke run two batches of each split of it.

    Raises BadSpecError when the task names none and BadDataError when it is not usable.
    """
    described = context.task.dataset
    if described is None:
        raise BadSpecError("the task names no data set; the stage prepare has to come first")
    found = open_data_set(context.layout, described.path)
    if not context.task.spec.smoke:
        return found
    asked = context.task.spec.training.batch
    batch = context.task.batch or (asked if isinstance(asked, int) else _SMOKE_BATCH)
    return sampled(found, context.run.root / "smoke", _SMOKE_BATCHES * batch)


def sampled(data_set: DataSet, directory: Path, images: int) -> DataSet:
    """The first images of each split with their labels, linked into `directory`, which is made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    places: dict[str, tuple[Path, ...]] = {}
    for split in SPLITS:
        target = directory / split / "images"
        pairs = [(source, name) for source in data_set.images[split] for name in list_images(source)]
        for part in (target, Path(*_labels_for(target))):
            part.mkdir(parents=True)
        for source, name in pairs[:images]:
            files.link_or_copy(source / name, target / name)
            label = Path(*_labels_for(source)) / label_of(name)
            if label.exists():
                files.link_or_copy(label, Path(*_labels_for(target)) / label.name)
        places[split] = (target,) if pairs else ()
    return DataSet(directory, data_set.names, places)


def _read_data_yaml(path: Path, relative: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load((path / DATA_FILE).read_bytes())
    except FileNotFoundError:
        raise BadDataError(f"{relative} has no {DATA_FILE}, where a YOLO data set names splits and classes") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadDataError(f"{relative}/{DATA_FILE} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise BadDataError(f"{relative}/{DATA_FILE} is not a map of train, val and names")
    return content


def _names(content: dict[str, Any], relative: str) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise BadDataError(f"{relative}/{DATA_FILE}: the keys of names have to be 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise BadDataError(f"{relative}/{DATA_FILE}: names has to list the class names")
    if content.get("nc", len(names)) != len(names):
        raise BadDataError(f"{relative}/{DATA_FILE}: nc is {content['nc']}, but names has {len(names)} entries")
    return tuple(str(name) for name in names)


def _image_directories(
    layout: Layout, path: Path, content: dict[str, Any], keys: tuple[str, ...], relative: str
) -> tuple[Path, ...]:
    """Absolute image directories of a split; none when data.yaml does not name it."""
    value = next((content[key] for key in keys if content.get(key)), None)
    if value is None:
        return ()
    found = []
    base = path / str(content.get("path") or "")
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str):
            raise BadDataError(f"{relative}/{DATA_FILE}: {keys[0]} has to be a directory or a list of directories")
        candidates = [base / entry, path / entry, path / entry.removeprefix("../")]
        directory = next((candidate for candidate in candidates if candidate.is_dir()), None)
        if directory is None:
            raise BadDataError(f"{relative}/{DATA_FILE}: {keys[0]} names {entry}, which is no directory there")
        if not files.within(layout.root, directory):
            raise BadDataError(f"{relative}/{DATA_FILE}: {keys[0]} names {entry}, which lies outside the storage")
        if "images" not in directory.resolve().parts:
            raise BadDataError(
                f"{relative}/{DATA_FILE}: {keys[0]} names {entry}; labels are found by replacing images/ with labels/, "
                "so the directory has to lie in one called images"
            )
        found.append(directory.resolve())
    return tuple(found)


def verify(data_set: DataSet, progress: Progress) -> DatasetStatus:
    """Read every pair of a data set and return its description with `path` left to the caller.

    One of ours has to match its manifest; a plain one may lack labels (background images). Raises BadDataError naming
    what differs or the first pairs that cannot be used.
    """
    work = [
        (split, directory, name)
        for split in SPLITS
        for directory in data_set.images[split]
        for name in list_images(directory)
    ]
    counts = dict.fromkeys(SPLITS, 0)
    lines: list[bytes] = []
    bad: list[str] = []
    plain = data_set.manifest is None

    def check(item: tuple[str, Path, str]) -> tuple[str, bytes, str]:
        split, directory, name = item
        try:
            return split, _existing_line(data_set, split, directory, name, plain), ""
        except (UnusableError, FileNotFoundError) as error:
            return split, b"", f"{directory / name}: {error}"

    with ThreadPool(available_cores()) as pool:
        for number, (split, line, fault) in enumerate(pool.imap(check, work, chunksize=_CHUNK), start=1):
            if fault:
                bad.append(fault)
            else:
                counts[split] += 1
                lines.append(line)
            progress(number, len(work))
    if bad:
        shown = "; ".join(fault.removeprefix(f"{data_set.path}/") for fault in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise BadDataError(f"{len(bad)} of {len(work)} pairs of {data_set.path.name} cannot be used: {shown}{more}")
    # In the order of the image names, as when the set was formed.
    lines.sort(key=lambda line: line.split(b"\0", 2)[1])
    digest = f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"
    return _compare(data_set, counts, digest)


def _existing_line(data_set: DataSet, split: str, directory: Path, name: str, plain: bool) -> bytes:
    labels = Path(*_labels_for(directory))
    if plain and not (labels / label_of(name)).exists():
        content = (directory / name).read_bytes()
        check_image(content)
        return digest_line(split, name, hashlib.sha256(content).digest(), b"")
    pair = check_pair(directory, labels, name, len(data_set.names))
    return digest_line(split, pair.image, pair.image_sha256, pair.label_sha256)


def _labels_for(directory: Path) -> tuple[str, ...]:
    """Where ultralytics looks for labels: the last `images` of the path replaced."""
    parts = list(directory.parts)
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return tuple(parts)


def _compare(data_set: DataSet, counts: dict[str, int], digest: str) -> DatasetStatus:
    manifest = data_set.manifest
    if manifest is not None and (counts != manifest.counts or digest != manifest.digest):
        raise BadDataError(
            f"{data_set.path.name} is not what its {MANIFEST_FILE} says: {counts} images and digest {digest} "
            f"instead of {manifest.counts} and {manifest.digest}; files were changed since it was formed. "
            f"Form a new data set, or remove {MANIFEST_FILE} to use the directory as it is"
        )
    return DatasetStatus(
        path="",
        train=counts["train"],
        valid=counts["valid"],
        test=counts["test"],
        corrupted=len(manifest.corrupted) if manifest else 0,
        digest=digest,
        stream_offset=manifest.stream_offset if manifest else None,
    )
