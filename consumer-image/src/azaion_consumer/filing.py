"""What a message does to the tree.

| message | by a validator, admin or API admin | by anyone else |
|---|---|---|
| Created | label and image to data | label and image to data-seed |
| Edited | label to data; an image in data-seed moves to data | label to data-seed |
| Validated (names) | label and image move from data-seed to data | |
| Deleted (names) | label and image move from data-seed and data to data_deleted | |

A name whose files are not there is nothing to do, and counted. Filing has two parts, so that many messages share one
sync: here the files a message brings are written into the staging directory, and the step that puts them in place is
returned.
"""

from __future__ import annotations

from azaion_consumer.amqp import Buffer
from azaion_consumer.messages import Annotation, Created, Deleted, Edited, Message, Rejected, label_text
from azaion_consumer.steps import Delete, PutAnnotation, PutEdit, SetAside, Step, Validate
from azaion_consumer.storage import Storage


def stage(message: Message, storage: Storage) -> Step:
    """Write what the message brings into the staging directory; the step puts it in place. Raises OSError."""
    if isinstance(message, Created):
        annotation = message.annotation
        return PutAnnotation(
            annotation.name,
            annotation.by_validator,
            annotation.extension or "",
            _stage_label(annotation, storage),
            storage.stage(annotation.image),
        )
    if isinstance(message, Edited):
        annotation = message.annotation
        return PutEdit(annotation.name, annotation.by_validator, _stage_label(annotation, storage))
    return Delete(message.names) if isinstance(message, Deleted) else Validate(message.names)


def stage_rejected(offset: int, payload: Buffer, rejected: Rejected, storage: Storage) -> SetAside:
    """Write a message that cannot be applied, and why, into the staging directory. Raises OSError."""
    record, kept = storage.rejected.encode(offset, payload, rejected)
    return SetAside(offset, storage.stage(kept), storage.stage(record), len(record) + len(kept))


def _stage_label(annotation: Annotation, storage: Storage) -> str:
    return storage.stage(label_text(annotation.detections).encode())
