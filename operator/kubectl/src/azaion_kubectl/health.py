"""`health` and `preflight`: the founding check by hand, and what has to be there before the first run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from azaion_api.checks import check_health
from azaion_api.facts import OPERATOR, Facts, Unreadable, gather
from azaion_api.health import (
    RESPONSE_TIMES,
    Check,
    ExitCode,
    HealthReport,
    Outcome,
    Severity,
    exit_code,
    parse_health_report,
    summary,
)
from azaion_api.names import API_VERSION
from azaion_api.report import StorageReport
from azaion_api.resources import TrainingRun, to_plain
from azaion_api.training_run import TrainingRunSpec
from azaion_kubectl.access import Kubectl, convert
from azaion_kubectl.errors import CommandError
from azaion_kubectl.screen import Screen, ago, now

_MARKS = {Outcome.OK: "ok", Outcome.FAILED: "FAIL", Outcome.UNKNOWN: "?", Outcome.SKIPPED: "-"}
_FRESH = timedelta(minutes=15)
#: Below this part of the volume free, the operator starts no run.
_MIN_FREE = 0.10


def health(kubectl: Kubectl, screen: Screen, *, last: bool, as_json: bool) -> int:
    """Check now, or show the last result of the chart's CronJob."""
    if last:
        data = kubectl.config_map("azaion-health")
        report = parse_health_report(data.get("health.json", ""))
        if report is None:
            raise CommandError(
                "there is no stored result; the chart's CronJob azaion-health makes one every few minutes "
                "(health.enabled), and kubectl azaion health checks at once"
            )
    else:
        report = check_health(gather(kubectl, kubectl.namespace, now()))
    return show(screen, report, as_json=as_json)


def show(screen: Screen, report: HealthReport, *, as_json: bool) -> int:
    """The result as a table, or as JSON; how the command ends."""
    code = exit_code(report)
    if as_json:
        found = to_plain(report)
        found |= {"healthy": code is ExitCode.HEALTHY, "exitCode": int(code), "summary": summary(report)}
        screen.json(found)
        return int(code)
    screen.table(
        ("", "CHECK", "ABOUT", "SEVERITY", "FOUND"),
        (
            (_MARKS[check.outcome], check.name, check.subject or "-", check.severity or "-", check.message)
            for check in report.checks
        ),
    )
    if report.failed:
        screen.say("")
        for check in report.failed:
            due = RESPONSE_TIMES[check.severity or Severity.LOW]
            screen.say(f"{check.key} ({due}): {check.action}")
    screen.say("")
    age = "" if now() - report.time < timedelta(minutes=1) else f", {ago(report.time, now())}"
    old = "; this is old, see kubectl get cronjob azaion-health" if now() - report.time > _FRESH else ""
    screen.say(f"{summary(report)}{age}{old}.")
    return int(code)


# ---- preflight ----


def preflight(kubectl: Kubectl, screen: Screen, *, file: str | None, as_json: bool) -> int:
    """Health, and whether the run of `file` (or one with the founding values) could start."""
    raw = _manifest(kubectl, file)
    facts = gather(kubectl, kubectl.namespace, now())
    checks = (*readiness(kubectl, facts, raw), *check_health(facts).checks)
    report = HealthReport(time=facts.now, checks=checks)
    code = show(screen, report, as_json=as_json)
    if not as_json:
        name = raw["metadata"].get("name", "")
        command = f"kubectl apply -f {file or 'samples/trainingrun.yaml'}"
        if code == ExitCode.HEALTHY:
            screen.say(f"Ready for {name or 'the first run'}: {command}")
    return code


def _manifest(kubectl: Kubectl, file: str | None) -> dict[str, Any]:
    """The TrainingRun of the file with the API server's defaults, not stored; it says what is wrong with it."""
    if file is None:
        return {"metadata": {"name": ""}, "spec": {}}
    said = json.loads(kubectl.run("create", "--dry-run=client", "-f", file, "-o", "json"))
    items: list[dict[str, Any]] = said.get("items") or [said]
    runs = [item for item in items if item.get("kind") == "TrainingRun" and item.get("apiVersion") == API_VERSION]
    if len(runs) != 1:
        raise CommandError(f"{file} holds {len(runs)} TrainingRuns; give a file with one")
    return runs[0]


def readiness(kubectl: Kubectl, facts: Facts, raw: dict[str, Any]) -> Iterator[Check]:
    """What the run needs, beside a healthy platform."""
    yield _installed(facts)
    yield _allowed(kubectl)
    yield _accepted(kubectl, raw)
    spec = convert({"kind": "TrainingRun", "metadata": {"name": "x"}, "spec": raw.get("spec") or {}}, TrainingRun).spec
    yield _base_model(facts, spec)
    yield _images(facts, spec)
    yield _room(facts)


def _failed(name: str, message: str, action: str) -> Check:
    return Check(name=name, outcome=Outcome.FAILED, severity=Severity.HIGH, message=message, action=action)


def _unknown(name: str, message: str) -> Check:
    return Check(name=name, outcome=Outcome.UNKNOWN, message=message)


def _installed(facts: Facts) -> Check:
    if isinstance(facts.runs, Unreadable):
        return _failed(
            "Installed", facts.runs.reason, "helm upgrade --install azaion charts/azaion; docs/install-k3s.md"
        )
    operator = facts.deployment(OPERATOR)
    if operator is None:
        return _failed("Installed", "the operator is not in this namespace", "give the chart's namespace with -n")
    return Check(name="Installed", message=f"{API_VERSION} and the operator are there")


def _allowed(kubectl: Kubectl) -> Check:
    missing = [verb for verb in ("create", "get", "patch") if not kubectl.may(verb, "trainingruns.azaion.com")]
    if missing:
        return _failed(
            "Rights", f"you may not {', '.join(missing)} trainingruns", "ask whoever runs the cluster for these rights"
        )
    return Check(name="Rights", message="you may create and change runs")


def _accepted(kubectl: Kubectl, raw: dict[str, Any]) -> Check:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRun",
        "metadata": {"generateName": "preflight-"},
        "spec": raw.get("spec") or {},
    }
    try:
        kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    except CommandError as error:
        words = str(error).partition(" is invalid: ")[2] or str(error)
        return _failed("Spec", words, "correct the spec; kubectl explain trainingrun.spec")
    return Check(name="Spec", message="the API server accepts it")


def _base_model(facts: Facts, spec: TrainingRunSpec) -> Check:
    name, base, storage = "BaseModel", spec.model.base, facts.storage
    if spec.training.resume_from is not None:
        return Check(name=name, message=f"continues {spec.training.resume_from}")
    if base.endswith(".yaml"):
        return Check(name=name, message=f"{base} is trained from scratch")
    if not isinstance(storage, StorageReport):
        return _unknown(name, "the storage pod has not reported what is in models/")
    if base == "Current":
        base = f"{spec.line_ref.name}.pt"
    if base in storage.base_models:
        return Check(name=name, message=f"models/{base} is there")
    there = ", ".join(storage.base_models) or "nothing"
    return _failed(name, f"models/{base} is not on the volume; there: {there}", "bring it: see README, Install it")


def _images(facts: Facts, spec: TrainingRunSpec) -> Check:
    name, storage, dataset = "Annotations", facts.storage, spec.dataset
    if dataset.existing is not None:
        return Check(name=name, message=f"uses {dataset.existing}")
    if not isinstance(storage, StorageReport):
        return _unknown(name, "the storage pod has not reported how many images there are")
    found = storage.images.get(dataset.source, 0)
    if found < dataset.min_images:
        wanted = f"{dataset.source} holds {found} images, the run waits for {dataset.min_images}"
        return _failed(name, wanted, "start the ingest: kubectl apply -f samples/annotationingest.yaml")
    return Check(name=name, message=f"{found} images in {dataset.source}")


def _room(facts: Facts) -> Check:
    storage = facts.storage
    if not isinstance(storage, StorageReport) or storage.capacity_bytes <= 0:
        return _unknown("Room", "the storage pod has not reported how much is free")
    free = storage.available_bytes / storage.capacity_bytes
    if free < _MIN_FREE:
        action = "remove old directories of runs/ or datasets/"
        return _failed("Room", f"{free:.0%} of the volume is free, a run needs {_MIN_FREE:.0%}", action)
    if not storage.classes_present:
        return _failed("Room", "classes.json is missing", "kubectl rollout restart deployment/azaion-storage")
    return Check(name="Room", message=f"{free:.0%} of the volume is free, classes.json is there")
