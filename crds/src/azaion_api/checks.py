"""The health check of the whole platform, decided from facts. Pure.

Severities and limits are those of the founding documents; Critical begins at 90 % of the disk, because the kubelet
evicts pods at 95 %.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from azaion_api.annotation_ingest import AnnotationIngestStatus
from azaion_api.conditions import ConditionStatus, find_condition
from azaion_api.facts import (
    GPU_RESOURCE,
    OPERATOR,
    STORAGE,
    Facts,
    Node,
    Pod,
    Unreadable,
    secrets_of,
)
from azaion_api.health import Check, HealthReport, OffsetMark, Outcome, Severity
from azaion_api.names import LABEL_INGEST, ingest_deployment
from azaion_api.outcome import AttemptReason
from azaion_api.report import StorageReport
from azaion_api.resources import AnnotationIngest, TrainingRun
from azaion_api.training_run import FINISHED_PHASES, Device, Phase, Stage
from azaion_api.words import plural, size

#: The operator renews its Lease every 5 s.
_LEASE_FRESH_S = 60.0
#: The storage pod reports every minute at least.
_STORAGE_FRESH_S = 300.0
#: A training pod reports every few seconds while batches run; saving and exporting take minutes at most.
_REPORT_FRESH_S = 900.0
_OFFSET_STALE_S = 1800.0
_RESTARTS_WITHIN_S = 600.0
_MAX_RESTARTS = 2
_DISK_MEDIUM = 0.80
_DISK_CRITICAL = 0.90
_CHECKPOINT_INTERVALS = 3
_MEMORY_WITHIN_S = 3600.0
#: A node lists this many of its images (the kubelet's nodeStatusMaxImages); what is missing from a full list may be there.
_IMAGES_LISTED = 50

_LOGS = "kubectl logs deployment/{}"


def check_health(facts: Facts) -> HealthReport:
    """Every check, in the order of the way of the data; what is remembered for the next one."""
    checks = tuple(check for look in _CHECKS for check in look(facts))
    return HealthReport(
        time=facts.now,
        checks=checks,
        offsets=offset_marks(facts),
        notice=facts.last.notice if facts.last else None,
    )


def offset_marks(facts: Facts) -> dict[str, OffsetMark]:
    """Where each ingest stands, and since when it has stood there by what earlier checks saw."""
    if isinstance(facts.ingests, Unreadable):
        return dict(facts.last.offsets) if facts.last else {}
    known = facts.last.offsets if facts.last else {}
    marks = {}
    for ingest in facts.ingests:
        name, offset = ingest.metadata.name, ingest.status.committed_offset
        before = known.get(name)
        marks[name] = before if before is not None and before.offset == offset else OffsetMark(offset, facts.now)
    return marks


def _ok(name: str, message: str, subject: str = "") -> Check:
    return Check(name=name, subject=subject, message=message)


def _failed(name: str, severity: Severity, message: str, action: str, subject: str = "") -> Check:
    return Check(name=name, subject=subject, outcome=Outcome.FAILED, severity=severity, message=message, action=action)


def _skipped(name: str, message: str, subject: str = "") -> Check:
    return Check(name=name, subject=subject, outcome=Outcome.SKIPPED, message=message)


def _unknown(name: str, why: Unreadable | str, subject: str = "") -> Check:
    message = why.reason if isinstance(why, Unreadable) else why
    return Check(name=name, subject=subject, outcome=Outcome.UNKNOWN, message=message)


# ---- operator ----


def operator_fresh(facts: Facts) -> Iterator[Check]:
    """It renews its Lease; a Deployment that is merely available may be deaf."""
    lease, name = facts.lease, "Operator"
    action = f"{_LOGS.format(OPERATOR)}; runs and ingests under way go on without it"
    if isinstance(lease, Unreadable):
        yield _unknown(name, lease)
        return
    renewed = lease.spec.renew_time if lease else None
    if renewed is None:
        deployment = facts.deployment(OPERATOR)
        if deployment is None:
            yield _failed(name, Severity.HIGH, "there is no operator", "install the chart: docs/install-k3s.md")
        else:
            yield _failed(name, Severity.HIGH, "no operator has taken the Lease yet", action)
        return
    age_s = _seconds_between(renewed, facts.now)
    if age_s > _LEASE_FRESH_S:
        yield _failed(name, Severity.HIGH, f"gave its last sign of life {_for(age_s)} ago", action)
    else:
        yield _ok(name, f"renewed its Lease {_for(age_s)} ago")


# ---- annotations ----


def _each_ingest(name: str, look: Callable[[Facts, AnnotationIngest], Check], facts: Facts) -> Iterator[Check]:
    if isinstance(facts.ingests, Unreadable):
        yield _unknown(name, facts.ingests)
    elif not facts.ingests:
        yield _skipped(name, "there is no AnnotationIngest")
    else:
        for ingest in facts.ingests:
            if ingest.spec.suspend:
                yield _skipped(name, "suspended on purpose; messages wait in the stream", ingest.metadata.name)
            else:
                yield look(facts, ingest)


def consumer_alive(facts: Facts, ingest: AnnotationIngest) -> Check:
    """Its Deployment has an available pod, and the pod does not keep dying."""
    name, subject = "Consumer", ingest.metadata.name
    deployment = facts.deployment(ingest_deployment(subject))
    if isinstance(deployment, Unreadable):
        return _unknown(name, deployment, subject)
    action = _LOGS.format(ingest_deployment(subject))
    if deployment is None:
        return _failed(name, Severity.CRITICAL, ingest.status.message or "has no Deployment", action, subject)
    if isinstance(facts.pods, Unreadable):
        pods: tuple[Pod, ...] = ()
    else:
        pods = tuple(pod for pod in facts.pods if pod.metadata.labels.get(LABEL_INGEST) == subject)
    for pod in pods:
        restarts = _recent_restarts(pod, facts.now)
        if restarts > _MAX_RESTARTS:
            message = f"pod {pod.metadata.name} restarted {restarts} times and again within 10 minutes"
            return _failed(name, Severity.CRITICAL, message, f"{action} --previous", subject)
    if deployment.status.available_replicas < 1:
        return _failed(name, Severity.CRITICAL, ingest.status.message or "no pod of it is ready", action, subject)
    return _ok(name, ingest.status.message or "is ready", subject)


def _recent_restarts(pod: Pod, now: datetime) -> int:
    """Restarts of a container that restarted within the last 10 minutes; the kubelet keeps the time of the last only."""
    found = 0
    for container in pod.status.container_statuses:
        last = container.last_state.terminated
        ended = last.finished_at if last is not None else None
        if ended is not None and _seconds_between(ended, now) <= _RESTARTS_WITHIN_S:
            found += container.restart_count
    return found


def broker_reachable(_: Facts, ingest: AnnotationIngest) -> Check:
    """By the consumer, which is connected or says why not."""
    name, subject = "Broker", ingest.metadata.name
    stream = ingest.spec.stream
    found = find_condition(ingest.status.conditions, "Connected")
    if found is None or ingest.status.phase is None:
        return _unknown(name, "the ingest has not reported yet", subject)
    if found.status is ConditionStatus.TRUE:
        return _ok(name, f"connected to {stream.host}:{stream.port}, stream {stream.name}", subject)
    if ingest.status.phase.value != "Running":
        return _unknown(name, "nobody tries it while the consumer does not run", subject)
    message = found.message or f"not connected: {found.reason}"
    action = f"check that {stream.host}:{stream.port} answers from the node, and the Secret's user and password"
    return _failed(name, Severity.MEDIUM, message, action, subject)


def offset_advancing(facts: Facts, ingest: AnnotationIngest) -> Check:
    """It moved within 30 minutes while messages waited."""
    name, subject, status = "Offset", ingest.metadata.name, ingest.status
    mark = offset_marks(facts)[subject]
    where = "nothing filed yet" if status.committed_offset is None else f"at {status.committed_offset}"
    if not status.lag:
        text = f"{where}, nothing waits" if status.lag == 0 else where
        return _ok(name, text, subject)
    stood_s = _seconds_between(_stands_since(mark, status), facts.now)
    waiting = f"{where}, {plural(status.lag, 'message')} wait"
    if stood_s >= _OFFSET_STALE_S:
        action = f"{_LOGS.format(ingest_deployment(subject))}; kubectl describe annotationingest {subject}"
        return _failed(name, Severity.MEDIUM, f"{waiting} and it has not moved for {_for(stood_s)}", action, subject)
    return _ok(name, waiting, subject)


def _stands_since(mark: OffsetMark, status: AnnotationIngestStatus) -> datetime:
    """The first check may come long after the ingest stopped: then the last message's time tells."""
    if status.last_message_time is not None and status.last_message_time < mark.since:
        return status.last_message_time
    return mark.since


def secret_keys(facts: Facts, ingest: AnnotationIngest) -> Check:
    """The Secrets it names hold every key it needs. Whoever may not read them has the consumer's word."""
    name, subject = "Credentials", ingest.metadata.name
    needed, missing, unread = secrets_of(ingest.spec), [], None
    for secret, keys in needed.items():
        found = facts.secrets.get(secret, Unreadable(f"Secret {secret} was not read"))
        if isinstance(found, Unreadable):
            unread = found
        elif found is None:
            missing.append(f"Secret {secret} does not exist")
        else:
            missing += [f"Secret {secret} has no {key}" for key in keys if key not in found]
    secret, keys = next(iter(needed.items()))
    literals = " ".join(f"--from-literal={key}=..." for key in keys)
    action = f"kubectl create secret generic {secret} {literals}"
    if missing:
        return _failed(name, Severity.HIGH, "; ".join(missing), action, subject)
    if unread is None:
        return _ok(name, f"{' and '.join(needed)} {'have' if len(needed) > 1 else 'has'} every key", subject)
    connected = find_condition(ingest.status.conditions, "Connected")
    if connected is None:
        return _unknown(name, unread, subject)
    if connected.reason == "CredentialsMissing":
        return _failed(name, Severity.HIGH, connected.message, action, subject)
    if connected.status is ConditionStatus.TRUE:
        return _ok(name, "the consumer is logged in", subject)
    return _unknown(name, unread, subject)


# ---- machine ----


def storage_reports(facts: Facts) -> Iterator[Check]:
    """The storage pod sees the volume and finds the tree in order."""
    name, found = "Storage", facts.storage
    action = _LOGS.format(STORAGE)
    if isinstance(found, Unreadable):
        yield _unknown(name, found)
    elif found is None:
        yield _failed(name, Severity.HIGH, "the storage pod has not reported what is on the volume", action)
    elif (age_s := _seconds_between(found.time, facts.now)) > _STORAGE_FRESH_S:
        yield _failed(name, Severity.HIGH, f"the storage pod last reported {_for(age_s)} ago", action)
    elif found.problems:
        yield _failed(
            name, Severity.HIGH, found.problems[0], "mend the tree; docs/install-k3s.md says how it has to be"
        )
    else:
        images = ", ".join(f"{n} in {directory}" for directory, n in sorted(found.images.items()) if n)
        yield _ok(name, f"in order, images: {images}" if images else "in order, no images yet")


def disk_space(facts: Facts) -> Iterator[Check]:
    """Used part of the data volume."""
    name, found = "Disk", facts.storage
    if isinstance(found, Unreadable):
        yield _unknown(name, found)
        return
    if not isinstance(found, StorageReport) or found.capacity_bytes <= 0:
        yield _unknown(name, "the storage pod has not reported how much is free")
        return
    used = 1 - found.available_bytes / found.capacity_bytes
    text = f"{used:.0%} used, {size(found.available_bytes)} of {size(found.capacity_bytes)} free"
    action = "remove data sets and runs that are no longer needed, or enlarge the volume"
    if used >= _DISK_CRITICAL:
        yield _failed(name, Severity.CRITICAL, f"{text}; at 95 % the kubelet evicts pods", action)
    elif used >= _DISK_MEDIUM:
        yield _failed(name, Severity.MEDIUM, text, action)
    else:
        yield _ok(name, text)


def gpu_available(facts: Facts) -> Iterator[Check]:
    """A node offers a GPU, unless every run there is trains on the CPU."""
    name = "GPU"
    if isinstance(facts.nodes, Unreadable):
        yield _unknown(name, facts.nodes)
        return
    gpus = sum(node.gpus for node in facts.nodes)
    if gpus:
        yield _ok(name, f"{plural(gpus, 'GPU')} on {plural(sum(node.gpus > 0 for node in facts.nodes), 'node')}")
    elif _only_on_cpu(facts):
        yield _skipped(name, "no node offers a GPU, and every run trains on the CPU")
    else:
        action = "check nvidia-smi on the node, the container toolkit and the device plugin: docs/install-k3s.md"
        yield _failed(name, Severity.MEDIUM, f"no node offers {GPU_RESOURCE}", action)


def _only_on_cpu(facts: Facts) -> bool:
    runs = () if isinstance(facts.runs, Unreadable) else facts.runs
    return bool(runs) and all(run.spec.training.device is Device.CPU for run in runs)


def images_present(facts: Facts) -> Iterator[Check]:
    """Nodes have the images the platform uses: where there is no registry, nothing brings them back."""
    name = "Images"
    if isinstance(facts.nodes, Unreadable):
        yield _unknown(name, facts.nodes)
        return
    operator = facts.deployment(OPERATOR)
    if isinstance(operator, Unreadable):
        yield _unknown(name, operator)
        return
    if operator is None:
        yield _skipped(name, "the operator is not installed")
        return
    wanted = sorted(set(operator.images))
    missing, sure = [], True
    for image in wanted:
        if not any(_has_image(node, image) for node in facts.nodes):
            missing.append(image)
            sure = sure and all(len(node.status.images) < _IMAGES_LISTED for node in facts.nodes)
    if not missing:
        yield _ok(name, f"{plural(len(wanted), 'image')} on the node")
    elif not sure:
        yield _unknown(
            name, f"the node lists its {_IMAGES_LISTED} largest images only; not among them: {', '.join(missing)}"
        )
    else:
        action = (
            "bring them: sudo python3 tests/cluster/images.py load --k3s; or let the pods pull them from your registry"
        )
        yield _failed(name, Severity.MEDIUM, f"not on the node: {', '.join(missing)}", action)


def _has_image(node: Node, image: str) -> bool:
    return any(_full_name(name) == _full_name(image) for found in node.status.images for name in found.names)


def _full_name(image: str) -> str:
    """As containerd lists it: `azaion/trainer:1` is docker.io/azaion/trainer:1."""
    first, slash, _ = image.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return f"docker.io/{image if slash else f'library/{image}'}"
    return image


# ---- training ----


def training_reports(facts: Facts) -> Iterator[Check]:
    """The pod of the run at the device says something now and then."""
    name = "Training"
    if isinstance(facts.runs, Unreadable):
        yield _unknown(name, facts.runs)
        return
    running = [run for run in facts.runs if run.status.phase is Phase.RUNNING]
    if not running:
        yield _skipped(name, "no run is under way")
    for run in running:
        subject, report = run.metadata.name, facts.reports.get(run.metadata.name)
        last = report.time if report else run.status.start_time
        if last is None or (age_s := _seconds_between(last, facts.now)) <= _REPORT_FRESH_S:
            yield _ok(name, run.status.message or "under way", subject)
        else:
            action = f"kubectl azaion logs {subject}; a pod without any sign of work is ended and resumed by itself"
            yield _failed(name, Severity.HIGH, f"has reported nothing for {_for(age_s)}", action, subject)


def loss_finite(facts: Facts) -> Iterator[Check]:
    """The newest loss of unfinished runs is a number."""
    for run in _unfinished(facts):
        found = find_condition(run.status.conditions, "LossFinite")
        if found is not None and found.status is ConditionStatus.FALSE:
            action = "check the data set and the learning rate; the run goes back to its last good checkpoint by itself"
            message = found.message or "the loss is no longer a finite number"
            yield _failed("Loss", Severity.HIGH, message, action, run.metadata.name)


def gpu_memory(facts: Facts) -> Iterator[Check]:
    """An attempt ran out of GPU memory within the hour; the retry with a smaller batch must not hide it."""
    for run in _unfinished(facts):
        for attempt in reversed(run.status.attempts):
            if attempt.reason is not AttemptReason.GPU_OUT_OF_MEMORY or attempt.ended is None:
                continue
            age_s = _seconds_between(attempt.ended, facts.now)
            if age_s <= _MEMORY_WITHIN_S:
                message = f"ran out of GPU memory {_for(age_s)} ago at batch {attempt.batch or run.spec.training.batch}"
                if run.status.batch:
                    message += f", goes on with {run.status.batch}"
                action = "set a smaller training.batch or imageSize in the next run"
                yield _failed("GPUMemory", Severity.HIGH, message, action, run.metadata.name)
            break


def checkpoints(facts: Facts) -> Iterator[Check]:
    """The run at the device saves its checkpoints."""
    for run in _unfinished(facts):
        status, subject = run.status, run.metadata.name
        if status.phase is not Phase.RUNNING or status.stage is not Stage.TRAINING:
            continue
        action = f"check the space on the volume; kubectl azaion logs {subject}"
        limit_s = _CHECKPOINT_INTERVALS * run.spec.training.checkpoint_interval_seconds
        saved = status.checkpoint.time if status.checkpoint else _training_since(run)
        age_s = _seconds_between(saved, facts.now) if saved else 0.0
        if saved is not None and age_s > limit_s:
            message = f"the last verified checkpoint is {_for(age_s)} old, one is due every {_for(limit_s / _CHECKPOINT_INTERVALS)}"
            if status.checkpoint is None:
                message = f"no checkpoint was saved in {_for(age_s)} of training"
            yield _failed("Checkpoint", Severity.LOW, message, action, subject)
        elif status.checkpoint_failures:
            message = f"{plural(status.checkpoint_failures, 'checkpoint')} could not be written"
            yield _failed("Checkpoint", Severity.LOW, message, action, subject)
        elif status.checkpoint is not None:
            yield _ok("Checkpoint", f"verified {_for(age_s)} ago, epoch {status.checkpoint.epoch}", subject)


def _training_since(run: TrainingRun) -> datetime | None:
    live = [a for a in run.status.attempts if a.stage == "train" and a.ended is None]
    return live[-1].started if live else None


def _unfinished(facts: Facts) -> Iterator[TrainingRun]:
    if not isinstance(facts.runs, Unreadable):
        yield from (run for run in facts.runs if run.status.phase not in FINISHED_PHASES)


def _per_ingest(name: str, look: Callable[[Facts, AnnotationIngest], Check]) -> Callable[[Facts], Iterator[Check]]:
    return functools.partial(_each_ingest, name, look)


_CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    operator_fresh,
    _per_ingest("Consumer", consumer_alive),
    _per_ingest("Broker", broker_reachable),
    _per_ingest("Credentials", secret_keys),
    _per_ingest("Offset", offset_advancing),
    storage_reports,
    disk_space,
    gpu_available,
    images_present,
    training_reports,
    loss_finite,
    gpu_memory,
    checkpoints,
)


# ---- words ----


def _seconds_between(start: datetime, end: datetime) -> float:
    """Never negative: the clocks of pods and of whoever checks may differ."""
    return max(timedelta(0), end - start).total_seconds()


def _for(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} minutes"
    return f"{whole // 3600} hours" if whole < 172800 else f"{whole // 86400} days"
