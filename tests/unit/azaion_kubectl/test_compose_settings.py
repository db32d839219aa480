"""What .env and config.yaml say is understood as Compose and a shell do, and no password is ever repeated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.samples.test_configuration_guide import FOUNDING_VARIABLES

from azaion_kubectl import compose
from azaion_kubectl.compose import VARIABLES, Installation, read_settings
from azaion_kubectl.errors import CommandError

WHERE = Installation("azaion", "/azaion", "gpu-1", 500 << 30)
BROKER = "RABBITMQ_HOST=broker\nRABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\n"
CONFIG = """
api: {url: https://api.example.com, email: up@example.com, password: 007}
queue:
  host: broker.example.com
  port: 5552
  consumer_user: azaion_receiver
  consumer_pw: yes
  name: azaion-annotations
dirs: {root: /azaion, data: data, data_seed: data-seed, data_deleted: data_deleted, images: images}
training: {model: yolo26m.pt, epochs: 60}
"""


def settings(path: Path, env: str | None = BROKER, config: str | None = None, **named: str) -> compose.Settings:
    for name, text in ((compose.ENV_FILE, env), (compose.CONFIG_FILE, config)):
        if text is not None:
            (path / name).write_text(text)
    return read_settings(path, **named)


def refusal(path: Path, env: str | None = BROKER, config: str | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        settings(path, env, config)
    return str(caught.value)


def test_every_founding_variable_is_known() -> None:
    assert tuple(variable.name for variable in VARIABLES) == FOUNDING_VARIABLES


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("plain", "plain"),
        ("plain # comment", "plain"),
        ("with#inside", "with#inside"),
        ("'single $HOME # \"all\"'", 'single $HOME # "all"'),
        ('"double \\"quoted\\" # inside" # comment', 'double "quoted" # inside'),
        ('"a\\$b"', "a$b"),
        ("${RABBITMQ_USER}-x", "u-x"),
        ('"$RABBITMQ_USER"', "u"),
        ("p=w=d", "p=w=d"),
        ("back\\slash", "back\\slash"),
        ("  spaced  ", "spaced"),
    ],
)
def test_values_of_env_are_read_as_compose_and_a_shell_do(tmp_path: Path, written: str, value: str) -> None:
    text = f"# comment\n\nRABBITMQ_HOST = broker\r\nexport RABBITMQ_USER=u\nRABBITMQ_PASSWORD={written}\n"
    assert settings(tmp_path, text).get("RABBITMQ_PASSWORD") == value


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("S3CRET without a sign", "line 4 of .*/.env is no NAME=VALUE; correct it"),
        ("RABBITMQ_PASSWORD='S3CRET", r"line 4 of .*/.env \(RABBITMQ_PASSWORD\) has no closing quote"),
        ("RABBITMQ_PASSWORD='S3CRET' more", "goes on after its closing quote"),
        (
            "RABBITMQ_PASSWORD=S3CRET$tail",
            r"refers to \$tail, which is not set above it; put a value with a \$ between",
        ),
    ],
)
def test_a_line_that_cannot_be_understood_is_told_by_its_number(tmp_path: Path, line: str, why: str) -> None:
    said = refusal(tmp_path, BROKER + line)
    assert re.search(why, said), said
    assert "S3CRET" not in said


def test_config_yaml_is_understood_and_passwords_are_what_is_written(tmp_path: Path) -> None:
    found = settings(tmp_path, None, CONFIG)
    assert found.get("RABBITMQ_PASSWORD") == "yes"
    assert found.api_secret == {"email": "up@example.com", "password": "007"}
    assert found.number("TRAINING_EPOCHS") == 60
    assert found.unused == ("dirs.images",)
    assert {found.sources[name] for name in found.values} == {"config.yaml"}


def test_env_counts_where_both_speak_and_the_difference_is_told_without_values(tmp_path: Path) -> None:
    found = settings(tmp_path, BROKER, CONFIG)
    assert found.get("RABBITMQ_HOST") == "broker"
    assert found.differing == ("RABBITMQ_HOST", "RABBITMQ_PASSWORD", "RABBITMQ_USER")
    assert found.get("RABBITMQ_QUEUE_NAME") == "azaion-annotations", "what .env leaves out, config.yaml says"
    assert "yes" not in repr(found)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("queue:\n  consumer_pw: S3CRET\n bad: [", "config.yaml cannot be read: line 3 is no YAML"),
        ("- S3CRET\n", "config.yaml holds no settings"),
        ("queue: {port: S3CRET}\n" + CONFIG, "config.yaml"),
    ],
)
def test_a_config_that_cannot_be_read_is_told_without_its_text(tmp_path: Path, config: str, why: str) -> None:
    if config.startswith("queue: {port"):
        with pytest.raises(CommandError, match=r"RABBITMQ_PORT in config\.yaml is no whole number") as caught:
            compose.resources(settings(tmp_path, BROKER, config.split("\n")[0]), WHERE)
        said = str(caught.value)
    else:
        said = refusal(tmp_path, None, config)
        assert why in said
    assert "S3CRET" not in said


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(BROKER.encode() + b"X=\xff\xfe\n")
    assert f"{tmp_path / '.env'} is no UTF-8 text" in refusal(tmp_path, None)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    assert "lack RABBITMQ_HOST, RABBITMQ_PASSWORD; the ingest" in refusal(tmp_path, "RABBITMQ_USER=u\nRABBITMQ_HOST=\n")
    (tmp_path / "empty").mkdir()
    assert "neither .env nor config.yaml is in" in refusal(tmp_path / "empty", None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "host.docker.internal"])
def test_a_broker_on_the_machine_itself_needs_its_address(tmp_path: Path, host: str) -> None:
    env = BROKER.replace("HOST=broker", f"HOST={host}")
    assert "within a pod is the pod itself; give the broker's name or address" in refusal(tmp_path, env)
    found = settings(tmp_path, env, broker="192.0.2.7")
    assert compose.chart_values(found, WHERE, [])["access"]["hosts"] == ["192.0.2.7"]


def test_a_setting_that_a_resource_cannot_take_is_told_with_its_field(tmp_path: Path) -> None:
    wrong = settings(tmp_path, BROKER.replace("HOST=broker", "HOST=amqp://broker:5552/"))
    with pytest.raises(CommandError, match=r"holds what AnnotationIngest does not take: .*spec\.stream\.host"):
        compose.resources(wrong, WHERE)
    many = settings(tmp_path, BROKER + "TRAINING_EPOCHS=1000000\n")
    with pytest.raises(CommandError, match=r"holds what TrainingRun does not take: .*spec\.training\.epochs"):
        compose.training_run(many, WHERE)


def test_an_unusual_port_is_opened_and_an_api_without_a_password_has_no_secret(tmp_path: Path) -> None:
    found = settings(tmp_path, BROKER + "RABBITMQ_PORT=15552\nAZAION_API_URL=https://api.example.com\n")
    values = compose.chart_values(found, WHERE, [])
    assert values["networkPolicies"]["broker"]["ports"] == [15552]
    assert values["access"] == {"secrets": ["azaion-rabbitmq"], "hosts": ["broker"]}
    assert [manifest["metadata"]["name"] for manifest in compose.secrets(found, WHERE)] == ["azaion-rabbitmq"]
