"""The consumer's own metrics; the one module that touches Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from azaion_consumer.messages import RejectReason
from azaion_consumer.writer import Committed

_OPERATIONS = ("created", "edited", "validated", "deleted")


class Metrics:
    """`azaion_ingest_*`; every label value is there from the start, so that rates begin at zero."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._processed = Counter(
            "azaion_ingest_messages_processed_total", "Messages applied.", ["operation"], registry=self._registry
        )
        self._failed = Counter(
            "azaion_ingest_messages_failed_total",
            "Messages set aside in data-rejected.",
            ["reason"],
            registry=self._registry,
        )
        self._missing = Counter(
            "azaion_ingest_names_missing_total",
            "Names in bulk messages whose files were not there.",
            registry=self._registry,
        )
        self._offsets_missing = Gauge(
            "azaion_ingest_offsets_missing",
            "Offsets that were gone from the stream and that spec.stream.onMissingOffsets: Continue went on without.",
            registry=self._registry,
        )
        self._committed = Gauge(
            "azaion_ingest_committed_offset",
            "Offset of the last message whose files are durable.",
            registry=self._registry,
        )
        self._lag = Gauge(
            "azaion_ingest_lag_messages", "Messages in the stream behind the committed offset.", registry=self._registry
        )
        self._last_message = Gauge(
            "azaion_ingest_last_message_timestamp_seconds", "When the last message was filed.", registry=self._registry
        )
        self._connected = Gauge("azaion_ingest_connected", "1 when the stream is being read.", registry=self._registry)
        self._writable = Gauge(
            "azaion_ingest_storage_writable", "1 when the volume can be written.", registry=self._registry
        )
        self._connections = Counter(
            "azaion_ingest_connections_total", "Connections to the broker made.", registry=self._registry
        )
        self._sync = Histogram(
            "azaion_ingest_sync_seconds",
            "Time one batch's sync took.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self._registry,
        )
        self._batch = Histogram(
            "azaion_ingest_batch_messages",
            "Messages made durable by one sync.",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
            registry=self._registry,
        )
        for operation in _OPERATIONS:
            self._processed.labels(operation)
        for reason in RejectReason:
            self._failed.labels(reason)

    def add_committed(self, committed: Committed) -> None:
        """From any thread."""
        for operation, count in committed.processed.items():
            self._processed.labels(operation).inc(count)
        for reason, count in committed.rejected.items():
            self._failed.labels(reason).inc(count)
        self._missing.inc(committed.names_missing)
        self._sync.observe(committed.sync_s)
        self._batch.observe(committed.processed.total() + committed.rejected.total())
        self.set_offset(committed.record.offset)
        self._offsets_missing.set(committed.record.offsets_missing)
        if committed.record.last_message_time is not None:
            self._last_message.set(committed.record.last_message_time.timestamp())

    def set_offset(self, offset: int | None) -> None:
        if offset is not None:
            self._committed.set(offset)

    def set_lag(self, lag: int | None) -> None:
        self._lag.set(float("nan") if lag is None else lag)

    def set_connected(self, connected: bool) -> None:
        self._connected.set(connected)

    def set_writable(self, writable: bool) -> None:
        self._writable.set(writable)

    def add_connection(self) -> None:
        self._connections.inc()

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)
