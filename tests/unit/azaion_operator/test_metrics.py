"""The operator's own numbers."""

from __future__ import annotations

from datetime import timedelta

import make
import msgspec

from azaion_api.names import JobStage
from azaion_api.training_run import Phase
from azaion_operator.metrics import Metrics


def test_the_names_of_the_metrics_table_are_there_from_the_start() -> None:
    metrics = Metrics()
    metrics.watch_gauges(queue_length=lambda: 3, watch_age_s=lambda: 1.5, leads=lambda: True)
    text = metrics.text().decode()
    for line in (
        'azaion_operator_runs_finished_total{result="Succeeded"} 0.0',
        'azaion_operator_runs_finished_total{result="Failed"} 0.0',
        "azaion_operator_queue_length 3.0",
        "azaion_operator_run_duration_seconds_count 0.0",
        'azaion_operator_stage_duration_seconds_bucket{le="1.2096e+06",stage="train"} 0.0',
        "azaion_operator_leader 1.0",
    ):
        assert line in text.splitlines()


def test_what_ended_between_two_states_is_counted_once() -> None:
    metrics = Metrics()
    before = make.released()
    after = msgspec.structs.replace(
        before,
        phase=Phase.SUCCEEDED,
        attempts=(make.ended(JobStage.TRAIN, ran=90),),
        start_time=make.NOW,
        completion_time=make.NOW + timedelta(hours=1),
    )
    metrics.published(before, after)
    metrics.published(after, after)
    lines = metrics.text().decode().splitlines()
    assert 'azaion_operator_runs_finished_total{result="Succeeded"} 1.0' in lines
    assert "azaion_operator_run_duration_seconds_sum 3600.0" in lines
    assert 'azaion_operator_stage_duration_seconds_sum{stage="train"} 90.0' in lines


def test_a_thousand_runs_make_no_more_series_than_one() -> None:
    metrics = Metrics()
    metrics.watch_gauges(queue_length=lambda: 0, watch_age_s=lambda: 0, leads=lambda: True)
    for kind in ("TrainingRun", "AnnotationIngest", "ModelLine"):
        metrics.reconciled(kind, 0.01)
    names = []
    for number in range(1000):
        before = make.released()
        after = msgspec.structs.replace(
            before,
            phase=Phase.FAILED if number % 3 else Phase.SUCCEEDED,
            attempts=tuple(make.ended(stage, number + 1) for stage in JobStage),
            start_time=make.NOW,
            completion_time=make.NOW + timedelta(seconds=number),
        )
        metrics.published(before, after)
        if number in (0, 999):
            names.append({line.rpartition(" ")[0] for line in metrics.text().decode().splitlines()})
    assert names[0] == names[-1]
    assert len(names[-1]) < 300
