"""The login comes from the mounted Secret; every missing key is named at once, and no value is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from azaion_consumer.connection import Credentials
from azaion_consumer.credentials import read_credentials
from azaion_consumer.errors import BrokerError, BrokerReason


def write(directory: Path, **keys: str) -> Path:
    for key, value in keys.items():
        (directory / key).write_text(value)
    return directory


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_both_keys_are_read_without_a_newline_at_their_end(tmp_path: Path, end: str) -> None:
    found = read_credentials(write(tmp_path, username=f"user{end}", password=f" pass word {end}"), "azaion-rabbitmq")
    assert found == Credentials("user", " pass word ")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "username is missing, password is missing"),
        ({"username": "u"}, "has no login: password is missing"),
        ({"password": "p"}, "has no login: username is missing"),
        ({"username": "", "password": "\n"}, "username is empty, password is empty"),
    ],
)
def test_every_missing_key_is_named_at_once_with_the_secret_and_its_mount(
    tmp_path: Path, keys: dict[str, str], says: str
) -> None:
    with pytest.raises(BrokerError) as caught:
        read_credentials(write(tmp_path, **keys), "azaion-rabbitmq")
    assert caught.value.reason is BrokerReason.CREDENTIALS_MISSING
    assert says in str(caught.value)
    assert f"the Secret azaion-rabbitmq (mounted at {tmp_path})" in str(caught.value)


def test_a_secret_that_is_not_mounted_at_all_names_both_keys(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="username is missing, password is missing"):
        read_credentials(tmp_path / "nothing", "azaion-rabbitmq")


def test_bytes_that_are_no_text_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "username").write_bytes(b"\xff\xfesecret")
    write(tmp_path, password="p")
    with pytest.raises(BrokerError, match=r"username cannot be read \(UnicodeDecodeError\)") as caught:
        read_credentials(tmp_path, "azaion-rabbitmq")
    assert "secret" not in str(caught.value).replace("the Secret", "")


def test_credentials_do_not_show_themselves() -> None:
    assert "pass" not in repr(Credentials("user", "pass")) + str(Credentials("user", "pass"))
