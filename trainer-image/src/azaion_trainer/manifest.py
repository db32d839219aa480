"""What a formed data set says of itself: manifest.json beside its data.yaml."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from azaion_api.layout import IMAGE_SUFFIXES, Layout
from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SPLITS, SplitPlan

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
DATA_FILE = "data.yaml"
MANIFEST_VERSION = 1


class Condemned(msgspec.Struct, frozen=True, rename="camel"):
    """A pair that was set aside, and why."""

    image: str
    reason: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a formed data set is: manifest.json beside its data.yaml."""

    version: int = MANIFEST_VERSION
    run: str
    run_uid: str
    formed: datetime
    source: str
    seed: int
    split: Split
    group_by: GroupBy
    #: Images per split.
    counts: dict[str, int]
    #: Objects per split and class name.
    per_class: dict[str, dict[str, int]]
    #: sha256 over split, name and contents of every pair.
    digest: str
    #: Offset up to which the annotation stream was on disk before the first file was looked at.
    stream_offset: int | None = None
    corrupted: tuple[Condemned, ...] = ()
    #: The model line whose run formed it.
    line: str = ""

    def plan(self) -> SplitPlan:
        return SplitPlan(self.seed, self.split, self.group_by)


def list_images(directory: Path) -> list[str]:
    """Names of the image files in a directory, sorted; nothing when the directory is not there."""
    return sorted(list_files(directory, IMAGE_SUFFIXES))


def list_files(directory: Path, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Inode by name of the files with one of those endings; nothing when the directory is not there."""
    try:
        with os.scandir(directory) as entries:
            return {
                entry.name: entry.inode()
                for entry in entries
                if not entry.name.startswith(".")
                and entry.name.lower().endswith(suffixes)
                and entry.is_file(follow_symlinks=False)
            }
    except FileNotFoundError:
        return {}


def formed_sets(layout: Layout) -> list[tuple[Path, Manifest]]:
    """The data sets with a readable manifest of ours, oldest first."""
    found = []
    if layout.datasets.is_dir():
        for path in layout.datasets.iterdir():
            if not path.name.startswith("."):
                manifest = read_manifest(path)
                if manifest is not None:
                    found.append((path, manifest))
    return sorted(found, key=lambda item: (item[1].formed, item[0].name))


def read_manifest(path: Path) -> Manifest | None:
    """A data set's manifest; None when it has none, or one of another version or somebody else's."""
    try:
        manifest = msgspec.json.decode((path / MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return manifest if manifest.version == MANIFEST_VERSION else None


def images_of(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, split) of every image of a formed data set."""
    for split in SPLITS:
        for name in list_images(path / split / "images"):
            yield name, split


def trained_on(layout: Layout, relative: str) -> frozenset[str]:
    """Stems of the images of a data set that a training sees: those it learns from and those it is validated on."""
    path = layout.root / relative
    names = (name for split in ("train", "valid") for name in list_images(path / split / "images"))
    return frozenset(os.path.splitext(name)[0] for name in names)


def digest_line(split: str, image: str, image_sha256: bytes, label_sha256: bytes) -> bytes:
    """A pair's part of the data set's digest; an image without label has an empty label digest."""
    return f"{split}\0{image}\0{image_sha256.hex()}\0{label_sha256.hex()}\n".encode(errors="surrogateescape")
