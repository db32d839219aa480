"""What the environment says, and what is said when it makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from azaion_api.annotation_ingest import AnnotationIngestSpec, Stream, Tls
from azaion_api.task import IngestTask, encode_task
from azaion_consumer.cli import EXIT_BAD_SETTINGS, main
from azaion_consumer.connection import Endpoint
from azaion_consumer.settings import Settings, SettingsError, read_settings


def environment(stream: Stream | None = None, **more: str) -> dict[str, str]:
    spec = AnnotationIngestSpec(stream=stream or Stream())
    task = IngestTask(ingest="annotations", uid="uid", spec=spec, report="annotations-ingest-report")
    return {"AZAION_TASK": encode_task(task), "AZAION_POD_UID": "pod", **more}


def test_a_task_with_defaults() -> None:
    found = read_settings(environment())
    assert found == Settings(
        task=found.task,
        pod_uid="pod",
        root=Path("/azaion"),
        credentials=Path("/etc/azaion/rabbitmq"),
        ca=Path("/etc/azaion/rabbitmq-ca"),
        http_port=8080,
        log_level="INFO",
    )
    assert found.endpoint == Endpoint("rabbitmq", 5552, "/", "azaion-annotations")


@pytest.mark.parametrize(
    ("tls", "ca_file"),
    [
        (Tls(enabled=True), None),
        (Tls(enabled=True, ca_secret_name="ca"), Path("/etc/azaion/rabbitmq-ca/ca.crt")),
        (Tls(enabled=False, ca_secret_name="ca"), None),
    ],
)
def test_a_private_authority_is_used_with_tls_only(tls: Tls, ca_file: Path | None) -> None:
    endpoint = read_settings(environment(Stream(host="broker", port=5551, tls=tls))).endpoint
    assert (endpoint.tls, endpoint.ca_file) == (tls.enabled, ca_file)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "AZAION_TASK is not set"),
        ({"AZAION_TASK": "{"}, "AZAION_TASK is no task of an ingest"),
        ({"AZAION_TASK": "{}"}, "missing required field `ingest`"),
        (environment(AZAION_HTTP_PORT="http"), "AZAION_HTTP_PORT is 'http'"),
        (environment(AZAION_HTTP_PORT="70000"), "AZAION_HTTP_PORT is '70000'"),
    ],
)
def test_an_environment_that_makes_no_sense_is_said(given: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings(given)


@pytest.mark.parametrize(("variable", "value"), [("AZAION_TASK", ""), ("AZAION_LOG_LEVEL", "LOUD")])
def test_the_command_ends_with_a_sentence_and_its_own_exit_code(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, given in {**environment(), variable: value}.items():
        monkeypatch.setenv(key, given)
    assert main(["run"]) == EXIT_BAD_SETTINGS
    error = capsys.readouterr().err
    assert error.startswith("azaion-consumer: ")
    assert "Traceback" not in error
