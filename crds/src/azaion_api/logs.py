"""One JSON object a line on standard output: `{timestamp, level, service, message, context}`."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

#: Founding level names: what Python calls WARNING is WARN.
_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was passed as `extra={"context": {...}}` becomes `context`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        context: dict[str, Any] = {"logger": record.name}
        given = getattr(record, "context", None)
        if isinstance(given, dict):
            context.update(given)
        if record.exc_info:
            context["trace"] = self.formatException(record.exc_info)
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": _LEVELS.get(record.levelname, record.levelname),
            "service": self._service,
            "message": record.getMessage(),
            "context": context,
        }
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(service: str, level: str = "INFO") -> None:
    """Send every record of the process to standard output as JSON.

    `level` is DEBUG, INFO, WARN(ING) or ERROR; ValueError says so when it is something else.
    """
    known = {
        "DEBUG": logging.DEBUG,
        "INFO": logging.INFO,
        "WARN": logging.WARNING,
        "WARNING": logging.WARNING,
        "ERROR": logging.ERROR,
    }
    if level.upper() not in known:
        raise ValueError(f"log level {level!r} is not one of DEBUG, INFO, WARN, ERROR")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(known[level.upper()])
