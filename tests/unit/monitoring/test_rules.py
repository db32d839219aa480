"""Every alert fires when it should and is quiet when it should, judged by promtool; every alert has its page."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from testcluster.monitoring import program

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "charts" / "azaion" / "files" / "rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
RESPONSES = {
    "critical": {"immediate", "5m"},
    "high": {"30m"},
    "medium": {"4h"},
    "low": {"next business day"},
}
#: What most series carry.
RUN = 'namespace="azaion",name="nightly"'
INGEST = 'namespace="azaion",name="annotations"'


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them, one sample a minute, and what is to be said about them at a time."""

    alert: str
    series: dict[str, str]
    at: str
    #: Labels beside the alert's own, when it is to fire.
    labels: dict[str, str] | None = None
    summary: str = ""
    says: str = ""


def of_run(**more: str) -> dict[str, str]:
    return {"namespace": "azaion", "name": "nightly", **more}


TRAINING = {f'azaion_trainingrun_stage{{{RUN},stage="Training"}}': "1x200"}
CONTAINER = 'namespace="azaion",pod="c-1",container="consumer"'
CONSUMER = 'namespace="azaion",deployment="annotations-ingest"'

CASES = [
    Case(
        "AzaionGPUTooHot",
        {'azaion_gpu_temperature_celsius{node="gpu-1",gpu="0"}': "85 92x5"},
        "3m",
        {"node": "gpu-1", "gpu": "0"},
        "GPU 0 is at 92 C",
        "GPU 0 of node gpu-1",
    ),
    Case("AzaionGPUTooHot", {'azaion_gpu_temperature_celsius{node="gpu-1",gpu="0"}': "92 90x5"}, "3m"),
    Case(
        "AzaionGPUNotAvailable",
        {'azaion_gpu_driver_up{node="gpu-1"}': "1 0x10"},
        "8m",
        {"node": "gpu-1"},
        "No GPU can be used on gpu-1",
        "has not answered for 5 minutes",
    ),
    Case(
        "AzaionGPUNotAvailable",
        {
            'azaion_gpu_driver_up{node="gpu-1"}': "1x10",
            'kube_node_status_allocatable{node="gpu-1",resource="nvidia_com_gpu"}': "0x10",
        },
        "8m",
        {"node": "gpu-1"},
        "No GPU can be used on gpu-1",
        "the node offers no nvidia.com/gpu",
    ),
    Case(
        "AzaionGPUNotAvailable",
        {
            'azaion_gpu_driver_up{node="gpu-1"}': "1x10",
            'kube_node_status_allocatable{node="gpu-1",resource="nvidia_com_gpu"}': "1x10",
            'kube_node_status_allocatable{node="gpu-1",resource="cpu"}': "0x10",
        },
        "8m",
    ),
    Case(
        "AzaionLossNotFinite",
        {f'azaion_trainingrun_condition{{{RUN},type="LossFinite",status="False",reason="NotFinite"}}': "0 1x3"},
        "2m",
        of_run(),
        "The loss of nightly is no longer a number",
        "goes back to its last good checkpoint",
    ),
    Case(
        "AzaionLossNotFinite",
        {
            f'azaion_trainingrun_condition{{{RUN},type="LossFinite",status="False",reason="NotYet"}}': "0x3",
            f'azaion_trainingrun_condition{{{RUN},type="LossFinite",status="Unknown",reason="NotYet"}}': "1x3",
            f'azaion_trainingrun_condition{{{RUN},type="Training",status="False",reason="Completed"}}': "1x3",
        },
        "2m",
    ),
    Case(
        "AzaionLossDiverging",
        {**TRAINING, f"azaion_trainingrun_train_loss{{{RUN}}}": "4x60 3x60 7x60"},
        "150m",
        of_run(),
        "The loss of nightly has doubled",
        "is 7, more than twice",
    ),
    Case("AzaionLossDiverging", {**TRAINING, f"azaion_trainingrun_train_loss{{{RUN}}}": "4x60 3x60 5.9x60"}, "150m"),
    Case(
        "AzaionGPUOutOfMemory",
        {
            f'azaion_trainingrun_attempts{{{RUN},reason="GPUOutOfMemory"}}': "_x90 1x60",
            f"azaion_trainingrun_batch_size{{{RUN}}}": "11x90 5x60",
        },
        "100m",
        of_run(),
        "nightly ran out of GPU memory",
        "The batch is now 5.",
    ),
    Case(
        "AzaionGPUOutOfMemory",
        {
            f'azaion_trainingrun_attempts{{{RUN},reason="GPUOutOfMemory"}}': "1x200",
            f'azaion_trainingrun_attempts{{{RUN},reason="Preempted"}}': "1x90 2x110",
        },
        "100m",
    ),
    Case(
        "AzaionRunFailed",
        {
            f"azaion_trainingrun_completion_timestamp_seconds{{{RUN}}}": "_x9 600x20",
            f'azaion_trainingrun_phase{{{RUN},phase="Failed"}}': "0x9 1x20",
        },
        "20m",
        of_run(),
        "nightly failed",
        "ended as Failed within the last hour",
    ),
    Case(
        "AzaionRunFailed",
        {
            f"azaion_trainingrun_completion_timestamp_seconds{{{RUN}}}": "600x20",
            f'azaion_trainingrun_phase{{{RUN},phase="Succeeded"}}': "1x20",
            f'azaion_trainingrun_phase{{{RUN},phase="Failed"}}': "0x20",
        },
        "20m",
    ),
    Case(
        "AzaionNoProgressReport",
        {**TRAINING, f'azaion_trainingrun_remaining_seconds{{{RUN},stage="Training"}}': "900-1x20 880x200"},
        "130m",
        of_run(),
        "nightly has not reported progress",
        "has not changed for an hour",
    ),
    Case(
        "AzaionNoProgressReport",
        {**TRAINING, f'azaion_trainingrun_remaining_seconds{{{RUN},stage="Training"}}': "900-1x200"},
        "130m",
    ),
    Case(
        "AzaionRunQueuedTooLong",
        {
            f'azaion_trainingrun_phase{{{RUN},phase="Queued"}}': "1x60",
            f'azaion_trainingrun_phase{{{RUN},phase="Running"}}': "0x60",
        },
        "40m",
        of_run(),
        "nightly waits although nothing runs",
        "in the queue for 30 minutes",
    ),
    Case(
        "AzaionRunQueuedTooLong",
        {
            f'azaion_trainingrun_phase{{{RUN},phase="Queued"}}': "1x60",
            'azaion_trainingrun_phase{namespace="azaion",name="other",phase="Running"}': "1x60",
        },
        "40m",
    ),
    Case(
        "AzaionCheckpointFailing",
        {
            f"azaion_trainingrun_checkpoint_failures{{{RUN}}}": "0 2x5",
            f'azaion_trainingrun_phase{{{RUN},phase="Running"}}': "1x5",
        },
        "3m",
        of_run(),
        "A checkpoint of nightly could not be saved",
        "2 checkpoints of azaion/nightly",
    ),
    Case(
        "AzaionCheckpointFailing",
        {
            f"azaion_trainingrun_checkpoint_failures{{{RUN}}}": "0x5",
            f'azaion_trainingrun_phase{{{RUN},phase="Running"}}': "1x5",
        },
        "3m",
    ),
    Case(
        "AzaionCheckpointOld",
        {
            **TRAINING,
            f"azaion_trainingrun_checkpoint_timestamp_seconds{{{RUN}}}": "60x100",
            f"azaion_trainingrun_checkpoint_interval_seconds{{{RUN}}}": "900x100",
        },
        "61m",
        of_run(),
        # promtool shows the texts of this evaluation or of the one before, a minute younger.
        "The newest checkpoint of nightly is ",
        "three times training.checkpointIntervalSeconds",
    ),
    Case(
        "AzaionCheckpointOld",
        {
            **TRAINING,
            f"azaion_trainingrun_checkpoint_timestamp_seconds{{{RUN}}}": "60x14 900x15 1800x15 2700x15 3600x15",
            f"azaion_trainingrun_checkpoint_interval_seconds{{{RUN}}}": "900x100",
        },
        "61m",
    ),
    Case(
        "AzaionConsumerDown",
        {
            f"kube_deployment_status_replicas_available{{{CONSUMER}}}": "1 0x10",
            f"kube_deployment_spec_replicas{{{CONSUMER}}}": "1x10",
        },
        "8m",
        {"namespace": "azaion", "deployment": "annotations-ingest"},
        "The consumer annotations-ingest is down",
        "no available pod for 5 minutes",
    ),
    Case(
        "AzaionConsumerDown",
        {
            f"kube_deployment_status_replicas_available{{{CONSUMER}}}": "1 0x10",
            f"kube_deployment_spec_replicas{{{CONSUMER}}}": "1 0x10",
            'kube_deployment_status_replicas_available{namespace="azaion",deployment="grafana"}': "0x10",
            'kube_deployment_spec_replicas{namespace="azaion",deployment="grafana"}': "1x10",
        },
        "8m",
    ),
    Case(
        "AzaionConsumerRestarting",
        {f"kube_pod_container_status_restarts_total{{{CONTAINER}}}": "0x4 1 2 3 4 4x6"},
        "12m",
        {"namespace": "azaion", "pod": "c-1"},
        "The consumer c-1 crashes again and again",
        "times within 10 minutes",
    ),
    Case(
        "AzaionConsumerRestarting",
        {
            f"kube_pod_container_status_restarts_total{{{CONTAINER}}}": "0x6 1x9",
            'kube_pod_container_status_restarts_total{namespace="azaion",pod="o-1",container="operator"}': "0+1x12",
        },
        "12m",
    ),
    Case(
        "AzaionBrokerUnreachable",
        {
            f'azaion_annotationingest_condition{{{INGEST},type="Connected",status="False",reason="Refused"}}': "0 1x20",
            f'azaion_annotationingest_phase{{{INGEST},phase="Suspended"}}': "0x20",
        },
        "13m",
        {"namespace": "azaion", "name": "annotations"},
        "annotations cannot reach the broker",
        "without a connection for 10 minutes",
    ),
    Case(
        "AzaionBrokerUnreachable",
        {
            f'azaion_annotationingest_condition{{{INGEST},type="Connected",status="False",reason="Suspended"}}': "1x20",
            f'azaion_annotationingest_phase{{{INGEST},phase="Suspended"}}': "1x20",
        },
        "13m",
    ),
    Case(
        "AzaionOffsetStale",
        {
            'azaion_ingest_last_message_timestamp_seconds{namespace="azaion",ingest="annotations",pod="a"}': "60x100",
            'azaion_ingest_lag_messages{namespace="azaion",ingest="annotations",pod="a"}': "5x100",
        },
        "81m",
        {"namespace": "azaion", "ingest": "annotations"},
        "annotations has filed nothing for 1h 20m 0s",
        "was filed more than an hour ago",
    ),
    Case(
        "AzaionOffsetStale",
        {
            'azaion_ingest_last_message_timestamp_seconds{namespace="azaion",ingest="annotations",pod="a"}': "60x100",
            'azaion_ingest_lag_messages{namespace="azaion",ingest="annotations",pod="a"}': "0x100",
        },
        "81m",
    ),
    Case(
        "AzaionOffsetNotAdvancing",
        {
            f"azaion_annotationingest_offset{{{INGEST}}}": "100x100",
            f"azaion_annotationingest_lag{{{INGEST}}}": "7x100",
        },
        "40m",
        {"namespace": "azaion", "name": "annotations"},
        "The offset of annotations stands still",
        "has not moved for 30 minutes",
    ),
    Case(
        "AzaionOffsetNotAdvancing",
        {
            f"azaion_annotationingest_offset{{{INGEST}}}": "100x35 101x100",
            f"azaion_annotationingest_lag{{{INGEST}}}": "7x100",
        },
        "40m",
    ),
    Case(
        "AzaionIngestRejecting",
        {'azaion_ingest_messages_failed_total{namespace="azaion",ingest="annotations",reason="BadName"}': "0x5 2x20"},
        "20m",
        {"namespace": "azaion", "ingest": "annotations", "reason": "BadName"},
        "annotations sets messages aside (BadName)",
        "went to data-rejected/ as BadName",
    ),
    Case(
        "AzaionIngestRejecting",
        {'azaion_ingest_messages_failed_total{namespace="azaion",ingest="annotations",reason="BadName"}': "7x30"},
        "20m",
    ),
    Case(
        "AzaionDiskAlmostFull",
        {
            'azaion_storage_capacity_bytes{namespace="azaion"}': "1000x20",
            'azaion_storage_available_bytes{namespace="azaion"}': "500 80x20",
        },
        "8m",
        {"namespace": "azaion"},
        "The data volume is 92% full",
        "over 90 % full",
    ),
    Case(
        "AzaionDiskAlmostFull",
        {
            'azaion_storage_capacity_bytes{namespace="azaion"}': "1000x20",
            'azaion_storage_available_bytes{namespace="azaion"}': "150x20",
        },
        "8m",
    ),
    Case(
        "AzaionDiskFilling",
        {
            'azaion_storage_capacity_bytes{namespace="azaion"}': "1000x20",
            'azaion_storage_available_bytes{namespace="azaion"}': "150x20",
        },
        "18m",
        {"namespace": "azaion"},
        "The data volume is 85% full",
        "over 80 % full",
    ),
    Case(
        "AzaionDiskFilling",
        {
            'azaion_storage_capacity_bytes{namespace="azaion"}': "1000x20",
            'azaion_storage_available_bytes{namespace="azaion"}': "250x20",
        },
        "18m",
    ),
    Case(
        "AzaionStorageProblem",
        {'azaion_storage_problems{namespace="azaion"}': "0 2x10"},
        "8m",
        {"namespace": "azaion"},
        "Something is wrong with the directory tree",
        "finds 2 problems",
    ),
    Case("AzaionStorageProblem", {'azaion_storage_problems{namespace="azaion"}': "2 0x10"}, "8m"),
    Case(
        "AzaionOverloaded",
        {
            **{
                f'azaion_trainingrun_completion_timestamp_seconds{{namespace="azaion",name="r{n}"}}': "3600x100"
                for n in range(3)
            },
            **{f'azaion_trainingrun_phase{{namespace="azaion",name="r{n}",phase="Failed"}}': "1x100" for n in range(3)},
            f'azaion_trainingrun_phase{{{RUN},phase="Queued"}}': "0x30 1x70",
            'node_cpu_seconds_total{node="gpu-1",cpu="0",mode="idle"}': "0+1x100",
        },
        "85m",
        {"namespace": "azaion"},
        "Runs fail, the queue grows and the processors are busy",
        "3 runs of azaion failed",
    ),
    Case(
        "AzaionOverloaded",
        {
            **{
                f'azaion_trainingrun_completion_timestamp_seconds{{namespace="azaion",name="r{n}"}}': "3600x100"
                for n in range(3)
            },
            **{f'azaion_trainingrun_phase{{namespace="azaion",name="r{n}",phase="Failed"}}': "1x100" for n in range(3)},
            f'azaion_trainingrun_phase{{{RUN},phase="Queued"}}': "0x30 1x70",
            'node_cpu_seconds_total{node="gpu-1",cpu="0",mode="idle"}': "0+30x100",
        },
        "85m",
    ),
    Case(
        "AzaionOperatorDown",
        {'kube_deployment_status_replicas_available{namespace="azaion",deployment="azaion-operator"}': "1 0x10"},
        "8m",
        {"namespace": "azaion"},
        "The operator is down or deaf",
        "no available pod for 5 minutes",
    ),
    Case(
        "AzaionOperatorDown",
        {'azaion_operator_watch_age_seconds{namespace="azaion"}': "400x10"},
        "8m",
        {"namespace": "azaion"},
        "The operator is down or deaf",
        "watches have brought nothing",
    ),
    Case(
        "AzaionOperatorDown",
        {
            'kube_deployment_status_replicas_available{namespace="azaion",deployment="azaion-operator"}': "0x2 1x10",
            'azaion_operator_watch_age_seconds{namespace="azaion"}': "7x10",
        },
        "8m",
    ),
    Case(
        "AzaionMetricsAbsent",
        {
            'azaion_operator_leader{namespace="azaion"}': "1x20",
            "kube_pod_info": "1x20",
            "container_memory_working_set_bytes": "1x20",
        },
        "12m",
        {"source": "storage"},
        "No metrics come from storage",
        "no series of storage",
    ),
    Case(
        "AzaionMetricsAbsent",
        {
            'azaion_operator_leader{namespace="azaion"}': "1x20",
            'azaion_storage_capacity_bytes{namespace="azaion"}': "1x20",
            "kube_pod_info": "1x20",
            "container_memory_working_set_bytes": "1x20",
        },
        "12m",
    ),
    Case(
        "AzaionScrapeDown",
        {'up{job="azaion-pods",instance="10.0.0.1:8080"}': "0x10"},
        "8m",
        {"job": "azaion-pods", "instance": "10.0.0.1:8080"},
        "azaion-pods cannot be read",
        "10.0.0.1:8080 (azaion-pods)",
    ),
    Case(
        "AzaionScrapeDown",
        {'up{job="azaion-pods",instance="10.0.0.1:8080"}': "0x3 1x10", 'up{job="others",instance="x"}': "0x10"},
        "8m",
    ),
]


@cache
def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program("promtool")), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def named(case: Case, number: int) -> str:
    return f"{case.alert}-{'fires' if case.labels is not None else 'is-quiet'}-{number}"


NAMES = [named(case, number) for number, case in enumerate(CASES)]


def evaluated(directory: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Every test in one run of promtool: it takes longer to start than to test."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        # Groups are evaluated side by side otherwise, and an alert reads what another group records.
        "group_eval_order": [group["name"] for group in groups],
        "tests": tests,
    }
    written = directory / "test.yaml"
    written.write_text(yaml.safe_dump(document))
    return promtool("test", "rules", str(written))


def of(case: Case, name: str) -> dict[str, Any]:
    series = [{"series": series, "values": values} for series, values in case.series.items()]
    return {"name": name, "interval": "1m", "input_series": series}


@pytest.mark.slow
def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    rules = alerts()
    tests = []
    for case, name in zip(CASES, NAMES, strict=True):
        own = {"alertname": case.alert, "alertstate": "firing", **rules[case.alert]["labels"]}
        expected = [] if case.labels is None else [{"labels": metric({**own, **case.labels}), "value": 1}]
        query = {
            "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
            "eval_time": case.at,
            "exp_samples": expected,
        }
        tests.append({**of(case, name), "promql_expr_test": [query]})
    done = evaluated(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What promtool says where no alert is expected: each that fires, with its texts filled in."""
    tests = [
        {
            **of(case, name),
            "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": []}],
        }
        for case, name in zip(CASES, NAMES, strict=True)
        if case.labels is not None
    ]
    wrong = evaluated(tmp_path_factory.mktemp("rules"), tests)
    return " ".join((wrong.stdout + wrong.stderr).split())


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(c, id=n) for c, n in zip(CASES, NAMES, strict=True) if c.labels])
def test_an_alert_that_fires_says_what_and_why(case: Case, said: str) -> None:
    assert case.summary in said
    assert case.says in said
    assert "error expanding template" not in said


def metric(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"ALERTS{{{inner}}}"


def test_every_alert_has_a_case_that_fires_and_one_that_is_quiet() -> None:
    fires = {case.alert for case in CASES if case.labels is not None}
    quiet = {case.alert for case in CASES if case.labels is None}
    assert fires == quiet == set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_grave_it_is_and_how_soon_somebody_is_to_look(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["response"] in RESPONSES[rule["labels"]["severity"]]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{name}.md"


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_page_that_says_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    page = (RUNBOOKS / f"{name}.md").read_text()
    rule = alerts()[name]
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Meaning", "Look at", "Do"]
    assert f"**{rule['labels']['severity']}**, {rule['labels']['response']}" in page
    for section in re.split(r"^## .+$", page, flags=re.MULTILINE)[1:]:
        assert len(section.split()) >= 12, f"{name}: a section says nothing"


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Azaion*.md")} == set(alerts())
