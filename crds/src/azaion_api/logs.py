"""One JSON object a line on standard output: `{timestamp, level, service, message, context}`."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

log = logging.getLogger(__name__)

#: Founding level names: what Python calls WARNING is WARN.
_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}
_KNOWN = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what was passed as `extra={"context": {...}}` becomes `context`.

    Bytes are never written, only how many there are: they are images or secrets.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        context: dict[str, Any] = {"logger": record.name}
        given = getattr(record, "context", None)
        if isinstance(given, Mapping):
            context.update({str(key): _plain(value) for key, value in given.items()})
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
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except (UnicodeEncodeError, TypeError):
            # A file name that is not UTF-8, or a map with odd keys: a line of the log is never lost for its contents.
            text = json.dumps(line, ensure_ascii=False, default=str, skipkeys=True)
            return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def configure(service: str, level: str = "INFO") -> None:
    """Send every record of the process to standard output as JSON, warnings and uncaught exceptions too.

    `level` is DEBUG, INFO, WARN(ING) or ERROR; ValueError says so when it is something else.
    """
    if level.upper() not in _KNOWN:
        raise ValueError(f"log level {level!r} is not one of DEBUG, INFO, WARN, ERROR")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_KNOWN[level.upper()])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(type_: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(type_, KeyboardInterrupt):
        sys.__excepthook__(type_, error, trace)
        return
    log.error("uncaught %s: %s", type_.__name__, error, exc_info=(type_, error, trace))


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is None or issubclass(found.exc_type, SystemExit):
        return
    name = found.thread.name if found.thread else "unknown"
    log.error(
        "uncaught %s in thread %s: %s",
        found.exc_type.__name__,
        name,
        found.exc_value,
        exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
    )
