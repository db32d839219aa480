"""Known vulnerabilities of the packages in an image, as a public database of the OSV format says."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.release.inventory import Component

#: Speaks https://google.github.io/osv.dev/post-v1-querybatch/; another one can be named.
DATABASE = "https://api.osv.dev"
_BATCH = 500
_TIMEOUT_S = 30.0


class DatabaseError(Exception):
    """The database could not be asked: nothing is known, which is not the same as nothing found."""


@dataclass(frozen=True, order=True)
class Finding:
    """One advisory for one package."""

    package: str
    version: str
    advisory: str


def check(found: Sequence[Component], database: str = DATABASE) -> list[Finding]:
    """Every advisory for these packages. Raises DatabaseError when the database cannot be had."""
    findings = []
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        answers = _ask(database, {"queries": [_query(component) for component in batch]})
        if len(answers) != len(batch):
            raise DatabaseError(f"{database} answered {len(answers)} of {len(batch)} questions")
        for component, answer in zip(batch, answers, strict=True):
            findings += [Finding(component.name, component.version, str(v["id"])) for v in answer.get("vulns", [])]
    return sorted(findings)


def _query(component: Component) -> dict[str, Any]:
    ecosystem = "Debian:12" if component.kind == "deb" else "PyPI"
    return {"package": {"name": component.name, "ecosystem": ecosystem}, "version": component.version}


def _ask(database: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(  # noqa: S310 - the address is the caller's
        f"{database}/v1/querybatch", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
            found = json.load(answer)["results"]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{database} cannot be asked: {error}") from error
    return list(found)
