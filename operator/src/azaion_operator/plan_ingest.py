"""What to do about an AnnotationIngest, and its status: one snapshot in, one plan out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from azaion_api.annotation_ingest import INGEST_CONDITIONS, AnnotationIngestSpec, AnnotationIngestStatus, IngestPhase
from azaion_api.conditions import Condition, ConditionStatus, set_condition
from azaion_api.outcome import parse_termination
from azaion_api.report import IngestCondition, IngestReport
from azaion_api.resources import AnnotationIngest
from azaion_operator.attempts import obstacle
from azaion_operator.objects import Pod
from azaion_operator.specs.deployment import ANNOTATION_DIGEST, deployment
from azaion_operator.specs.identity import Child, identity
from azaion_operator.texts import decimal, in_seconds, plural, sentence
from azaion_operator.view import IngestView

MAX_DIRECTORIES = 8
MAX_REASONS = 32


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """What has to be made or changed, and the status that says so."""

    status: AnnotationIngestStatus
    create: tuple[Child, ...] = ()
    #: The Deployment as it shall be; None leaves it as it is.
    apply: Child | None = None


def plan_ingest(view: IngestView, now: datetime) -> IngestPlan:
    """The plan for one ingest as it is now."""
    ingest = view.ingest
    if ingest.metadata.deletion_timestamp is not None:
        return IngestPlan(status=ingest.status)
    status = _status(view, _standing(view), now)
    kept_back = view.rival is not None or refusal(view) is not None
    if kept_back and view.deployment is None:
        return IngestPlan(status=status)
    wanted = deployment(ingest, view.settings, run=not kept_back and not ingest.spec.suspend)
    missing = identity(ingest) if view.deployment is None or not view.has_report_map else ()
    return IngestPlan(status=status, create=missing, apply=None if _is_applied(view, wanted) else wanted)


def refusal(view: IngestView) -> str | None:
    """Why the chart does not allow what the spec names, in a sentence; None when it does."""
    spec, access = view.ingest.spec, view.settings.access
    secrets = (spec.stream.credentials_secret_ref.name, spec.stream.tls.ca_secret_name)
    return (
        access.refused_secret(name for name in secrets if name)
        or access.refused_host([spec.stream.host])
        or access.refused_claim(spec.storage.claim_name, view.settings.claim)
    )


def rival(ingest: AnnotationIngest, others: tuple[AnnotationIngest, ...], claim: str) -> str | None:
    """An older ingest that files into one of the same directories, or into one that holds or lies in one of them.

    Two writers would undo each other's moves. Directories beside each other on one claim are no obstacle.
    """
    mine = _directories(ingest.spec, claim)
    for other in sorted(others, key=_age):
        if other.metadata.uid == ingest.metadata.uid or _age(other) > _age(ingest):
            continue
        if any(_overlap(a, b) for a in mine for b in _directories(other.spec, claim)):
            return other.metadata.name
    return None


def _age(ingest: AnnotationIngest) -> tuple[float, str]:
    """Creation in whole seconds, as the API server keeps it; by name within one: `kubectl apply` is quick."""
    created = ingest.metadata.creation_timestamp
    return (created.timestamp() if created else 0.0, ingest.metadata.name)


def _directories(spec: AnnotationIngestSpec, claim: str) -> list[tuple[str, ...]]:
    """Claim and path of each directory."""
    storage = spec.storage
    sub_path = [part for part in (storage.sub_path or "").split("/") if part not in ("", ".")]
    top = (storage.claim_name or claim, *sub_path)
    return [(*top, directory) for directory in (storage.data, storage.data_seed, storage.data_deleted)]


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """True when they are the same directory or one lies in the other."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _is_applied(view: IngestView, wanted: Child) -> bool:
    found = view.deployment
    if found is None:
        return False
    manifest = wanted[1]
    digest: str = manifest["metadata"]["annotations"][ANNOTATION_DIGEST]
    replicas: int = manifest["spec"]["replicas"]
    return found.metadata.annotations.get(ANNOTATION_DIGEST) == digest and found.spec.replicas == replicas


@dataclass(frozen=True)
class Standing:
    """How the ingest stands, in one word and one sentence."""

    phase: IngestPhase
    reason: str
    message: str
    #: The report of the pod that runs now; an older pod's says nothing any more.
    report: IngestReport | None = None


def _standing(view: IngestView) -> Standing:
    ingest, pod = view.ingest, _newest(view.pods)
    if view.rival is not None:
        return Standing(
            IngestPhase.FAILED,
            "DirectoriesTaken",
            f"AnnotationIngest {view.rival} files into the same directories already, or into one inside the "
            "other; delete one of the two, or give this one a storage.subPath or directories of its own",
        )
    if refused := refusal(view):
        return Standing(IngestPhase.FAILED, "NotAllowed", refused)
    if ingest.spec.suspend:
        stopping = pod is not None and not pod.ended
        message = "stops" if stopping else "suspended, messages wait in the stream; set spec.suspend to false to go on"
        return Standing(IngestPhase.SUSPENDED, "Suspended", message)
    if pod is None or pod.ended or pod.metadata.deletion_timestamp is not None:
        return Standing(IngestPhase.PENDING, "NoPod", "waits for its pod")
    if hindered := obstacle(pod):
        return Standing(IngestPhase.PENDING, hindered.reason, _with_last_word(pod, hindered.message))
    if view.report is None or view.report.pod_uid != pod.metadata.uid:
        return Standing(IngestPhase.PENDING, "Starting", f"pod {pod.metadata.name} starts")
    return Standing(IngestPhase.RUNNING, "Running", _words(view.report), view.report)


def _newest(pods: tuple[Pod, ...]) -> Pod | None:
    """The pod that counts: one that still runs, else the last one made."""
    return max(
        pods,
        key=lambda p: (
            not p.ended,
            p.metadata.creation_timestamp.timestamp() if p.metadata.creation_timestamp else 0.0,
        ),
        default=None,
    )


def _with_last_word(pod: Pod, message: str) -> str:
    """A container that keeps ending: what it said last tells more than that it is waited for."""
    container = pod.container
    last = container.last_state.terminated if container else None
    if container is None or last is None:
        return message
    word = parse_termination(last.message)
    why = word.message if word else f"exit code {last.exit_code}; see kubectl logs {pod.metadata.name} --previous"
    return sentence(f"the consumer ended {plural(container.restart_count, 'time')}, last with: {why}")


def _words(report: IngestReport) -> str:
    for condition in (report.storage_writable, report.connected):
        if not condition.status:
            return sentence(condition.message or condition.reason)
    if report.caught_up.status:
        return "filed everything in the stream"
    return (
        f"{plural(report.lag, 'message')} behind"
        if report.lag is not None
        else sentence(report.caught_up.message or "reads")
    )


def _status(view: IngestView, standing: Standing, now: datetime) -> AnnotationIngestStatus:
    before, generation = view.ingest.status, view.ingest.metadata.generation
    status = _with_figures(before, standing.report, view.ingest.spec) if standing.report else before
    if standing.phase is not IngestPhase.RUNNING:
        status = msgspec.structs.replace(status, messages_per_second=None)
    conditions = status.conditions
    for type_, found in zip(INGEST_CONDITIONS, _conditions(standing), strict=True):
        conditions = set_condition(
            conditions,
            Condition(
                type=type_,
                status=ConditionStatus.TRUE if found.status else ConditionStatus.FALSE,
                reason=found.reason,
                message=sentence(found.message),
                last_transition_time=now.replace(microsecond=0),
                observed_generation=generation,
            ),
        )
    return msgspec.structs.replace(
        status,
        phase=standing.phase,
        message=sentence(standing.message),
        observed_generation=generation,
        conditions=conditions,
    )


def _conditions(standing: Standing) -> tuple[IngestCondition, IngestCondition, IngestCondition, IngestCondition]:
    """Connected, CaughtUp, StorageWritable, Ready."""
    report = standing.report
    if report is None:
        unmet = IngestCondition(False, standing.reason, standing.message)
        return unmet, unmet, unmet, unmet
    ready = report.connected.status and report.storage_writable.status
    unready = report.storage_writable if not report.storage_writable.status else report.connected
    return (
        report.connected,
        report.caught_up,
        report.storage_writable,
        IngestCondition(True, "Ready") if ready else unready,
    )


def _with_figures(
    status: AnnotationIngestStatus, report: IngestReport, spec: AnnotationIngestSpec
) -> AnnotationIngestStatus:
    images = dict(sorted(report.images.items())[:MAX_DIRECTORIES])
    filed = [images.get(name) for name in (spec.storage.data, spec.storage.data_seed)]
    pace = decimal(report.messages_per_second)
    return msgspec.structs.replace(
        status,
        committed_offset=report.committed_offset if report.committed_offset is not None else status.committed_offset,
        lag=report.lag if report.lag is not None else status.lag,
        messages_per_second=pace if pace is not None and "e" not in pace and not pace.startswith("-") else None,
        last_message_time=in_seconds(report.last_message_time) or status.last_message_time,
        images=images or status.images,
        images_total=sum(n for n in filed if n is not None) if images else status.images_total,
        processed=report.processed,
        rejected=dict(sorted(report.rejected.items())[:MAX_REASONS]),
        names_missing=report.names_missing,
        offsets_missing=report.offsets_missing,
    )
