"""What the API server wrote down of who asked it for what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A watch that goes on has only been answered so far.
_ANSWERED = ("ResponseStarted", "ResponseComplete")
_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True)
class Request:
    """One request of a service account."""

    namespace: str
    account: str
    verb: str
    group: str
    #: With its subresource: trainingruns/status.
    resource: str
    name: str
    code: int
    #: The namespace it was about; empty for what belongs to none.
    about_namespace: str = ""

    @property
    def right(self) -> tuple[str, str, str]:
        return self.group, self.resource, self.verb


def requests(lines: Iterable[str]) -> list[Request]:
    """The requests of service accounts for objects; a line that a stop cut off is left out."""
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        user = event.get("user", {}).get("username", "")
        about = event.get("objectRef")
        if not user.startswith(_PREFIX) or about is None or event.get("stage") not in _ANSWERED:
            continue
        namespace, _, account = user.removeprefix(_PREFIX).partition(":")
        resource = about.get("resource", "")
        if about.get("subresource"):
            resource = f"{resource}/{about['subresource']}"
        code = int(event.get("responseStatus", {}).get("code", 0))
        found.append(
            Request(
                namespace=namespace,
                account=account,
                verb=event["verb"],
                group=about.get("apiGroup", ""),
                resource=resource,
                name=about.get("name", ""),
                code=code,
                about_namespace=about.get("namespace", ""),
            )
        )
    return found


def read(log: Path) -> list[Request]:
    """Of the log and what was rotated away from it."""
    lines: list[str] = []
    for path in sorted(log.parent.glob(f"{log.stem}*{log.suffix}")):
        lines += path.read_text(errors="replace").splitlines()
    return requests(lines)


def granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Every (group, resource, verb) a Role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule.get("apiGroups", [])
        for resource in rule.get("resources", [])
        for verb in rule["verbs"]
    }
