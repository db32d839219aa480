"""What the health check finds, from facts."""

from __future__ import annotations

from typing import Any

import health_make as make
import msgspec
import pytest
from health_make import NOW, ago, condition, healthy

from azaion_api.checks import check_health
from azaion_api.facts import Facts, Unreadable
from azaion_api.health import (
    Check,
    ExitCode,
    HealthReport,
    OffsetMark,
    Outcome,
    Severity,
    exit_code,
    parse_health_report,
    summary,
)

DOWN = condition("Connected", False, "Unreachable", "rabbitmq:5552 refuses connections")
NOTHING = Unreadable("nodes is forbidden")


def found(facts: Facts, name: str) -> Check:
    checks = [check for check in check_health(facts).checks if check.name == name]
    assert len(checks) == 1, [check.name for check in check_health(facts).checks]
    return checks[0]


def test_a_healthy_platform_passes_every_check() -> None:
    report = check_health(healthy())
    assert [(c.key, c.message) for c in report.checks if c.outcome is not Outcome.OK] == []
    assert exit_code(report) is ExitCode.HEALTHY
    assert summary(report) == "all 11 checks passed"


@pytest.mark.parametrize(
    ("name", "different", "severity", "words"),
    [
        ("Operator", {"lease": make.lease(90)}, Severity.HIGH, "last sign of life 90 s ago"),
        ("Operator", {"lease": None}, Severity.HIGH, "no operator has taken the Lease"),
        ("Operator", {"lease": None, "deployments": ()}, Severity.HIGH, "there is no operator"),
        (
            "Consumer",
            {"deployments": (make.deployment("annotations-ingest", available=0),)},
            Severity.CRITICAL,
            "filed everything",
        ),
        ("Consumer", {"pods": (make.consumer_pod(restarts=3),)}, Severity.CRITICAL, "restarted 3 times"),
        ("Broker", {"ingests": (make.ingest(connected=DOWN),)}, Severity.MEDIUM, "refuses connections"),
        ("Credentials", {"secrets": {"azaion-rabbitmq": None}}, Severity.HIGH, "Secret azaion-rabbitmq does not exist"),
        (
            "Credentials",
            {"secrets": {"azaion-rabbitmq": frozenset({"username"})}},
            Severity.HIGH,
            "Secret azaion-rabbitmq has no password",
        ),
        ("Storage", {"storage": None}, Severity.HIGH, "has not reported"),
        ("Storage", {"storage": make.storage(time=ago(400))}, Severity.HIGH, "last reported 6 minutes ago"),
        ("Storage", {"storage": make.storage(problems=("data is not writable",))}, Severity.HIGH, "not writable"),
        ("Disk", {"storage": make.storage(available_bytes=199 << 30)}, Severity.MEDIUM, "80% used, 199 GiB"),
        ("Disk", {"storage": make.storage(available_bytes=99 << 30)}, Severity.CRITICAL, "at 95 % the kubelet evicts"),
        ("GPU", {"nodes": (make.node(gpus="0"),)}, Severity.MEDIUM, "no node offers nvidia.com/gpu"),
        ("Images", {"nodes": (make.node(images=make.IMAGES[:1]),)}, Severity.MEDIUM, "azaion/trainer:0.1.0"),
        ("Training", {"reports": {"full": make.report(1000)}}, Severity.HIGH, "reported nothing for 16 minutes"),
        (
            "Loss",
            {"runs": (make.run(conditions=[condition("LossFinite", False, "NotFinite", "the loss is NaN")]),)},
            Severity.HIGH,
            "the loss is NaN",
        ),
        (
            "GPUMemory",
            {
                "runs": (
                    make.run(
                        batch=5,
                        attempts=[make.attempt(ended=make.text(ago(600)), reason="GPUOutOfMemory", batch=11)],
                    ),
                )
            },
            Severity.HIGH,
            "10 minutes ago at batch 11, goes on with 5",
        ),
        ("Checkpoint", {"runs": (make.run(checkpointFailures=2),)}, Severity.LOW, "2 checkpoints could not be written"),
        (
            "Checkpoint",
            {"runs": (make.run(spec={"training": {"checkpointIntervalSeconds": 90}}),)},
            Severity.LOW,
            "is 5 minutes old, one is due every 90 s",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_severity_and_what_to_do(
    name: str, different: dict[str, Any], severity: Severity, words: str
) -> None:
    check = found(healthy(**different), name)
    assert (check.outcome, check.severity) == (Outcome.FAILED, severity)
    assert words in check.message
    assert check.action
    urgent = severity in (Severity.CRITICAL, Severity.HIGH)
    assert exit_code(check_health(healthy(**different))) is (ExitCode.CRITICAL if urgent else ExitCode.WARNING)


def test_what_may_not_be_read_is_unknown_and_never_taken_for_wrong() -> None:
    blind = Facts(
        now=NOW,
        runs=NOTHING,
        ingests=NOTHING,
        lines=NOTHING,
        deployments=NOTHING,
        pods=NOTHING,
        nodes=NOTHING,
        lease=NOTHING,
        storage=NOTHING,
    )
    report = check_health(blind)
    assert {check.outcome for check in report.checks} == {Outcome.UNKNOWN}
    assert exit_code(report) is ExitCode.UNKNOWN


def test_a_suspended_ingest_is_left_alone() -> None:
    facts = healthy(ingests=(make.ingest(spec={"suspend": True}, connected=DOWN),), deployments=(), secrets={})
    checks = [c for c in check_health(facts).checks if c.subject == "annotations"]
    assert {check.outcome for check in checks} == {Outcome.SKIPPED}


def test_a_restart_of_long_ago_is_forgiven() -> None:
    assert found(healthy(pods=(make.consumer_pod(restarts=9, restarted_s=900),)), "Consumer").outcome is Outcome.OK


def test_an_offset_that_stands_for_half_an_hour_while_messages_wait_is_stale() -> None:
    behind = (make.ingest(lag=7, lastMessageTime=make.text(ago(10))),)
    first = check_health(healthy(ingests=behind))
    assert [c.outcome for c in first.checks if c.name == "Offset"] == [Outcome.OK]
    mark = first.offsets["annotations"]
    assert mark == OffsetMark(41, NOW)

    stood = msgspec.structs.replace(first, offsets={"annotations": OffsetMark(41, ago(1800))})
    check = found(healthy(ingests=behind, last=stood), "Offset")
    assert (check.outcome, check.severity) == (Outcome.FAILED, Severity.MEDIUM)
    assert "7 messages wait and it has not moved for 30 minutes" in check.message

    moved = msgspec.structs.replace(first, offsets={"annotations": OffsetMark(40, ago(1800))})
    assert found(healthy(ingests=behind, last=moved), "Offset").outcome is Outcome.OK
    assert check_health(healthy(ingests=behind, last=moved)).offsets["annotations"].since == NOW


def test_an_offset_that_stands_while_nothing_waits_is_fine() -> None:
    last = HealthReport(time=ago(300), checks=(), offsets={"annotations": OffsetMark(41, ago(86400))})
    assert found(healthy(last=last), "Offset").message == "at 41, nothing waits"


def test_the_first_check_of_all_finds_an_ingest_that_stopped_long_before() -> None:
    stopped = (make.ingest(lag=7, lastMessageTime=make.text(ago(7200))),)
    assert "has not moved for 2 hours" in found(healthy(ingests=stopped), "Offset").message


def test_without_the_right_to_read_secrets_the_consumers_word_counts() -> None:
    unread = {"azaion-rabbitmq": Unreadable("may not read Secrets")}
    assert found(healthy(secrets=unread), "Credentials").outcome is Outcome.OK
    missing = condition("Connected", False, "CredentialsMissing", "the Secret azaion-rabbitmq has no key password")
    check = found(healthy(secrets=unread, ingests=(make.ingest(connected=missing),)), "Credentials")
    assert (check.severity, check.message) == (Severity.HIGH, "the Secret azaion-rabbitmq has no key password")
    check = found(healthy(secrets=unread, ingests=(make.ingest(connected=DOWN),)), "Credentials")
    assert check.outcome is Outcome.UNKNOWN


def test_a_private_authority_needs_its_secret_too() -> None:
    tls = {"stream": {"tls": {"enabled": True, "caSecretName": "broker-ca"}}}
    check = found(
        healthy(
            ingests=(make.ingest(spec=tls),),
            secrets={"azaion-rabbitmq": frozenset({"username", "password"}), "broker-ca": frozenset()},
        ),
        "Credentials",
    )
    assert check.message == "Secret broker-ca has no ca.crt"


def test_no_gpu_is_no_fault_where_everything_trains_on_the_cpu() -> None:
    cpu = (make.run(spec={"training": {"device": "CPU"}}),)
    assert found(healthy(nodes=(make.node(gpus="0"),), runs=cpu), "GPU").outcome is Outcome.SKIPPED


def test_an_image_may_be_on_a_node_that_lists_only_its_largest() -> None:
    full = make.node(images=tuple(f"docker.io/other/image:{n}" for n in range(50)))
    check = found(healthy(nodes=(full,)), "Images")
    assert (check.outcome, check.severity) == (Outcome.UNKNOWN, None)


def test_images_are_the_same_with_and_without_the_default_registry() -> None:
    short = tuple(name.removeprefix("docker.io/") for name in make.IMAGES)
    assert found(healthy(nodes=(make.node(images=short),)), "Images").outcome is Outcome.OK


def test_a_result_survives_the_config_map_and_garbage_is_none() -> None:
    report = check_health(healthy(storage=None))
    assert parse_health_report(report.encode()) == report
    for garbage in ("", "null", "[]", '{"version": 99}', '{"version": 1}', "\ud800"):
        assert parse_health_report(garbage) is None


def test_the_worst_is_told_first() -> None:
    facts = healthy(storage=make.storage(available_bytes=1), nodes=(make.node(gpus="0"),), lease=None)
    assert [c.severity for c in check_health(facts).failed] == [Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM]
    assert summary(check_health(facts)) == "3 of 11 checks failed: 1 Critical, 1 High, 1 Medium"
