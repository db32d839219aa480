"""docs/coming-from-compose.md, tried: a Compose tree of this machine is adopted, used, and given back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.demo.access import ROOT, CommandError, output_of, wait_for
from tests.demo.annotations import messages_for
from tests.demo.clusters import NAMESPACE, RELEASE, TestCluster
from tests.demo.scenes import make_scenes, scene_names
from tests.demo.terminal import Terminal
from tests.e2e.platform import BROKER_USER, Platform
from tests.unit.azaion_kubectl.compose_make import MIDDLE, NEW, OLD, Compose, everything

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

NODE = "node-1"
#: Messages that Compose has filed already, and those that came since.
FILED, SINCE = 10, 30


@pytest.fixture(scope="module")
def machine() -> Iterator[Platform]:
    """A cluster with a broker and no chart."""
    place = TestCluster("adoption", keep=False)
    terminal = Terminal(3)
    try:
        access = place.start(terminal)
        place.bring_images(access, terminal)
        found = Platform(place, access)
        found.start_broker()
        yield found
    finally:
        place.remove(terminal)


@pytest.fixture
def compose(machine: Platform) -> Iterator[Compose]:
    """The tree as Compose leaves it when it is stopped after the first messages."""
    place = ROOT / "build" / "adoption"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    found = Compose(place)
    for path in found.root.glob("data*/*/clip_*"):
        path.unlink()
    found.copy_current()
    (found.root / "offset.yaml").write_text(f"offset_queue: {FILED}\n")
    (found.settings / ".env").write_text(
        f"RABBITMQ_HOST=rabbitmq\nRABBITMQ_USER={BROKER_USER}\nRABBITMQ_PASSWORD='{machine.password()}'\n"
    )
    yield found
    shutil.rmtree(place, ignore_errors=True)  # a pod that is ending may still write


def adopt(compose: Compose, *words: str) -> str:
    command = [sys.executable, "-m", "azaion_kubectl.cli", "adopt", str(compose.root), "-n", NAMESPACE, *words]
    return output_of(command, {}).decode()


def adopt_with_settings(compose: Compose, *words: str) -> str:
    return adopt(compose, "--compose", str(compose.settings), "--to", str(compose.output), "--node", NODE, *words)


def install(machine: Platform, compose: Compose) -> None:
    """The guide's commands, with the images of the test cluster."""
    values = compose.path / "machine.yaml"
    values.write_text(yaml.safe_dump(machine.place.values()))
    access = machine.access
    access.kubectl("apply", "-f", str(compose.output / "secrets.yaml"))
    access.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "charts" / "azaion"), "--wait", "--timeout", "5m",
        "-f", str(values), "-f", str(compose.output / "values.yaml"),
    )  # fmt: skip
    access.kubectl("apply", "-f", str(compose.output / "resources.yaml"))


def test_a_compose_tree_is_adopted_used_and_given_back(machine: Platform, compose: Compose) -> None:
    scenes = list(make_scenes(dict.fromkeys(scene_names(FILED + SINCE), "train"), 64))
    entries = messages_for(scenes, 0)
    for scene in scenes[:FILED]:
        compose.pair("data", scene.name)
    compose.own()
    before = everything(compose.root)
    machine.publish(entries)

    adopt_with_settings(compose)
    install(machine, compose)
    last = FILED + SINCE - 1
    ingest = machine.wait_status(
        "annotationingest", "annotations", "what came since", lambda s: s.get("committedOffset") == last, 240
    )
    assert ingest["processed"] == SINCE, "what Compose has filed was read again"
    assert ingest["images"]["data"] == FILED + SINCE

    line = machine.wait_status("modelline", "azaion", "the adopted models", lambda s: s.get("current"), 180)
    assert [record["name"] for record in line["history"]] == [NEW, MIDDLE, OLD]
    assert (line["current"]["name"], line["previous"]["name"]) == (MIDDLE, OLD)
    machine.access.kubectl(
        "patch", "modelline", "azaion", "--type=merge", "-p", f'{{"spec":{{"pinnedModel":"{OLD}"}}}}'
    )
    machine.wait_status("modelline", "azaion", "rolled back", lambda s: s["current"]["name"] == OLD, 180)
    assert os.readlink(compose.current) == f"{OLD}/azaion.pt"

    with pytest.raises(CommandError, match="is in use by process"):
        adopt(compose, "--undo")

    machine.access.helm("uninstall", RELEASE, "--wait")
    machine.access.kubectl("delete", "trainingruns,annotationingests,modellines", "--all", "--wait")
    ours = ("-l", "app.kubernetes.io/part-of=azaion")
    wait_for("every pod of the platform is gone", lambda: not machine.access.items("pods", *ours), 120)
    adopt(compose, "--undo")

    after = everything(compose.root)
    assert (compose.root / "offset.yaml").read_text() == f"offset_queue: {FILED + SINCE}\n"
    offset = b"offset.yaml"
    assert {path: after[path] for path in before if path != offset} == {
        path: what for path, what in before.items() if path != offset
    }
    assert after[offset][:3] == before[offset][:3]
    new = [path for path in after if path not in before and path.startswith(b"data/labels/")]
    assert len(new) == SINCE
    assert {after[path][1] for path in new} == {1000}, "what the platform filed belongs to Compose's user"


def test_the_files_that_were_written_are_what_the_api_server_accepts(machine: Platform, compose: Compose) -> None:
    compose.own()
    adopt_with_settings(compose)
    install(machine, compose)
    path: Path = compose.output / "trainingrun.yaml"
    machine.access.kubectl("apply", "--dry-run=server", "-f", str(path))
    adopt_with_settings(compose, "--dry-run")
    machine.access.helm("uninstall", RELEASE, "--wait")
    machine.access.kubectl("delete", "annotationingests,modellines", "--all", "--wait")
