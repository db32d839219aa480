"""What a message does to the tree.

| message | by a validator, admin or API admin | by anyone else |
|---|---|---|
| Created | label and image to data | label and image to data-seed |
| Edited | label to data; an image in data-seed moves to data | label to data-seed |
| Validated (names) | label and image move from data-seed to data | |
| Deleted (names) | label and image move from data-seed and data to data_deleted | |

A name whose files are not there is nothing to do, and counted. Filing has three parts, so that many messages share one
sync: a draft holds what a message brings, as it will be written; the staging directory gets it; and the step puts it in
place. The last of them are in steps.
"""

from __future__ import annotations

import msgspec

from azaion_consumer.amqp import Buffer
from azaion_consumer.messages import Created, Deleted, Edited, Message, Rejected, label_content
from azaion_consumer.steps import Delete, PutAnnotation, PutEdit, SetAside, Step, Validate
from azaion_consumer.storage import Storage

#: What a name of a bulk message takes in memory, about.
_NAME_BYTES = 100


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message, its label file's content (empty for a bulk message), and what both hold in memory, about."""

    message: Message
    label: bytes
    size_bytes: int


def draft(message: Message) -> Draft:
    """What the message will write."""
    if isinstance(message, Created) or isinstance(message, Edited):  # noqa: SIM101 - twice as fast as one of both
        label = label_content(message.annotation.detections)
        return Draft(message, label, len(message.annotation.image) + len(label))
    return Draft(message, b"", len(message.names) * _NAME_BYTES)


def stage(found: Draft, storage: Storage) -> Step:
    """Write what the message brings into the staging directory; the step puts it in place. Raises OSError."""
    message = found.message
    if isinstance(message, Created):
        annotation = message.annotation
        return PutAnnotation(
            annotation.name,
            annotation.by_validator,
            annotation.extension or "",
            storage.stage(found.label),
            storage.stage(annotation.image),
        )
    if isinstance(message, Edited):
        annotation = message.annotation
        return PutEdit(annotation.name, annotation.by_validator, storage.stage(found.label))
    return Delete(message.names) if isinstance(message, Deleted) else Validate(message.names)


def stage_rejected(offset: int, payload: Buffer, rejected: Rejected, storage: Storage) -> SetAside:
    """Write a message that cannot be applied, and why, into the staging directory. Raises OSError."""
    record, kept = storage.rejected.encode(offset, payload, rejected)
    return SetAside(offset, storage.stage(kept), storage.stage(record), len(record) + len(kept))
