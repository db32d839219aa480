"""The result of a health check: what was looked at, what is wrong, and what is remembered for the next comparison.

It is kept in a ConfigMap, shown by the status page and printed by `kubectl azaion health`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

#: ConfigMap that holds the last result; the chart makes it.
HEALTH_REPORT = "azaion-health"
HEALTH_REPORT_KEY = "health.json"
HEALTH_VERSION = 1


class Severity(enum.StrEnum):
    """How bad it is when a check fails; the worst first."""

    CRITICAL = "Critical"
    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


#: How soon somebody should look.
RESPONSE_TIMES: dict[Severity, str] = {
    Severity.CRITICAL: "at once",
    Severity.HIGH: "within 30 minutes",
    Severity.MEDIUM: "within 4 hours",
    Severity.LOW: "the next business day",
}
#: Worth waking somebody: these are posted to the webhook.
URGENT = frozenset({Severity.CRITICAL, Severity.HIGH})


class Outcome(enum.StrEnum):
    """What a check found."""

    OK = "OK"
    FAILED = "Failed"
    #: What it needs could not be read.
    UNKNOWN = "Unknown"
    #: There is nothing to check yet, or on purpose.
    SKIPPED = "Skipped"


class Check(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One thing that was looked at."""

    name: str
    #: The resource it is about, where there may be several.
    subject: str = ""
    outcome: Outcome = msgspec.field(default_factory=lambda: Outcome.OK)
    #: Set when it failed.
    severity: Severity | None = None
    #: One sentence: what was found.
    message: str = ""
    #: What to do about it; empty when nothing is to be done.
    action: str = ""

    @property
    def key(self) -> str:
        """Tells checks apart from one result to the next."""
        return f"{self.name}/{self.subject}" if self.subject else self.name


class OffsetMark(msgspec.Struct, frozen=True, rename="camel"):
    """Where an ingest stood, and since when it has stood there."""

    offset: int | None
    since: Annotated[datetime, Meta(tz=True)]


class Notice(msgspec.Struct, frozen=True, rename="camel"):
    """What the webhook was told last."""

    keys: tuple[str, ...]
    time: Annotated[datetime, Meta(tz=True)]


class HealthReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One result."""

    version: int = HEALTH_VERSION
    time: Annotated[datetime, Meta(tz=True)]
    checks: tuple[Check, ...]
    #: By ingest; the next check compares with these.
    offsets: dict[str, OffsetMark] = msgspec.field(default_factory=dict)
    notice: Notice | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """What is wrong, the worst first."""
        order = list(Severity)
        found = [check for check in self.checks if check.outcome is Outcome.FAILED]
        return tuple(sorted(found, key=lambda check: order.index(check.severity or Severity.LOW)))

    @property
    def unknown(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome is Outcome.UNKNOWN)

    @property
    def urgent(self) -> tuple[Check, ...]:
        return tuple(check for check in self.failed if check.severity in URGENT)

    @property
    def worst(self) -> Severity | None:
        failed = self.failed
        return failed[0].severity if failed else None

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


class ExitCode(enum.IntEnum):
    """Of `kubectl azaion health`; those of monitoring plugins, so that a cron job or a probe can use them."""

    HEALTHY = 0
    #: Something of severity Medium or Low.
    WARNING = 1
    #: Something of severity Critical or High.
    CRITICAL = 2
    #: Nothing is known to be wrong, but not everything could be looked at.
    UNKNOWN = 3


def exit_code(report: HealthReport) -> ExitCode:
    """How the command ends."""
    if report.urgent:
        return ExitCode.CRITICAL
    if report.failed:
        return ExitCode.WARNING
    return ExitCode.UNKNOWN if report.unknown else ExitCode.HEALTHY


def summary(report: HealthReport) -> str:
    """One line for people."""
    failed, unknown = report.failed, report.unknown
    looked_at = [check for check in report.checks if check.outcome is not Outcome.SKIPPED]
    if failed:
        parts = [f"{_count(failed, severity)} {severity}" for severity in Severity if _count(failed, severity)]
        return f"{len(failed)} of {len(looked_at)} checks failed: {', '.join(parts)}"
    if unknown:
        return f"{len(unknown)} of {len(looked_at)} checks could not be made"
    return f"all {len(looked_at)} checks passed"


def _count(checks: Iterable[Check], severity: Severity) -> int:
    return sum(check.severity is severity for check in checks)


class _Head(msgspec.Struct, frozen=True):
    version: int


def parse_health_report(text: str) -> HealthReport | None:
    """The result, or None when it is not one of ours (none yet, garbage, another version)."""
    try:
        if msgspec.json.decode(text, type=_Head).version != HEALTH_VERSION:
            return None
        return msgspec.json.decode(text, type=HealthReport)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
