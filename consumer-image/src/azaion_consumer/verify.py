"""What is wrong with the annotation directories, seen from the disk alone; safe while the consumer files into them.

A look takes one pass over the names in each directory, without opening a file. What looks wrong is looked at again a
moment later, name by name: a message that was being filed has been filed by then.
"""

from __future__ import annotations

import enum
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from azaion_consumer.messages import EXTENSIONS
from azaion_consumer.tree import Directory, Tree

#: Longer than any batch of moves takes.
SETTLE_S = 2.0


class Kind(enum.StrEnum):
    """What can be wrong with a name."""

    IMAGE_WITHOUT_LABEL = "ImageWithoutLabel"
    LABEL_WITHOUT_IMAGE = "LabelWithoutImage"
    IN_TWO_DIRECTORIES = "InTwoDirectories"
    TWO_IMAGES = "TwoImages"
    STRAY_FILE = "StrayFile"


#: What each kind means, and what to do about it.
MEANING = {
    Kind.IMAGE_WITHOUT_LABEL: "an image whose label is missing; a replay from before it was filed restores the label",
    Kind.LABEL_WITHOUT_IMAGE: "a label whose image is missing; a replay from before it was filed restores the image",
    Kind.IN_TWO_DIRECTORIES: "images of one name in several directories; a replay removes or moves those the stream "
    "says have moved on",
    Kind.TWO_IMAGES: "images of one name in several formats in one directory",
    Kind.STRAY_FILE: "a file that is neither an image nor a label; nothing of ours writes it there",
}


class Finding(msgspec.Struct, frozen=True, order=True):
    """One name or file; `places` are paths relative to the storage root."""

    kind: Kind
    name: str
    places: tuple[str, ...]


class Verification(msgspec.Struct, frozen=True, rename="camel"):
    """What a look found."""

    images: dict[str, int]
    labels: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Kind, int]:
        return dict(sorted(Counter(finding.kind for finding in self.findings).items()))


class _Names:
    """Names in one directory of the tree."""

    def __init__(self, directory: Directory) -> None:
        self.images: set[str] = set()
        self.several: set[str] = set()
        self.strays: list[str] = []
        self.labels: set[str] = set()
        for name in _files(directory.images_path):
            stem, extension = os.path.splitext(name)
            if extension not in EXTENSIONS:
                self.strays.append(f"{directory.images_path}/{name}")
            elif stem in self.images:
                self.several.add(stem)
            else:
                self.images.add(stem)
        for name in _files(directory.labels_path):
            stem, extension = os.path.splitext(name)
            if extension == ".txt":
                self.labels.add(stem)
            else:
                self.strays.append(f"{directory.labels_path}/{name}")


def verify(tree: Tree, settle_s: float = SETTLE_S, pause: Callable[[float], None] = time.sleep) -> Verification:
    """Look at the tree. Raises OSError when a directory cannot be read."""
    found = [_Names(directory) for directory in tree.directories]
    suspects = set().union(*(names.images ^ names.labels | names.several for names in found))
    for index, names in enumerate(found):
        for other in found[index + 1 :]:
            suspects |= names.images & other.images
    strays = [path for names in found for path in names.strays]
    if suspects or strays:
        pause(settle_s)
    findings = [finding for name in suspects for finding in _look(tree, name)]
    findings += [
        Finding(Kind.STRAY_FILE, Path(path).name, (str(Path(path).relative_to(tree.root)),))
        for path in strays
        if os.path.lexists(path)
    ]
    return Verification(
        {d.name: len(n.images) for d, n in zip(tree.directories, found, strict=True)},
        {d.name: len(n.labels) for d, n in zip(tree.directories, found, strict=True)},
        tuple(sorted(findings)),
    )


def _look(tree: Tree, name: str) -> Iterable[Finding]:
    """What is wrong with one name now."""
    images: list[str] = []
    directories = 0
    for directory in tree.directories:
        here = [path for extension in EXTENSIONS if os.path.lexists(path := directory.image(name, extension))]
        label = os.path.lexists(directory.label(name))
        if here and not label:
            yield _finding(tree, Kind.IMAGE_WITHOUT_LABEL, name, here)
        if label and not here:
            yield _finding(tree, Kind.LABEL_WITHOUT_IMAGE, name, [directory.label(name)])
        if len(here) > 1:
            yield _finding(tree, Kind.TWO_IMAGES, name, here)
        images += here
        directories += bool(here)
    if directories > 1:
        yield _finding(tree, Kind.IN_TWO_DIRECTORIES, name, images)


def _finding(tree: Tree, kind: Kind, name: str, paths: Iterable[str]) -> Finding:
    return Finding(kind, name, tuple(os.path.relpath(path, tree.root) for path in paths))


def _files(path: str) -> Iterable[str]:
    with os.scandir(path) as entries:
        for entry in entries:
            yield entry.name


def table(found: Verification, limit: int | None) -> str:
    """The verification for people; at most `limit` findings of each kind are named."""
    lines = ["DIRECTORY            IMAGES     LABELS"]
    lines += [f"{name:<16}{found.images[name]:>11}{found.labels[name]:>11}" for name in found.images]
    if not found.findings:
        return "\n".join([*lines, "", "every image has its label, every label its image, each in one directory"])
    for kind, count in found.counts.items():
        lines += ["", f"{kind}: {count} ({MEANING[kind]})"]
        named = [finding for finding in found.findings if finding.kind is kind]
        lines += [f"  {', '.join(finding.places)}" for finding in named[:limit]]
        if limit is not None and count > limit:
            lines.append(f"  and {count - limit} more; --all names them")
    return "\n".join(lines)
