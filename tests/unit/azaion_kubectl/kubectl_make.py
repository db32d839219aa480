"""Runs and lines for the tests of `kubectl azaion`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from azaion_api.resources import ModelLine, TrainingRun

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    """So many seconds ago."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


def raw_run(
    name: str = "full", *, spec: dict[str, Any] | None = None, age_s: float = 60, **status: Any
) -> dict[str, Any]:
    return {
        "kind": "TrainingRun",
        "metadata": {"name": name, "namespace": "azaion", "uid": f"uid-{name}", "creationTimestamp": at(age_s)},
        "spec": spec or {},
        "status": status,
    }


def run(name: str = "full", **fields: Any) -> TrainingRun:
    return msgspec.convert(raw_run(name, **fields), TrainingRun)


def checkpoint(epoch: int = 46) -> dict[str, Any]:
    return {"epoch": epoch, "time": at(60), "path": "runs/full-u/checkpoints/state.pt", "sha256": "c" * 64}


def attempt(stage: str = "train", number: int = 1, **fields: Any) -> dict[str, Any]:
    found = {"pod": f"full-{stage}-{number}-x", "podUid": f"{stage}-{number}", "stage": stage, "number": number}
    return {**found, "started": at(600), **fields}


def record(name: str, **fields: Any) -> dict[str, Any]:
    found = {"name": name, "path": f"models/{name}/azaion.pt", "sha256": "d" * 64, "run": "older", "runUid": name}
    return {**found, "time": at(86400), **fields}


def line(*records: dict[str, Any], **spec: Any) -> ModelLine:
    status: dict[str, Any] = {"history": list(records)}
    if records:
        status["current"] = records[0]
    if len(records) > 1:
        status["previous"] = records[1]
    return msgspec.convert({"metadata": {"name": "azaion"}, "spec": spec, "status": status}, ModelLine)
