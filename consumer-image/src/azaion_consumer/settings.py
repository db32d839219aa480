"""The consumer's environment, read once; the one module that looks at it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from azaion_api import task as api
from azaion_api.layout import MOUNT_PATH
from azaion_api.task import IngestTask, decode_ingest_task
from azaion_consumer.connection import Endpoint

HTTP_PORT_VARIABLE = "AZAION_HTTP_PORT"
_DEFAULT_HTTP_PORT = 8080


class SettingsError(Exception):
    """The environment does not say what to do; the message names the variable."""


@dataclass(frozen=True)
class Settings:
    """What one consumer process is asked to do."""

    task: IngestTask
    pod_uid: str
    root: Path
    credentials: Path
    ca: Path
    http_port: int
    log_level: str

    @property
    def endpoint(self) -> Endpoint:
        stream = self.task.spec.stream
        return Endpoint(
            host=stream.host,
            port=stream.port,
            virtual_host=stream.virtual_host,
            stream=stream.name,
            tls=stream.tls.enabled,
            ca_file=self.ca / "ca.crt" if stream.tls.enabled and stream.tls.ca_secret_name else None,
        )


def task_of_the_pod(environment: Mapping[str, str] | None = None) -> IngestTask | None:
    """The task of the consumer's pod this process runs in; None outside of one. Raises SettingsError."""
    text = (os.environ if environment is None else environment).get(api.TASK_VARIABLE)
    return _task(text) if text else None


def read_settings(
    environment: Mapping[str, str] | None = None,
    root: Path = Path(MOUNT_PATH),
    credentials: Path = Path(api.CREDENTIALS_PATH),
    ca: Path = Path(api.CA_PATH),
) -> Settings:
    """The settings from `environment`, the process's own by default; raises SettingsError."""
    environment = os.environ if environment is None else environment
    text = environment.get(api.TASK_VARIABLE)
    if not text:
        raise SettingsError(f"{api.TASK_VARIABLE} is not set; the operator sets it to the ingest's task as JSON")
    task = _task(text)
    port = environment.get(HTTP_PORT_VARIABLE) or str(_DEFAULT_HTTP_PORT)
    if not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{HTTP_PORT_VARIABLE} is {port!r}, not a port number")
    return Settings(
        task=task,
        pod_uid=environment.get(api.POD_UID_VARIABLE, ""),
        root=root,
        credentials=credentials,
        ca=ca,
        http_port=int(port),
        log_level=environment.get(api.LOG_LEVEL_VARIABLE) or "INFO",
    )


def _task(text: str) -> IngestTask:
    try:
        return decode_ingest_task(text)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise SettingsError(f"{api.TASK_VARIABLE} is no task of an ingest: {error}") from error
