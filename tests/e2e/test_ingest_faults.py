"""An ingest beside the first one, on directories of its own: killed, changed, suspended, asked to repair, deleted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator

import pytest
from tests.demo.access import wait_for
from tests.demo.annotations import messages_for
from tests.demo.scenes import Scene, make_scenes
from tests.e2e.platform import Platform, condition

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

NAME = "load"
STREAM = "load"
COUNT = 200
VALIDATED_LATER = 50
KILLS = 3
#: What a changed spec or image may cost.
PAUSE_S = 30.0
SPEC = {
    "stream": {"host": "rabbitmq", "name": STREAM},
    "storage": {"data": "load", "dataSeed": "load-seed", "dataDeleted": "load-deleted"},
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(make_scenes({f"load-{number:05d}": "train" for number in range(COUNT)}, 64))


@pytest.fixture(scope="module")
def ingest(platform: Platform, scenes: list[Scene]) -> Iterator[str]:
    """Filed everything published so far; deleted with its files in the end."""
    platform.publish(messages_for(scenes, VALIDATED_LATER), STREAM)
    platform.apply("AnnotationIngest", NAME, SPEC)
    caught_up(platform)
    yield NAME
    platform.access.kubectl("delete", "annotationingest", NAME, "--wait", "--ignore-not-found")
    platform.shell("rm -rf load load-seed load-deleted .ingest/load data-rejected/load")


def caught_up(platform: Platform, processed: int = 0) -> dict[str, object]:
    return platform.wait_status(
        "annotationingest",
        NAME,
        "caught up",
        lambda s: (
            s.get("phase") == "Running" and s.get("lag") == 0 and int(s.get("processed") or 0) >= max(1, processed)
        ),
        300,
    )


def images(platform: Platform) -> dict[str, str]:
    """sha256 of every image of the ingest."""
    listed = platform.shell("cd load && sha256sum images/*").splitlines()
    return {line.split()[1].removeprefix("images/"): line.split()[0] for line in listed}


def wanted(scenes: list[Scene]) -> dict[str, str]:
    return {f"{scene.name}.jpg": hashlib.sha256(scene.jpeg).hexdigest() for scene in scenes}


def consumer(platform: Platform, *arguments: str) -> str:
    """Output of azaion-consumer in the ingest's pod."""
    return platform.access.kubectl("exec", f"deployment/{NAME}-ingest", "--", "azaion-consumer", *arguments)


def test_a_killed_consumer_files_everything_exactly_once(platform: Platform, ingest: str, scenes: list[Scene]) -> None:
    before = int(str(caught_up(platform)["processed"]))
    published = 0
    for _ in range(KILLS):
        entries = messages_for(scenes, VALIDATED_LATER)
        platform.publish(entries, STREAM)
        published += len(entries)
        selector = f"azaion.com/annotation-ingest={NAME}"
        running = platform.access.items("pods", "-l", selector, "--field-selector=status.phase=Running")
        platform.kill(running[0])
    status = caught_up(platform, before + published)
    assert status["processed"] == before + published
    assert images(platform) == wanted(scenes)
    assert int(platform.shell("ls load/labels | grep -c ^load-")) == COUNT
    assert status.get("rejected", {}) == {}


def test_a_changed_spec_pauses_the_ingest_for_half_a_minute_at_most(platform: Platform, ingest: str) -> None:
    generation = int(platform.access.get("deployment", f"{NAME}-ingest")["metadata"]["generation"])
    platform.access.kubectl(
        "patch", "annotationingest", NAME, "--type=merge", "-p", json.dumps({"spec": {"classCount": 79}})
    )
    began_s = time.monotonic()
    wait_for(
        "the deployment changes",
        lambda: platform.access.get("deployment", f"{NAME}-ingest")["metadata"]["generation"] > generation,
        30,
        0.2,
    )
    platform.access.kubectl("rollout", "status", f"deployment/{NAME}-ingest", "--timeout=60s")
    pause_s = time.monotonic() - began_s
    assert pause_s <= PAUSE_S, f"{pause_s:.0f} s from the change to a consumer that reads again"
    caught_up(platform)


def test_suspend_stops_reading_and_keeps_the_place(platform: Platform, ingest: str, scenes: list[Scene]) -> None:
    before = int(str(caught_up(platform)["processed"]))
    platform.access.kubectl("patch", "annotationingest", NAME, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    platform.wait_status("annotationingest", NAME, "suspended", lambda s: s.get("phase") == "Suspended", 60)
    selector = f"azaion.com/annotation-ingest={NAME}"
    wait_for("the pod is gone", lambda: not platform.access.items("pods", "-l", selector), 60)
    entries = messages_for(scenes[:10], 0)
    platform.publish(entries, STREAM)
    platform.access.kubectl("patch", "annotationingest", NAME, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    assert caught_up(platform, before + len(entries))["processed"] == before + len(entries)


def test_what_was_damaged_by_hand_is_found_and_repaired_while_it_runs(
    platform: Platform, ingest: str, scenes: list[Scene]
) -> None:
    assert json.loads(consumer(platform, "verify", "--json"))["findings"] == []
    platform.shell("rm load/images/load-00003.jpg load/labels/load-00004.txt && echo x > load/labels/load-00005.txt")
    repaired = json.loads(consumer(platform, "replay", "--from", "0", "--json", "--timeout", "120"))
    assert repaired["repaired"] == {"ImageRestored": 1, "LabelReplaced": 1, "LabelRestored": 1}
    assert json.loads(consumer(platform, "verify", "--json"))["findings"] == []
    assert images(platform) == wanted(scenes)


def test_a_second_ingest_inside_its_directories_is_refused_and_one_beside_them_is_not(
    platform: Platform, ingest: str
) -> None:
    names = ("inside", "beside")
    platform.apply("AnnotationIngest", "inside", {"stream": SPEC["stream"], "storage": {"subPath": "load"}})
    beside = {"data": "beside", "dataSeed": "beside-seed", "dataDeleted": "beside-deleted"}
    platform.apply("AnnotationIngest", "beside", {"stream": SPEC["stream"], "storage": beside})
    try:
        refused = platform.wait_status(
            "annotationingest", "inside", "refused", lambda s: s.get("phase") == "Failed", 30
        )
        assert f"AnnotationIngest {NAME} files into" in str(refused["message"])
        status = platform.wait_status("annotationingest", "beside", "caught up", lambda s: s.get("lag") == 0, 180)
        assert condition(status, "StorageWritable")["status"] == "True"
        assert status["images"]["beside"] == COUNT
    finally:
        for name in names:
            platform.access.kubectl("delete", "annotationingest", name, "--wait")
    assert int(platform.shell("ls beside/images | wc -l")) == COUNT, "deletion keeps the data"
    platform.shell("rm -rf beside beside-seed beside-deleted .ingest/beside data-rejected/beside")


def test_an_ingest_deleted_and_made_again_goes_on_where_it_was(
    platform: Platform, ingest: str, scenes: list[Scene]
) -> None:
    before = caught_up(platform)
    platform.access.kubectl("delete", "annotationingest", NAME, "--wait")
    assert images(platform) == wanted(scenes), "deletion keeps the data"
    platform.apply("AnnotationIngest", NAME, SPEC)
    after = caught_up(platform)
    assert (after["committedOffset"], after["processed"]) == (before["committedOffset"], before["processed"])
