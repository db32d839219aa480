"""A consumer that is killed under load loses nothing and applies nothing twice."""

from __future__ import annotations

import hashlib

import pytest
from tests.demo.annotations import messages_for
from tests.demo.scenes import make_scenes
from tests.e2e.platform import Platform
from tests.e2e.story import INGEST, Story

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]

COUNT = 300
VALIDATED_LATER = 50
KILLS = 3


def test_a_killed_consumer_files_everything_exactly_once(platform: Platform, story: Story) -> None:
    before = int(platform.access.status("annotationingest", INGEST)["committedOffset"])
    scenes = list(make_scenes({f"load-{number:05d}": "train" for number in range(COUNT)}, 64))
    published = 0
    for _ in range(KILLS):
        entries = messages_for(scenes, VALIDATED_LATER)
        platform.publish(entries)
        published += len(entries)
        selector = f"azaion.com/annotation-ingest={INGEST}"
        running = platform.access.items("pods", "-l", selector, "--field-selector=status.phase=Running")
        platform.kill(running[0])
    # Offsets the consumer stores on the broker take places in the stream as well, so there may be more than published.
    platform.wait_status(
        "annotationingest",
        INGEST,
        "caught up",
        lambda s: s.get("lag") == 0 and int(s.get("committedOffset") or 0) >= before + published,
        300,
    )
    wanted = {f"data/images/{scene.name}.jpg": hashlib.sha256(scene.jpeg).hexdigest() for scene in scenes}
    listed = platform.shell("sha256sum data/images/load-*").splitlines()
    assert {line.split()[1]: line.split()[0] for line in listed} == wanted
    assert int(platform.shell("ls data/labels | grep -c ^load-")) == COUNT
    status = platform.access.status("annotationingest", INGEST)
    assert status.get("rejected", {}) == {}
    platform.shell("rm data/images/load-* data/labels/load-* && rm -f data-seed/images/load-* data-seed/labels/load-*")
