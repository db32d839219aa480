"""A row of messages in which the order decides where files end up, and the tree of a consumer nobody disturbs."""

from __future__ import annotations

import random
from pathlib import Path

from consumer_process import JPEG, Bench, annotation, wait_for

from azaion_consumer.messages import AnnotationStatus, Detection, Role, encode_bulk, encode_created, encode_edited


def workload(count: int, seed: int = 7) -> list[bytes]:
    """Messages of every kind over few names."""
    choose = random.Random(seed)
    entries = []
    for number in range(count):
        name = f"x{choose.randrange(count // 8)}"
        role = choose.choice([Role.VALIDATOR, Role.OPERATOR])
        box = (Detection(number % 80, 0.5, 0.5, 0.1, 0.1),)
        kind = choose.random()
        if kind < 0.5:
            picture = JPEG + number.to_bytes(4, "big") * choose.randrange(1, 2000)
            entries.append(encode_created(annotation(name, role=role, image=picture, detections=box)))
        elif kind < 0.7:
            entries.append(encode_edited(annotation(name, role=role, detections=box)))
        elif kind < 0.85:
            entries.append(encode_bulk(AnnotationStatus.VALIDATED, [name, f"x{choose.randrange(count // 8)}"]))
        elif kind < 0.95:
            entries.append(encode_bulk(AnnotationStatus.DELETED, [name]))
        else:
            entries.append(b"poison")
    return entries


def filed(bench: Bench, root: Path | None = None) -> int:
    """Messages committed, rejected ones included."""
    found = bench.committed(root)
    return sum(found.get("processed", {}).values()) + sum(found.get("rejected", {}).values())


def uninterrupted(bench: Bench, messages: int) -> dict[str, bytes]:
    """The tree of a consumer that nobody disturbs."""
    root = bench.root.parent / "undisturbed"
    root.mkdir()
    consumer = bench.start(root)
    wait_for("the undisturbed consumer", lambda: filed(bench, root) >= messages, 300)
    assert consumer.terminate() == 0
    return bench.tree(root)
