"""The annotation directories: `{data,data-seed,data_deleted}/{images,labels}`, changed by renames only.

A file of the tree is never opened for writing: the trainer's data sets hard-link images, and a reader must never see
half a file. A put whose staged file is gone is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from azaion_api.annotation_ingest import IngestStorage
from azaion_api.layout import Layout
from azaion_consumer.messages import EXTENSIONS

DIRECTORY_MODE = 0o775
FILE_MODE = 0o664


@dataclass
class Directory:
    """One of the three, and what is known of its images."""

    name: str
    images_path: str
    labels_path: str
    #: Images in it; kept by differences after one count.
    images: int = 0
    #: Extensions its images have; others need not be looked for.
    extensions: set[str] = field(default_factory=lambda: set(EXTENSIONS))

    def image(self, stem: str, extension: str) -> str:
        return f"{self.images_path}/{stem}{extension}"

    def label(self, stem: str) -> str:
        return f"{self.labels_path}/{stem}.txt"


class Tree:
    """The directories of one ingest below one storage root. Every method may raise OSError."""

    def __init__(self, root: Path, names: IngestStorage) -> None:
        self.root = root
        layout = Layout(root)

        def directory(name: str) -> Directory:
            return Directory(name, str(layout.images(name)), str(layout.labels(name)))

        self.data = directory(names.data)
        self.seed = directory(names.data_seed)
        self.deleted = directory(names.data_deleted)
        self.directories = (self.data, self.seed, self.deleted)
        self.names = tuple(directory.name for directory in self.directories)

    @classmethod
    def of(cls, root: Path, names: Sequence[str]) -> Self:
        """The tree of those directories: data, data-seed, data_deleted."""
        data, seed, deleted = names
        return cls(root, IngestStorage(data=data, data_seed=seed, data_deleted=deleted))

    def prepare(self) -> None:
        """Make what is missing of the directories."""
        for directory in self.directories:
            for path in (directory.images_path, directory.labels_path):
                os.makedirs(path, mode=DIRECTORY_MODE, exist_ok=True)

    def file_systems(self) -> set[int]:
        """Devices the directories and the root lie on; renames need them to be one."""
        paths = [str(self.root)]
        for directory in self.directories:
            paths += (directory.images_path, directory.labels_path)
        return {os.stat(path).st_dev for path in paths}

    def count(self, directory: Directory) -> None:
        """Count a directory's images: one pass over its entries, without looking at the files."""
        images, extensions = 0, set()
        with os.scandir(directory.images_path) as entries:
            for entry in entries:
                extension = os.path.splitext(entry.name)[1]
                if extension in EXTENSIONS:
                    images += 1
                    extensions.add(extension)
        directory.images, directory.extensions = images, extensions

    def put_label(self, directory: Directory, stem: str, staged: str) -> None:
        """Put a label in place; nothing to do when it is there already."""
        rename_if_there(staged, directory.label(stem))

    def put_image(self, directory: Directory, stem: str, extension: str, staged: str) -> None:
        """Put an image in place; it replaces one of the same stem, whatever extension that one has.

        Nothing to do when it is there already: what came after it may have replaced it in turn.
        """
        if not os.path.lexists(staged):
            return
        # First what it replaces: a death in between leaves the staged file, so that the put is made again.
        self._drop_images(directory, stem, directory.extensions - {extension})
        path = directory.image(stem, extension)
        new = not os.path.lexists(path)
        os.rename(staged, path)
        directory.images += new
        directory.extensions.add(extension)

    def move_label(self, stem: str, source: Directory, target: Directory) -> bool:
        """True when there was one to move."""
        return rename_if_there(source.label(stem), target.label(stem))

    def move_image(self, stem: str, source: Directory, target: Directory) -> bool:
        """Move the image of that stem, whatever its extension; True when there was one."""
        moved = False
        for extension in EXTENSIONS:
            if extension not in source.extensions:
                continue
            path, there = source.image(stem, extension), target.image(stem, extension)
            if not os.path.lexists(path):
                continue
            # First what it replaces: a death in between leaves the source, so that the move is made again.
            self._drop_images(target, stem, target.extensions - {extension})
            new = not os.path.lexists(there)
            os.rename(path, there)
            moved = True
            source.images -= 1
            target.images += new
            target.extensions.add(extension)
        return moved

    def drop_label(self, directory: Directory, stem: str) -> None:
        path = directory.label(stem)
        # There is none for most: to look takes a tenth of an unlink that finds nothing.
        if os.access(path, os.F_OK, follow_symlinks=False):
            os.unlink(path)

    def drop_images(self, directory: Directory, stem: str) -> None:
        self._drop_images(directory, stem, EXTENSIONS)

    def _drop_images(self, directory: Directory, stem: str, extensions: Iterable[str]) -> None:
        for extension in extensions:
            with suppress(FileNotFoundError):
                os.unlink(directory.image(stem, extension))
                directory.images -= 1


def rename_if_there(path: str, target: str) -> bool:
    """Rename a file over whatever is at `target`; False when there is no such file. Raises OSError."""
    try:
        os.rename(path, target)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise  # it is the target's directory that is missing
        return False
    return True
