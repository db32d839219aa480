"""What is left to do for a message once the files it brings are durable: renames and nothing else.

Steps are taken strictly in the order of the messages, and are written down before (see storage), so that a process
that dies among them has a successor that takes the rest. A step's staged files tell how far it came: a file that is no
longer in the staging directory is in place. A step may be taken again when nothing but moves came after it: moves go
one way only (data-seed, data, data_deleted), so doing a row of them twice is doing it once.
"""

from __future__ import annotations

import os

import msgspec

from azaion_consumer.rejected import RejectedDirectory
from azaion_consumer.tree import Directory, Tree


class PutAnnotation(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="annotation"):
    """A Created message: the label goes first, so that whoever finds the image finds its label."""

    name: str
    to_data: bool
    extension: str
    label: str
    image: str

    @property
    def staged(self) -> tuple[str, ...]:
        """Staged files, in the order in which they are put in place."""
        return (self.label, self.image)

    def take(self, tree: Tree, _rejected: RejectedDirectory) -> int:
        """Returns how many names there was nothing to do for; raises OSError, like every step."""
        directory = tree.data if self.to_data else tree.seed
        tree.put_label(directory, self.name, self.label)
        tree.put_image(directory, self.name, self.extension, self.image)
        return 0


class PutEdit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="edit"):
    """An Edited message; a validator's edit also validates."""

    name: str
    to_data: bool
    label: str

    @property
    def staged(self) -> tuple[str, ...]:
        return (self.label,)

    def take(self, tree: Tree, _rejected: RejectedDirectory) -> int:
        if not self.to_data:
            tree.put_label(tree.seed, self.name, self.label)
            return 0
        tree.put_label(tree.data, self.name, self.label)
        tree.move_image(self.name, tree.seed, tree.data)
        tree.drop_label(tree.seed, self.name)
        return 0


class Validate(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="validate"):
    """A Validated message."""

    names: tuple[str, ...]

    @property
    def staged(self) -> tuple[str, ...]:
        return ()

    def take(self, tree: Tree, _rejected: RejectedDirectory) -> int:
        return sum(not _move_in(name, tree, tree.seed, tree.data) for name in self.names)


class Delete(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delete"):
    """A Deleted message."""

    names: tuple[str, ...]

    @property
    def staged(self) -> tuple[str, ...]:
        return ()

    def take(self, tree: Tree, _rejected: RejectedDirectory) -> int:
        missing = 0
        for name in self.names:
            # Where both hold the name, what was validated is what is kept.
            from_seed = _move_out(name, tree, tree.seed, tree.deleted)
            from_data = _move_out(name, tree, tree.data, tree.deleted)
            missing += not (from_seed or from_data)
        return missing


class SetAside(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="aside"):
    """A message that cannot be applied."""

    offset: int
    payload: str
    record: str
    size_bytes: int

    @property
    def staged(self) -> tuple[str, ...]:
        return (self.payload, self.record)

    def take(self, _tree: Tree, rejected: RejectedDirectory) -> int:
        rejected.put(self.offset, self.record, self.payload, self.size_bytes)
        return 0


Step = PutAnnotation | PutEdit | Validate | Delete | SetAside


def first_unfinished(steps: list[Step]) -> int:
    """Index of the step to go on with after a death among them: the last one of which a staged file is in place.

    What came before it is done, what comes after it are steps not begun, or moves that may be repeated.
    """
    for index in range(len(steps) - 1, -1, -1):
        if not all(os.path.lexists(path) for path in steps[index].staged):
            return index
    return 0


def _move_in(name: str, tree: Tree, source: Directory, target: Directory) -> bool:
    """Label first, so that whoever finds the image in the target finds its label."""
    label = tree.move_label(name, source, target)
    return tree.move_image(name, source, target) or label


def _move_out(name: str, tree: Tree, source: Directory, target: Directory) -> bool:
    """Image first, so that nobody finds an image without its label in the source."""
    image = tree.move_image(name, source, target)
    return tree.move_label(name, source, target) or image
