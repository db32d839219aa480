"""What is done about an AnnotationIngest, and what its status says."""

from __future__ import annotations

import dataclasses
from typing import Any

import make
import msgspec
import pytest

from azaion_api.annotation_ingest import AnnotationIngestStatus, IngestPhase
from azaion_api.outcome import AttemptReason, Termination
from azaion_api.report import IngestCondition
from azaion_operator.access import Access
from azaion_operator.objects import StatusCondition, Terminated
from azaion_operator.plan_ingest import IngestPlan, plan_ingest, rival
from azaion_operator.specs.deployment import deployment
from azaion_operator.view import IngestView


def plan(view: IngestView) -> IngestPlan:
    return plan_ingest(view, make.NOW)


def applied(of: Any = None, *, run: bool = True) -> Any:
    """The Deployment as it was applied for that ingest."""
    manifest = deployment(of or make.ingest(), make.SETTINGS, run=run)[1]
    digest = manifest["metadata"]["annotations"]["azaion.com/applied"]
    return make.deployment(digest, replicas=1 if run else 0)


def running(**report: Any) -> IngestView:
    return make.ingest_view(deployment=applied(), pods=(make.ingest_pod(),), report=make.ingest_report(**report))


def verdicts(status: AnnotationIngestStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status.value, c.reason) for c in status.conditions}


def test_a_new_ingest_gets_everything_its_pod_needs() -> None:
    found = plan(make.ingest_view(has_report_map=False))
    assert [m["kind"] for _, m in found.create] == ["ConfigMap", "ServiceAccount", "Role", "RoleBinding"]
    assert found.apply is not None
    assert found.apply[1]["spec"]["replicas"] == 1
    assert (found.status.phase, found.status.message) == (IngestPhase.PENDING, "waits for its pod")
    assert verdicts(found.status) == dict.fromkeys(
        ("Connected", "CaughtUp", "StorageWritable", "Ready"), ("False", "NoPod")
    )


def test_a_deployment_as_it_should_be_is_left_alone() -> None:
    found = plan(running())
    assert (found.create, found.apply) == ((), None)


def test_a_changed_spec_or_a_hand_that_scaled_it_applies_the_deployment_anew() -> None:
    changed = make.ingest(classCount=17)
    assert plan(make.ingest_view(changed, deployment=applied())).apply is not None
    scaled = msgspec.structs.replace(applied(), spec=msgspec.structs.replace(applied().spec, replicas=3))
    assert plan(make.ingest_view(deployment=scaled)).apply is not None


def test_the_report_is_in_the_status() -> None:
    found = plan(running(rejected={"NotAnImage": 2}, last_message_time=make.ago(3))).status
    assert (found.phase, found.message) == (IngestPhase.RUNNING, "filed everything in the stream")
    assert (found.committed_offset, found.lag, found.messages_per_second) == (41, 0, "2.5")
    assert (found.images, found.images_total) == ({"data": 30, "data-seed": 12}, 42)
    assert (found.processed, found.rejected, found.last_message_time) == (42, {"NotAnImage": 2}, make.ago(3))
    assert verdicts(found) == {
        "Connected": ("True", "Connected"),
        "CaughtUp": ("True", "CaughtUp"),
        "StorageWritable": ("True", "Writable"),
        "Ready": ("True", "Ready"),
    }


def test_an_ingest_that_is_not_connected_says_why_and_is_not_ready() -> None:
    trouble = IngestCondition(False, "CredentialsMissing", "Secret azaion-rabbitmq lacks the keys username, password")
    found = plan(running(connected=trouble)).status
    assert found.message == "Secret azaion-rabbitmq lacks the keys username, password"
    assert verdicts(found)["Connected"] == ("False", "CredentialsMissing")
    assert verdicts(found)["Ready"] == ("False", "CredentialsMissing")


def test_a_disk_that_cannot_be_written_matters_more_than_the_connection() -> None:
    found = plan(
        running(
            connected=IngestCondition(False, "Unreachable", "no broker"),
            storage_writable=IngestCondition(False, "DiskFull", "0 bytes are free"),
        )
    ).status
    assert (found.message, verdicts(found)["Ready"]) == ("0 bytes are free", ("False", "DiskFull"))


def test_a_report_of_a_pod_that_is_gone_no_longer_means_connected() -> None:
    before = plan(running()).status
    stale = make.ingest_view(make.ingest(status=before), deployment=applied(), pods=(), report=make.ingest_report())
    found = plan(stale).status
    assert verdicts(found)["Connected"] == ("False", "NoPod")
    assert (found.committed_offset, found.images_total, found.messages_per_second) == (41, 42, None)


def test_a_report_of_the_pod_before_says_nothing_about_the_new_one() -> None:
    view = make.ingest_view(deployment=applied(), pods=(make.ingest_pod(uid="new"),), report=make.ingest_report())
    assert (plan(view).status.phase, plan(view).status.message) == (
        IngestPhase.PENDING,
        "pod annotations-ingest-x starts",
    )


def test_suspending_stops_the_pod_and_keeps_the_figures() -> None:
    before = plan(running()).status
    suspended = make.ingest(status=before, suspend=True)
    found = plan(make.ingest_view(suspended, deployment=applied(), pods=(make.ingest_pod(),)))
    assert found.apply is not None
    assert found.apply[1]["spec"]["replicas"] == 0
    assert (found.status.phase, found.status.message) == (IngestPhase.SUSPENDED, "stops")
    over = plan(make.ingest_view(suspended, deployment=applied(suspended, run=False)))
    assert over.apply is None
    assert over.status.message == "suspended, messages wait in the stream; set spec.suspend to false to go on"
    assert (over.status.committed_offset, verdicts(over.status)["Ready"]) == (41, ("False", "Suspended"))


@pytest.mark.parametrize(
    ("pod", "reason", "message"),
    [
        (
            make.ingest_pod(phase="Pending", state=make.waiting("ErrImageNeverPull", "it is not present")),
            "ImageUnavailable",
            "the image docker.io/azaion/consumer:0.1.0 cannot be had (it is not present)",
        ),
        (
            make.ingest_pod(
                phase="Pending",
                conditions=(
                    StatusCondition(type="PodScheduled", status="False", reason="Unschedulable", message="0/1 nodes"),
                ),
            ),
            "Unschedulable",
            "no node takes the pod: 0/1 nodes",
        ),
        (
            make.ingest_pod(
                state=make.waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container"),
                last=Terminated(
                    exit_code=10,
                    message=Termination(reason=AttemptReason.BAD_SPEC, message="no such stream").encode().decode(),
                ),
                restarts=4,
            ),
            "CrashLoopBackOff",
            "the consumer ended 4 times, last with: no such stream",
        ),
    ],
)
def test_a_pod_that_cannot_work_says_why(pod: Any, reason: str, message: str) -> None:
    found = plan(make.ingest_view(deployment=applied(), pods=(pod,))).status
    assert (found.phase, found.message) == (IngestPhase.PENDING, message)
    assert verdicts(found)["Ready"] == ("False", reason)


def test_a_second_ingest_of_the_same_directories_is_refused_with_a_sentence_and_has_no_pod() -> None:
    found = plan(make.ingest_view(rival="first"))
    assert (found.create, found.apply, found.status.phase) == ((), None, IngestPhase.FAILED)
    assert found.status.message.startswith("AnnotationIngest first files into the same directories already")
    late = plan(make.ingest_view(rival="first", deployment=applied()))
    assert late.apply is not None
    assert late.apply[1]["spec"]["replicas"] == 0


OLDER = make.ingest("older", uid="a", age=99)


@pytest.mark.parametrize(
    ("other", "mine", "expected"),
    [
        (OLDER, {}, "older"),
        (make.ingest("younger", uid="z", age=1), {}, None),
        (OLDER, {"storage": {"claimName": "azaion"}}, "older"),
        (OLDER, {"storage": {"claimName": "another"}}, None),
        (OLDER, {"storage": {"subPath": "team-a"}}, None),
        (OLDER, {"storage": {"data": "x", "dataSeed": "y", "dataDeleted": "z"}}, None),
        (OLDER, {"storage": {"subPath": "data"}}, "older"),
        (OLDER, {"storage": {"subPath": "data/images"}}, "older"),
        (OLDER, {"storage": {"subPath": "data2"}}, None),
        (
            make.ingest("inside", uid="a", age=99, storage={"subPath": "a/data"}),
            {"storage": {"subPath": "a"}},
            "inside",
        ),
        (OLDER, {"storage": {"data": "x", "dataSeed": "y"}}, "older"),
        (OLDER, {"storage": {"data": "data-seed", "dataSeed": "y", "dataDeleted": "z"}}, "older"),
    ],
)
def test_the_older_of_two_ingests_with_a_directory_in_common_has_it(
    other: Any, mine: dict[str, Any], expected: str | None
) -> None:
    ingest = make.ingest(**mine)
    assert rival(ingest, (ingest, other), "azaion") == expected


def test_of_two_ingests_made_in_the_same_second_exactly_one_has_the_directories() -> None:
    one, two = make.ingest("one", uid="1"), make.ingest("two", uid="2")
    assert [rival(i, (one, two), "azaion") for i in (one, two)] == [None, "one"]


def test_nothing_is_written_when_nothing_changed() -> None:
    first = plan(running()).status
    view = msgspec.structs.replace(make.ingest(), status=first)
    again = make.ingest_view(view, deployment=applied(), pods=(make.ingest_pod(),), report=make.ingest_report())
    assert plan_ingest(again, make.NOW.replace(year=2027)).status == first


# What the chart allows

NOT_LISTED: list[tuple[str, dict[str, Any], str]] = [
    (
        "another Secret",
        {"stream": {"credentialsSecretRef": {"name": "registry-password"}}},
        "the Secret registry-password is not on the chart's list access.secrets (azaion-*); an administrator",
    ),
    (
        "another Secret, as an authority",
        {"stream": {"tls": {"enabled": True, "caSecretName": "registry-password"}}},
        "the Secret registry-password is not on the chart's list access.secrets",
    ),
    (
        "a host outside",
        {"stream": {"host": "collector.example.com"}},
        "the host collector.example.com is not on the chart's list access.hosts;",
    ),
    ("an address", {"stream": {"host": "203.0.113.7"}}, "the host 203.0.113.7 is not on the chart's list"),
    ("a Service elsewhere", {"stream": {"host": "rabbitmq.other.svc"}}, "the host rabbitmq.other.svc is not on"),
    ("another claim", {"storage": {"claimName": "somebody-elses"}}, "the claim somebody-elses is not on the"),
]


@pytest.mark.parametrize(("spec", "said"), [row[1:] for row in NOT_LISTED], ids=[row[0] for row in NOT_LISTED])
def test_what_the_chart_does_not_list_gets_no_pod(spec: dict[str, Any], said: str) -> None:
    found = plan(make.ingest_view(make.ingest(**spec)))
    assert (found.create, found.apply) == ((), None)
    assert found.status.phase is IngestPhase.FAILED
    assert said in found.status.message
    assert verdicts(found.status)["Ready"] == ("False", "NotAllowed")


def test_an_ingest_whose_host_is_taken_off_the_list_is_stopped_and_keeps_its_place() -> None:
    elsewhere = make.ingest(stream={"host": "broker.example.com"})
    found = plan(make.ingest_view(elsewhere, deployment=applied(elsewhere), pods=(make.ingest_pod(),)))
    assert found.apply is not None
    assert found.apply[1]["spec"]["replicas"] == 0
    assert found.status.phase is IngestPhase.FAILED


@pytest.mark.parametrize("host", ["rabbitmq", "rabbitmq.azaion.svc", "RabbitMQ.azaion.svc.cluster.local"])
def test_a_service_of_the_own_namespace_needs_no_list(host: str) -> None:
    assert plan(make.ingest_view(make.ingest(stream={"host": host}))).apply is not None


def test_what_the_chart_lists_is_used() -> None:
    access = Access(secrets=("azaion-*", "broker"), hosts=("*.example.com",), claims=("disk-2",))
    spec: dict[str, Any] = {
        "stream": {"host": "broker.example.com", "credentialsSecretRef": {"name": "broker"}},
        "storage": {"claimName": "disk-2"},
    }
    view = make.ingest_view(make.ingest(**spec))
    settings = dataclasses.replace(view.settings, access=access)
    assert plan(dataclasses.replace(view, settings=settings)).apply is not None
