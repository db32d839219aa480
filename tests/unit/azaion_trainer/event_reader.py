"""TensorBoard's events as its own reader finds them."""

from __future__ import annotations

from pathlib import Path


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value TensorBoard shows of the run in a directory, by its tag: step and value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), purge_orphaned_data=True).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in sorted(found.Tags()["scalars"])}
