"""The observer of the device notices what it is there for."""

from __future__ import annotations

import json

from tests.e2e.observer import GpuPods, shared_devices


def test_one_gpu_pod_after_another_is_as_it_should_be() -> None:
    pods = GpuPods()
    for line in (
        "ADDED u1 a Pending 1",
        "MODIFIED u1 a Running 1",
        "ADDED u9 operator Running",
        "MODIFIED u1 a Succeeded 1",
        "ADDED u2 b Pending 1",
        "DELETED u1 a Succeeded 1",
        "DELETED u2 b Running 1",
        "ADDED u3 c Pending 1",
    ):
        pods.see(line)
    assert pods.overlaps == []
    assert pods.seen == {"u1", "u2", "u3"}


def test_a_second_gpu_pod_is_noticed_even_while_it_only_waits_for_a_node() -> None:
    pods = GpuPods()
    for line in ("ADDED u1 a Running 1", "ADDED u2 b Pending 1", "MODIFIED u1 a Succeeded 1"):
        pods.see(line)
    assert pods.overlaps == [("a", "b")]


def event(kind: str, pod: str) -> str:
    return json.dumps({"time": "2026-11-23T00:00:00Z", "event": kind, "device": "GPU-test-0", "pod": pod})


def test_a_device_held_by_two_pods_is_noticed() -> None:
    good = [event("Allocated", ""), event("Held", "a"), event("Released", "a"), event("Held", "b")]
    assert shared_devices(good) == []
    assert shared_devices([*good, event("Held", "c")]) == [("b", "c")]


def test_after_a_boot_only_those_who_still_hold_the_device_count() -> None:
    boot = [event("Held", "a"), json.dumps({"time": "2026-11-23T00:00:00Z", "event": "Started"})]
    assert shared_devices([*boot, event("Held", "b")]) == []
    assert shared_devices([*boot, event("Held", "a"), event("Held", "b")]) == [("a", "b")]
