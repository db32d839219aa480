"""What the chart lets resources name: Secrets, hosts and claims beyond the platform's own. Pure.

Whoever may create a resource of ours may have no right on Secrets at all. Without these lists they could have any
Secret of the namespace mounted into a pod and sent to a host of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

_SUFFIXES = ("svc", "svc.cluster.local")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Allow-lists of the chart; `*` stands for any characters. Services of the own namespace are always allowed."""

    namespace: str = "azaion"
    secrets: tuple[str, ...] = ("azaion-*",)
    hosts: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()

    def refused_secret(self, names: Iterable[str]) -> str | None:
        """Why one of the Secrets may not be used, in a sentence with what to do; None when all may."""
        for name in names:
            if not _matches(name, self.secrets):
                return _sentence("Secret", name, "access.secrets", self.secrets)
        return None

    def refused_host(self, hosts: Iterable[str]) -> str | None:
        """Why one of the hosts may not be connected to; None when all may."""
        for host in hosts:
            if not self._is_own_service(host.lower()) and not _matches(host.lower(), self.hosts):
                return _sentence("host", host, "access.hosts", self.hosts)
        return None

    def refused_claim(self, name: str | None, own: str) -> str | None:
        """Why the claim may not be mounted; None for the platform's own, or none at all, or an allowed one."""
        if name is None or name == own or _matches(name, self.claims):
            return None
        return _sentence("claim", name, "access.claims", self.claims)

    def _is_own_service(self, host: str) -> bool:
        """`rabbitmq`, `rabbitmq.azaion.svc` and its longer form. Only who may make Services here makes such a name."""
        service, dot, rest = host.partition(".")
        return not dot or (bool(service) and rest in {f"{self.namespace}.{suffix}" for suffix in _SUFFIXES})


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)


def _sentence(kind: str, name: str, value: str, patterns: tuple[str, ...]) -> str:
    allowed = f" ({', '.join(patterns)})" if patterns else ""
    return f"the {kind} {name} is not on the chart's list {value}{allowed}; an administrator can add it and upgrade"
