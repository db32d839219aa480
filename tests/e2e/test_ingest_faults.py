"""A consumer and a broker that are killed under load lose nothing and apply nothing twice."""

from __future__ import annotations

import hashlib

import pytest
from tests.demo.annotations import messages_for
from tests.demo.scenes import make_scenes
from tests.e2e.platform import BROKER_USER, Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

COUNT = 400
STREAM = "faults"


def test_a_killed_consumer_files_everything_exactly_once(platform: Platform) -> None:
    names = {f"load-{number:05d}": "train" for number in range(COUNT)}
    scenes = list(make_scenes(names, 64))
    platform.publish(messages_for(scenes, 50), STREAM)
    storage = {"data": "load", "dataSeed": "load-seed", "dataDeleted": "load-deleted"}
    platform.apply("AnnotationIngest", "load", {"stream": {"host": "rabbitmq", "name": STREAM}, "storage": storage})
    try:
        for _ in range(3):
            pods = platform.wait_status(
                "annotationingest", "load", "some progress", lambda s: s.get("phase") == "Running", 120
            )
            assert pods
            running = platform.access.items(
                "pods", "-l", "azaion.com/annotation-ingest=load", "--field-selector=status.phase=Running"
            )
            if running:
                platform.kill(running[0])
            platform.publish(messages_for(scenes[:50], 0), STREAM)
        total = COUNT + 1 + 3 * 50
        platform.wait_status(
            "annotationingest", "load", "caught up", lambda s: s.get("committedOffset") == total - 1, 300
        )
        wanted = {f"load/images/{scene.name}.jpg": hashlib.sha256(scene.jpeg).hexdigest() for scene in scenes}
        listed = platform.shell("sha256sum load/images/*").splitlines()
        assert {line.split()[1]: line.split()[0] for line in listed} == wanted
        assert int(platform.shell("ls load/labels | wc -l")) == COUNT
        assert platform.shell("ls load-seed/images").strip() == ""
    finally:
        platform.access.kubectl("delete", "annotationingest", "load", "--wait")
    assert BROKER_USER not in platform.access.kubectl("get", "events", "-o", "json")
