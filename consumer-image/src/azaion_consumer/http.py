"""`/livez`, `/readyz` and `/metrics` of the consumer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from azaion_api.pages import METRICS_TYPE, Answer, PageServer, probe


@dataclass(frozen=True)
class Health:
    """What the probes ask; both answer with the sentence of what is wrong, or None."""

    not_alive: Callable[[], str | None]
    not_ready: Callable[[], str | None]
    metrics: Callable[[], bytes]


def serve_health(port: int, health: Health) -> PageServer:
    """Serves until closed. Raises OSError when the port is taken."""
    return PageServer(
        port,
        {
            "/livez": lambda: probe(health.not_alive()),
            "/readyz": lambda: probe(health.not_ready()),
            "/metrics": lambda: Answer(health.metrics(), content_type=METRICS_TYPE),
        },
    )
