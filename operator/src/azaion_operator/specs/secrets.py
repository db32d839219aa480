"""Secrets that a run names, mounted where they are used. The operator itself reads none of them."""

from __future__ import annotations

from collections.abc import Iterable

from azaion_api.task import SECRETS_PATH
from azaion_api.training_run import Publish
from azaion_operator.objects import RawObject


def upload_secrets(publish: Publish) -> tuple[str, ...]:
    """Names of the Secrets that uploading needs."""
    names = [publish.encryption.secret_key_ref.name]
    for target in publish.targets:
        names += [
            target.s3.credentials_secret_ref.name,
            target.s3.provision_key_ref.name,
            target.api.credentials_secret_ref.name,
        ]
    return tuple(dict.fromkeys(name for name in names if name))


def secret_volumes(names: Iterable[str]) -> list[RawObject]:
    """Optional: the pod starts without them and says in its own words which one is missing."""
    return [
        {"name": f"secret-{number}", "secret": {"secretName": name, "optional": True, "defaultMode": 0o440}}
        for number, name in enumerate(names)
    ]


def secret_mounts(names: Iterable[str]) -> list[RawObject]:
    """Each in a directory named like it."""
    return [
        {"name": f"secret-{number}", "mountPath": f"{SECRETS_PATH}/{name}", "readOnly": True}
        for number, name in enumerate(names)
    ]
