"""What people get wrong ends as a condition with a reason and a sentence, and is mended without a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.demo.access import CommandError, Object
from tests.e2e.platform import STREAM, Platform, condition
from tests.e2e.story import Story, small_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def run(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """A run's name; whatever is made of it is removed afterwards."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:30].strip("-")
    yield name
    platform.delete_run(name)


def ingest_spec(**stream: object) -> Object:
    """An ingest on directories of its own, so that it does not meet another one's."""
    return {
        "stream": {"host": "rabbitmq", "name": STREAM, **stream},
        "storage": {"data": "other", "dataSeed": "other-seed", "dataDeleted": "other-deleted"},
    }


def steady(platform: Platform, kind: str, name: str) -> None:
    """Nothing is written again and again: over ten seconds the resource stays as it is, or nearly so."""
    versions = set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        versions.add(platform.access.get(kind, name)["metadata"]["resourceVersion"])
    assert len(versions) <= 3, f"{kind}/{name} was written {len(versions)} times in 10 s"


def test_a_mistyped_field_is_refused_with_its_name(platform: Platform) -> None:
    with pytest.raises(CommandError, match=r"unknown field \"(spec\.)?trainning\""):
        platform.apply("TrainingRun", "mistyped", {"trainning": {"epochs": 3}})


def test_a_missing_base_model_waits_and_goes_on_once_it_is_added(platform: Platform, story: Story, run: str) -> None:
    spec = small_run(epochs=1)
    spec["model"]["base"] = "absent.pt"
    platform.apply("TrainingRun", run, spec)
    status = platform.wait_phase(run, "Pending", 30)
    assert "models/absent.pt" in status["message"]
    assert "add-model" in status["message"]
    steady(platform, "trainingrun", run)
    trained = next(model["path"] for model in story.run["models"] if model["role"] == "deployed")
    platform.shell(f"cp {trained} models/.absent.pt.tmp && mv models/.absent.pt.tmp models/absent.pt")
    platform.wait_status("trainingrun", run, "released", lambda s: s.get("startTime"), 60)


def test_an_empty_directory_waits_for_images(platform: Platform, run: str) -> None:
    spec = small_run(epochs=1)
    spec["dataset"] = {"source": "data-seed"}
    platform.apply("TrainingRun", run, spec)
    status = platform.wait_phase(run, "Pending", 30)
    assert "data-seed/images holds 0 images" in status["message"]
    assert condition(status, "DatasetReady")["status"] != "True"
    steady(platform, "trainingrun", run)


def test_a_base_model_that_is_no_model_fails_with_a_sentence(platform: Platform, story: Story, run: str) -> None:
    platform.shell("echo this is no checkpoint > models/.junk.tmp && mv models/.junk.tmp models/junk.pt")
    spec = small_run(epochs=1)
    spec["model"]["base"] = "junk.pt"
    platform.apply("TrainingRun", run, spec)
    status = platform.wait_phase(run, "Failed", 300)
    assert "models/junk.pt" in status["message"]
    assert "Traceback" not in status["message"]
    assert condition(status, "Succeeded")["status"] == "False"
    assert condition(status, "Finished")["status"] == "True"
    platform.shell("rm models/junk.pt")


def test_a_missing_image_is_said_in_the_kubelets_words_and_the_run_goes_on_when_it_is_there(
    platform: Platform, story: Story, run: str
) -> None:
    platform.install("images.trainer.tag=absent")
    try:
        platform.apply("TrainingRun", run, small_run(epochs=1))
        status = platform.wait_status("trainingrun", run, "the reason", lambda s: "absent" in s.get("message", ""), 120)
        assert "azaion/trainer:absent" in status["message"]
        assert status["phase"] == "Running"
    finally:
        platform.install()


def test_missing_secret_keys_are_named_all_at_once_and_picked_up(platform: Platform, story: Story) -> None:
    name = "keyless"
    platform.access.kubectl("delete", "secret", "azaion-later", "--ignore-not-found")
    platform.apply("AnnotationIngest", name, ingest_spec(credentialsSecretRef={"name": "azaion-later"}))
    try:
        status = platform.wait_status(
            "annotationingest",
            name,
            "the missing keys named",
            lambda s: condition(s, "Connected").get("reason") == "CredentialsMissing",
            90,
        )
        said = condition(status, "Connected")["message"]
        assert "username" in said
        assert "password" in said
        assert "azaion-later" in said
        steady(platform, "annotationingest", name)
        platform.apply_secret("azaion-later", username="azaion_receiver", password=platform.password())
        platform.wait_status(
            "annotationingest", name, "connected", lambda s: condition(s, "Connected").get("status") == "True", 180
        )
    finally:
        platform.access.kubectl("delete", "annotationingest", name, "--wait")


def test_a_broker_that_cannot_be_reached_is_said_with_its_address(platform: Platform) -> None:
    name = "unreachable"
    platform.apply("AnnotationIngest", name, ingest_spec(port=5999))
    try:
        status = platform.wait_status(
            "annotationingest",
            name,
            "unreachable said",
            lambda s: condition(s, "Connected").get("reason") == "BrokerUnreachable",
            90,
        )
        assert "rabbitmq:5999" in condition(status, "Connected")["message"]
        assert condition(status, "Ready")["status"] == "False"
    finally:
        platform.access.kubectl("delete", "annotationingest", name, "--wait")


def test_a_second_ingest_on_the_same_directories_is_refused_with_a_sentence(platform: Platform, story: Story) -> None:
    name = "twice"
    platform.apply("AnnotationIngest", name, {"stream": {"host": "rabbitmq", "name": STREAM}})
    try:
        status = platform.wait_status("annotationingest", name, "refused", lambda s: s.get("phase") == "Failed", 30)
        assert "annotations" in status["message"]
        assert platform.access.find("deployment", f"{name}-ingest") is None
    finally:
        platform.access.kubectl("delete", "annotationingest", name, "--wait")
