"""Probes and metrics over real HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter

import pytest
from consumer_make import CREATED_AT, record

from azaion_api.pages import PageServer
from azaion_consumer.http import Health, serve_health
from azaion_consumer.messages import RejectReason
from azaion_consumer.metrics import Metrics
from azaion_consumer.writer import Committed


def get(server: PageServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def committed(count: int, offset: int) -> Committed:
    return Committed(
        record(offset, last_message_time=CREATED_AT),
        Counter(created=count),
        Counter({RejectReason.BAD_NAME: 1}),
        names_missing=2,
        sync_s=0.004,
    )


@pytest.mark.parametrize(
    ("not_alive", "not_ready", "live", "ready"),
    [(None, None, 200, 200), (None, "not connected", 200, 503), ("stuck", "not connected", 503, 503)],
)
def test_probes_answer_what_is_wrong(not_alive: str | None, not_ready: str | None, live: int, ready: int) -> None:
    server = serve_health(0, Health(lambda: not_alive, lambda: not_ready, lambda: b""))
    try:
        assert get(server, "/livez") == (live, f"{not_alive or 'ok'}\n")
        assert get(server, "/readyz") == (ready, f"{not_ready or 'ok'}\n")
        assert get(server, "/elsewhere")[0] == 404
    finally:
        server.close()


def test_metrics_have_the_documented_names_and_start_at_zero() -> None:
    metrics = Metrics()
    server = serve_health(0, Health(lambda: None, lambda: None, metrics.text))
    try:
        before = get(server, "/metrics")[1]
        assert 'azaion_ingest_messages_processed_total{operation="deleted"} 0.0' in before
        for reason in RejectReason:
            assert f'azaion_ingest_messages_failed_total{{reason="{reason}"}} 0.0' in before
        metrics.add_committed(committed(5, 41))
        metrics.set_lag(7)
        lines = get(server, "/metrics")[1].splitlines()
    finally:
        server.close()
    for line in (
        'azaion_ingest_messages_processed_total{operation="created"} 5.0',
        'azaion_ingest_messages_failed_total{reason="BadName"} 1.0',
        "azaion_ingest_names_missing_total 2.0",
        "azaion_ingest_committed_offset 41.0",
        "azaion_ingest_lag_messages 7.0",
        "azaion_ingest_last_message_timestamp_seconds 1.77",
        "azaion_ingest_batch_messages_count 1.0",
    ):
        assert any(found.startswith(line) for found in lines), f"{line} is not among the metrics"
