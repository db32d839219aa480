"""A training pod tells each batch to Prometheus, without waiting and without ever failing for it."""

from __future__ import annotations

import errno
import http.client
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from azaion_trainer import metrics as module
from azaion_trainer.checkpoints import CheckpointError
from azaion_trainer.metrics import HTTP_PORT_VARIABLE, MeteredListener, TrainingMetrics, serve


class Inner:
    """Writes down what is passed on."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def hear(*_arguments: object) -> dict[str, str]:
            self.heard.append(name)
            return {"from": "inner"}

        return hear


def trainer(images_seen: int, epoch: int = 2, losses: dict[str, float] | None = None) -> Any:
    return SimpleNamespace(
        position=SimpleNamespace(epoch=epoch, images_seen=images_seen),
        losses=losses or {},
        train_loader=SimpleNamespace(order=SimpleNamespace(reading=SimpleNamespace(images=40, batch=8))),
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.002}]),
    )


def values(metrics: TrainingMetrics) -> dict[str, float]:
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0].removeprefix("azaion_training_"): float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def metrics() -> TrainingMetrics:
    return TrainingMetrics()


@pytest.fixture
def listener(inner: Inner, metrics: TrainingMetrics) -> MeteredListener:
    return MeteredListener(inner, metrics)  # type: ignore[arg-type]


def test_every_batch_counts_with_its_images_losses_and_learning_rate(
    listener: MeteredListener, metrics: TrainingMetrics
) -> None:
    listener.began(trainer(0))
    listener.batch_done(trainer(8, losses={"box": 1.5, "cls": 3.0}))
    listener.batch_done(trainer(16, losses={"box": 1.25, "cls": 2.0}))
    found = values(metrics)
    assert (found["batches_total"], found["images_total"], found["epoch"]) == (2, 16, 2)
    assert (found["epoch_progress_ratio"], found["batch_size"], found["learning_rate"]) == (0.4, 8, 0.002)
    assert (found['loss{component="box"}'], found['loss{component="cls"}']) == (1.25, 2)
    assert found["step_seconds_count"] == 1  # from the first batch's end to the second's


def test_a_resumed_epoch_counts_only_what_this_pod_trained_on(
    listener: MeteredListener, metrics: TrainingMetrics
) -> None:
    listener.began(trainer(24))
    listener.batch_done(trainer(32))
    assert values(metrics)["images_total"] == 8


def test_a_new_epoch_begins_at_its_first_image(listener: MeteredListener, metrics: TrainingMetrics) -> None:
    listener.began(trainer(32))
    listener.batch_done(trainer(40))
    listener.epoch_done(SimpleNamespace(epoch=3))  # type: ignore[arg-type]
    found = values(metrics)
    assert (found["epoch"], found["epoch_progress_ratio"]) == (3, 0)
    listener.batch_done(trainer(8, epoch=3))
    assert values(metrics)["images_total"] == 16


def test_validation_and_checkpoints_are_no_part_of_a_step(
    listener: MeteredListener, metrics: TrainingMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    listener.began(trainer(0))
    for images, pause_s in ((8, 1.0), (16, 1.0), (24, 100.0)):
        now[0] += pause_s
        if pause_s > 1:
            listener.checkpoint_saved(None, None)  # type: ignore[arg-type]
        listener.batch_done(trainer(images))
    assert (values(metrics)["step_seconds_sum"], values(metrics)["checkpoints_total"]) == (1, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "no space"), "StorageFull"),
        (OSError(errno.EIO, "broken"), "WriteFailed"),
        (CheckpointError("read back differently"), "NotVerified"),
    ],
)
def test_a_checkpoint_that_failed_counts_under_its_reason(
    listener: MeteredListener, metrics: TrainingMetrics, inner: Inner, error: Exception, reason: str
) -> None:
    before = {name: value for name, value in values(metrics).items() if name.startswith("checkpoint_failures_total")}
    assert sorted(before.values()) == [0, 0, 0]
    listener.checkpoint_failed(error)
    assert values(metrics)[f'checkpoint_failures_total{{reason="{reason}"}}'] == 1
    assert inner.heard == ["checkpoint_failed"]


def test_everything_is_passed_on(listener: MeteredListener, inner: Inner) -> None:
    listener.began(trainer(0))
    listener.batch_done(trainer(8))
    listener.validating(trainer(8), 0.5)
    assert listener.state() == {"from": "inner"}
    assert inner.heard == ["began", "batch_done", "validating", "state"]


def test_metrics_are_served_where_the_pod_is_told_to(metrics: TrainingMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HTTP_PORT_VARIABLE, "0")
    server = serve(metrics)
    assert server is not None
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b"azaion_training_epoch 0.0\n" in answer.read()
    finally:
        server.close()


def test_a_port_that_is_taken_or_none_at_all_costs_no_training(
    metrics: TrainingMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HTTP_PORT_VARIABLE, raising=False)
    assert serve(metrics) is None
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv(HTTP_PORT_VARIABLE, str(taken.getsockname()[1]))
        assert serve(metrics) is None


def test_the_number_of_series_does_not_grow_with_the_training(
    listener: MeteredListener, metrics: TrainingMetrics
) -> None:
    listener.began(trainer(0))
    listener.batch_done(trainer(8, losses={"box": 1.0, "cls": 1.0, "dfl": 1.0}))
    first = set(values(metrics))
    for epoch in range(3, 100):
        listener.batch_done(trainer(8, epoch=epoch, losses={"box": 1.0, "cls": 1.0, "dfl": 1.0}))
        listener.epoch_done(SimpleNamespace(epoch=epoch))  # type: ignore[arg-type]
    assert set(values(metrics)) == first
    assert len(first) < 60
