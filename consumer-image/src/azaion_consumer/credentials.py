"""The broker's login, read from the mounted Secret at every connection, so that a rotated one is picked up."""

from __future__ import annotations

from pathlib import Path

from azaion_consumer.connection import Credentials
from azaion_consumer.errors import BrokerError, BrokerReason

KEYS = ("username", "password")


def read_credentials(directory: Path, secret: str) -> Credentials:
    """The login in the files `username` and `password` of `directory`, where the Secret of that name is mounted.

    Raises BrokerError naming every key that is missing or empty.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    for key in KEYS:
        try:
            # An editor's or `--from-file`'s newline at the end is never part of a login.
            values[key] = (directory / key).read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            problems.append(f"{key} is missing")
            continue
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{key} cannot be read ({type(error).__name__})")
            continue
        if not values[key]:
            problems.append(f"{key} is empty")
    if problems:
        raise BrokerError(
            BrokerReason.CREDENTIALS_MISSING,
            f"the Secret {secret} (mounted at {directory}) has no login: {', '.join(problems)}; add these keys to it, "
            "they are picked up within a minute or two",
        )
    return Credentials(values["username"], values["password"])
