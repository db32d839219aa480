"""What is done about a TrainingRun: from Pending to the end, and everything that may come in between."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import timedelta
from typing import Any

import make
import msgspec
import pytest

from azaion_api.conditions import ConditionStatus, find_condition
from azaion_api.model_line import LineWork
from azaion_api.names import JobStage, LineAction, run_directory
from azaion_api.outcome import AttemptReason, ExitCode
from azaion_api.report import RunReport, TrainingProgress
from azaion_api.resources import TrainingRun
from azaion_api.task import NoticeEvent, RunTask, decode_notice_task, decode_run_task
from azaion_api.training_run import (
    RUN_CONDITIONS,
    Best,
    EvaluationStatus,
    Phase,
    PromotionDecision,
    PromotionStatus,
    Publication,
    PublishedModel,
    Stage,
    TrainingRunStatus,
    UploadState,
    UploadStatus,
)
from azaion_operator.access import Access
from azaion_operator.device_queue import Entry, Turn
from azaion_operator.objects import ContainerState, StatusCondition
from azaion_operator.plan_run import RunPlan, plan_run, queue_entry
from azaion_operator.settings import PodSettings
from azaion_operator.view import RunView

PREPARE, TRAIN, EVALUATE, PUBLISH, UPLOAD = JobStage
NEXT = Turn(go=True, place=1)
BEST = Best(epoch=2, map50to95="0.4")
SECOND = Turn(go=False, place=2, waits_for="run other goes first", confirmed=True)


def plan(view: RunView, after_s: float = 0) -> RunPlan:
    return plan_run(view, make.NOW + timedelta(seconds=after_s))


def kinds(found: RunPlan) -> list[str]:
    return [manifest["kind"] for _, manifest in found.create]


def job_names(found: RunPlan) -> list[str]:
    return [manifest["metadata"]["name"] for type_, manifest in found.create if type_.kind == "Job"]


def task(found: RunPlan) -> RunTask:
    manifest = found.create[-1][1]
    environment = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    return decode_run_task(next(e["value"] for e in environment if e["name"] == "AZAION_TASK"))


def condition(status: TrainingRunStatus, type_: str) -> tuple[str, str]:
    found = find_condition(status.conditions, type_)
    assert found is not None, f"{type_} is not among the conditions"
    return found.status.value, found.reason


def after(*done: JobStage, **fields: Any) -> TrainingRunStatus:
    """The status of a run at work whose first stages are done."""
    return plan(
        make.view(
            make.run(status=make.released()),
            jobs=tuple(make.job(stage, state="Complete") for stage in done),
            pods=tuple(make.ended_pod(stage, ExitCode.COMPLETED) for stage in done),
            reports=make.last_reports(*done),
            turn=SECOND,
            **fields,
        )
    ).status


def at_work(
    stage: JobStage, *, of: TrainingRun | None = None, done: tuple[JobStage, ...] = (), **fields: Any
) -> RunView:
    """A run whose stage's first pod runs."""
    values: dict[str, Any] = {"jobs": (make.job(stage),), "pods": (make.pod(stage),), "turn": make.HOLDS} | fields
    return make.view(of or make.run(status=after(*done)), **values)


# Waiting for what is missing


def test_a_job_that_the_api_server_finds_invalid_fails_the_run_with_its_words() -> None:
    words = "the API server refuses Job run-1-prepare-1: spec.template.spec.containers[0].resources.requests: Invalid"
    found = plan(make.view(make.run(status=make.released()), refused=words))
    assert (found.status.phase, found.create, found.again_in_s) == (Phase.FAILED, (), None)
    assert found.status.message == f"{words}; make a new run with that mended"
    assert condition(found.status, "Succeeded") == ("False", "BadSpec")
    assert condition(found.status, "Finished") == ("True", "Failed")
    assert condition(found.status, "DatasetReady") == ("False", "BadSpec")


def test_all_conditions_are_there_from_the_first_pass_and_unknown() -> None:
    found = plan(make.view(make.run(), storage=None)).status
    assert [c.type for c in found.conditions] == list(RUN_CONDITIONS)
    assert {c.status for c in found.conditions} == {ConditionStatus.UNKNOWN}
    assert (found.phase, found.epochs, found.epoch_column, found.observed_generation) == (
        Phase.PENDING,
        120,
        "0/120",
        1,
    )


MISSING: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("no word of the storage", {}, {"storage": None}, "the storage pod has not reported"),
    (
        "the base model",
        {},
        {"storage": make.storage(base_models=())},
        "models/yolo26m.pt is not on the volume; add it with: azaion-trainer add-model yolo26m.pt (kubectl cp and",
    ),
    (
        "images",
        {},
        {"storage": make.storage(images={})},
        "data/images holds 0 images, the run needs 1",
    ),
    (
        "enough images",
        {"dataset": {"source": "data-seed", "minImages": 200}},
        {"storage": make.storage(images={"data-seed": 120})},
        "data-seed/images holds 120 images, the run needs 200",
    ),
    (
        "a current model",
        {"model": {"base": "Current"}},
        {},
        "model.base is Current, but line azaion has no model yet",
    ),
    (
        "space",
        {},
        {"storage": make.storage(available_bytes=70)},
        "only 70 B of the volume are free and a run starts from 100 B on",
    ),
    (
        "care",
        {},
        {"storage": make.storage(problems=("data/ belongs to root; chown it", "models/ too"))},
        "the storage needs care: data/ belongs to root; chown it (and 1 more)",
    ),
    ("classes", {}, {"storage": make.storage(classes_present=False)}, "classes.json is not on the volume"),
]


@pytest.mark.parametrize(("spec", "fields", "message"), [row[1:] for row in MISSING], ids=[row[0] for row in MISSING])
def test_a_run_that_lacks_something_is_pending_and_says_what_to_do(
    spec: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    found = plan(make.view(make.run(**spec), **fields))
    assert found.status.phase is Phase.PENDING
    assert found.status.message.startswith(message)
    assert (found.create, found.needs_device) == ((), False)
    assert condition(found.status, "DatasetReady") == ("Unknown", "NotReady")


ENOUGH: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("an architecture needs no base model", {"model": {"base": "yolo26n.yaml"}}, {"base_models": ()}),
    ("an existing data set needs no images", {"dataset": {"existing": "datasets/mine"}}, {"images": {}}),
    ("a resumed run brings its weights", {"training": {"resumeFrom": "runs/old-1"}}, {"base_models": ()}),
    ("a link of the line is a current model", {"model": {"base": "Current"}}, {"base_models": ("azaion.pt",)}),
]


@pytest.mark.parametrize(("spec", "storage"), [row[1:] for row in ENOUGH], ids=[row[0] for row in ENOUGH])
def test_what_a_run_does_not_need_it_does_not_wait_for(spec: dict[str, Any], storage: dict[str, Any]) -> None:
    assert plan(make.view(make.run(**spec), storage=make.storage(**storage))).status.start_time == make.NOW


@pytest.mark.parametrize("own", [{"claimName": "other"}, {"subPath": "team-a"}])
def test_a_run_with_storage_of_its_own_is_checked_by_its_own_pod(own: dict[str, str]) -> None:
    settings = dataclasses.replace(make.SETTINGS, access=Access(claims=("other",)))
    assert plan(make.view(make.run(storage=own), storage=None, settings=settings)).status.start_time == make.NOW


def test_a_claim_the_chart_does_not_list_is_not_mounted() -> None:
    found = plan(make.view(make.run(storage={"claimName": "somebody-elses"})))
    assert (found.status.phase, found.create) == (Phase.PENDING, ())
    assert found.status.message == (
        "the claim somebody-elses is not on the chart's list access.claims; an administrator can add it and upgrade"
    )


def test_naming_the_charts_claim_is_not_storage_of_its_own() -> None:
    assert plan(make.view(make.run(storage={"claimName": "azaion"}), storage=None)).status.phase is Phase.PENDING


# The queue


def test_a_run_whose_turn_it_is_not_is_queued_and_says_its_place() -> None:
    found = plan(make.view(turn=SECOND))
    assert (found.status.phase, found.status.message) == (Phase.QUEUED, "place 2 in the queue: run other goes first")
    assert (found.create, found.status.start_time) == ((), None)


def test_a_turn_seen_in_the_cache_is_confirmed_before_anything_is_done() -> None:
    found = plan(make.view(turn=NEXT))
    assert found == RunPlan(status=TrainingRunStatus(), needs_device=True)


def test_at_release_everything_is_fixed_and_made() -> None:
    found = plan(make.view(make.run(), line=None, next_iteration=7))
    assert kinds(found) == ["ModelLine", "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "Job"]
    assert job_names(found) == ["run-1-prepare-1"]
    status = found.status
    assert (status.phase, status.stage, status.start_time) == (Phase.RUNNING, Stage.PREPARING, make.NOW)
    assert (status.image, status.directory) == (make.SETTINGS.trainer_image, run_directory("run-1", make.UID))
    assert status.iteration == 7


def test_a_released_run_keeps_its_image_when_the_operator_has_a_newer_one() -> None:
    newer = PodSettings(trainer_image="docker.io/azaion/trainer:0.2.0", consumer_image="c", claim="azaion")
    found = plan(make.view(make.run(status=after(PREPARE)), turn=make.HOLDS, settings=newer))
    assert found.status.image == "docker.io/azaion/trainer:0.1.0"
    assert found.create[-1][1]["spec"]["template"]["spec"]["containers"][0]["image"] == "docker.io/azaion/trainer:0.1.0"


def test_an_operator_killed_between_release_and_job_goes_on_where_it_was() -> None:
    found = plan(make.view(make.run(status=make.released()), turn=make.HOLDS))
    assert job_names(found) == ["run-1-prepare-1"]
    assert found.status.start_time == make.ago(50)


def test_a_job_of_an_earlier_run_of_the_name_is_waited_for() -> None:
    found = plan(make.view(leftover_jobs=frozenset({"run-1-prepare-1"})))
    assert (found.status.phase, found.create) == (Phase.PENDING, ())
    assert found.status.message == "waits until Job run-1-prepare-1 of an earlier run of this name is gone"


# The stages


def test_each_stage_follows_the_one_before() -> None:
    assert [
        (done, job_names(plan(make.view(make.run(status=after(*done)), turn=make.HOLDS))))
        for done in ((), (PREPARE,), (PREPARE, TRAIN), (PREPARE, TRAIN, EVALUATE))
    ] == [
        ((), ["run-1-prepare-1"]),
        ((PREPARE,), ["run-1-train-1"]),
        ((PREPARE, TRAIN), ["run-1-evaluate-1"]),
        ((PREPARE, TRAIN, EVALUATE), ["run-1-publish-1"]),
    ]


def test_the_next_job_waits_until_nothing_of_the_last_one_is_left() -> None:
    still_ends = plan(
        make.view(
            make.run(status=make.released()),
            jobs=(make.job(PREPARE),),
            pods=(make.ended_pod(PREPARE, ExitCode.COMPLETED),),
            reports=make.last_reports(PREPARE),
            turn=make.HOLDS,
        )
    )
    assert still_ends.create == ()
    assert still_ends.status.message == "waits until Job run-1-prepare-1 is closed"


def test_a_stage_waits_for_the_device_that_something_else_still_uses() -> None:
    turn = Turn(go=False, place=0, waits_for="pod other-train-1-x has not ended yet", confirmed=True)
    found = plan(make.view(make.run(status=after(PREPARE)), turn=turn))
    assert (found.status.phase, found.status.message) == (Phase.RUNNING, "pod other-train-1-x has not ended yet")


def test_a_task_carries_what_the_stages_before_found() -> None:
    view = make.view(make.run(status=after(PREPARE, TRAIN)), turn=make.HOLDS, line=make.line(make.record()))
    assert task(plan(view)) == RunTask(
        run="run-1",
        uid=make.UID,
        stage=EVALUATE,
        attempt=1,
        directory=run_directory("run-1", make.UID),
        spec=make.spec(),
        report="run-1-run-report",
        dataset=make.DATASET,
        batch=None,
        current_model="models/azaion-2026-10-01/azaion.pt",
        promotion=None,
    )


def test_publish_is_told_the_decision_and_needs_no_device() -> None:
    busy = Turn(go=False, place=0, waits_for="run other is at the device")
    found = plan(make.view(make.run(status=after(PREPARE, TRAIN, EVALUATE)), turn=busy))
    assert task(found).promotion == PromotionStatus(
        decision=PromotionDecision.PROMOTED, reason="test mAP50-95 0.7; the first model of its line"
    )


def test_a_report_that_was_deleted_under_a_working_pod_is_made_again() -> None:
    assert kinds(plan(at_work(TRAIN, done=(PREPARE,), has_report_map=False))) == ["ConfigMap"]
    assert kinds(plan(at_work(TRAIN, done=(PREPARE,)))) == []


def test_progress_is_in_the_status() -> None:
    progress = TrainingProgress(
        completed_epochs=3,
        epochs=120,
        batch=11,
        map50=0.123456789,
        map50to95=0.05,
        train_loss=3.5,
        losses={"train/box": 1.25, "val/cls": float("inf")},
        learning_rate=0.00001,
        best_epoch=2,
        best_map50to95=0.06,
        checkpoint=make.CHECKPOINT,
    )
    report = make.report(
        TRAIN, training=progress, progress=make.progress(remaining_seconds=8040.4, activity="validating")
    )
    found = plan(at_work(TRAIN, done=(PREPARE,), reports=make.by_pod(report))).status
    assert (found.phase, found.stage, found.epoch_column) == (Phase.RUNNING, Stage.TRAINING, "3/120")
    assert found.message == "trains, 3 of 120 epochs done: validating"
    assert found.metrics is not None
    assert (found.metrics.map50, found.metrics.learning_rate, found.metrics.losses) == (
        "0.123457",
        "0.00001",
        {"train/box": "1.25"},
    )
    assert (found.remaining_seconds, found.time_left) == (8040, "2h14m")
    assert found.estimated_completion_time == make.ago(2).replace(microsecond=0) + timedelta(seconds=8040)
    assert found.best is not None
    assert (found.best.epoch, found.best.map50to95) == (2, "0.06")
    assert [condition(found, t) for t in ("Training", "CheckpointSaved", "LossFinite", "Evaluated")] == [
        ("True", "InProgress"),
        ("True", "Verified"),
        ("True", "Finite"),
        ("Unknown", "NotYet"),
    ]


@pytest.mark.parametrize(
    ("activity", "done", "message"),
    [
        ("", 3, "trains epoch 4 of 120"),
        ("epoch 4 of 120", 3, "trains epoch 4 of 120"),
        ("validating epoch 3", 3, "trains, 3 of 120 epochs done: validating epoch 3"),
        ("", 120, "trained 120 epochs, finishes"),
    ],
)
def test_what_the_pod_does_is_said_once(activity: str, done: int, message: str) -> None:
    training = make.training(completed_epochs=done)
    report = make.report(TRAIN, training=training, progress=make.progress(activity=activity))
    assert plan(at_work(TRAIN, done=(PREPARE,), reports=make.by_pod(report))).status.message == message


def test_a_stage_lasts_until_its_job_is_closed() -> None:
    closing = make.view(
        make.run(status=make.released()),
        jobs=(make.job(PREPARE),),
        pods=(make.ended_pod(PREPARE, ExitCode.COMPLETED),),
        reports=make.last_reports(PREPARE),
        turn=make.HOLDS,
    )
    assert plan(closing).status.stage is Stage.PREPARING
    assert plan(make.view(make.run(status=after(PREPARE)), turn=make.HOLDS)).status.stage is Stage.TRAINING


def test_time_alone_changes_nothing_in_the_status() -> None:
    report = make.report(
        TRAIN, training=make.training(completed_epochs=3), progress=make.progress(remaining_seconds=60)
    )
    view = at_work(TRAIN, done=(PREPARE,), reports=make.by_pod(report))
    first = plan(view).status
    again = plan(
        make.view(make.run(status=first), **{k: getattr(view, k) for k in ("jobs", "pods", "reports", "turn")}), 999
    )
    assert again.status == first


def test_a_loss_that_is_not_finite_is_a_condition() -> None:
    report = make.report(TRAIN, training=make.training(completed_epochs=3, loss_finite=False, map50=float("nan")))
    found = plan(at_work(TRAIN, done=(PREPARE,), reports=make.by_pod(report))).status
    assert condition(found, "LossFinite") == ("False", "NotFinite")
    assert found.metrics is None


def test_evaluate_shows_exporting_when_its_pod_says_so() -> None:
    report = make.report(EVALUATE, stage=Stage.EXPORTING)
    found = plan(at_work(EVALUATE, done=(PREPARE, TRAIN), reports=make.by_pod(report))).status
    assert (found.stage, found.message) == (Stage.EXPORTING, "exports the model")


def test_a_finished_run_succeeds_with_all_its_conditions() -> None:
    found = plan(make.view(make.run(status=after(PREPARE, TRAIN, EVALUATE, PUBLISH)), turn=make.HOLDS)).status
    assert (found.phase, found.stage, found.completion_time) == (Phase.SUCCEEDED, None, make.NOW)
    assert found.message == "published models/azaion-2026-11-22/azaion.pt"
    assert found.publication is Publication.OK
    assert {c.type: (c.status.value, c.reason) for c in found.conditions} == {
        "DatasetReady": ("True", "Completed"),
        "Training": ("False", "Completed"),
        "CheckpointSaved": ("True", "Verified"),
        "LossFinite": ("True", "Finite"),
        "Evaluated": ("True", "Completed"),
        "Exported": ("True", "Completed"),
        "Published": ("True", "Completed"),
        "Succeeded": ("True", "Succeeded"),
        "Finished": ("True", "Succeeded"),
    }


def test_stages_stay_done_when_their_attempts_are_forgotten() -> None:
    status = msgspec.structs.replace(after(PREPARE, TRAIN, EVALUATE), attempts=())
    assert job_names(plan(make.view(make.run(status=status), turn=make.HOLDS))) == ["run-1-publish-1"]


# The gate


def rejected() -> RunView:
    worse = EvaluationStatus(new=msgspec.structs.replace(make.SCORES, map50to95="0.5"), current=make.SCORES, images=10)
    reports = make.last_reports(PREPARE, TRAIN, EVALUATE)
    reports["pod-evaluate-1"] = msgspec.structs.replace(reports["pod-evaluate-1"], evaluation=worse)
    return make.view(
        make.run(status=make.released()),
        jobs=tuple(make.job(s, state="Complete") for s in (PREPARE, TRAIN, EVALUATE)),
        pods=tuple(make.ended_pod(s, ExitCode.COMPLETED) for s in (PREPARE, TRAIN, EVALUATE)),
        reports=reports,
        line=make.line(make.record()),
        turn=make.HOLDS,
    )


def test_a_worse_model_ends_the_run_well_and_is_not_published() -> None:
    found = plan(rejected())
    assert (found.status.phase, found.create) == (Phase.SUCCEEDED, ())
    assert condition(found.status, "Published") == ("False", "Rejected")
    assert found.status.publication is Publication.NOT_OK
    assert condition(found.status, "Succeeded") == ("True", "Succeeded")
    assert found.status.message.startswith("not promoted: test mAP50-95 0.5 against 0.7 of the current model")
    assert [m.role for m in found.status.models] == ["trained", "exported"]


@pytest.mark.parametrize(
    ("models", "reason", "there_is"),
    [
        ((make.EXPORTED,), "PartlyExported", "there is ONNX runs/run-1-0a1b2c3d/export/best.onnx."),
        ((), "NothingExported", "there is no exported file."),
    ],
)
def test_what_could_not_be_exported_is_said(models: tuple[PublishedModel, ...], reason: str, there_is: str) -> None:
    status = after(PREPARE, TRAIN, EVALUATE)
    assert status.evaluation is not None
    evaluation = msgspec.structs.replace(status.evaluation, export_message="the export to TensorRT failed: no GPU")
    found = plan(
        make.view(make.run(status=msgspec.structs.replace(status, evaluation=evaluation, models=models)))
    ).status
    assert condition(found, "Exported") == ("False", reason)
    words = next(c.message for c in found.conditions if c.type == "Exported")
    assert words.startswith("the export to TensorRT failed: no GPU; ")
    assert words.endswith(there_is.rstrip("."))


def test_a_model_that_a_person_has_to_approve_waits_without_the_device() -> None:
    status = after(PREPARE, TRAIN, EVALUATE)
    undecided = msgspec.structs.replace(status, promotion=PromotionStatus())
    waits = plan(make.view(make.run(status=undecided, publish={"promotion": "Manual"}), turn=make.HOLDS))
    assert (waits.status.phase, waits.status.stage, waits.create) == (Phase.AWAITING_APPROVAL, None, ())
    assert not queue_entry(make.view(make.run(status=waits.status, publish={"promotion": "Manual"}))).holds
    approved = make.run(status=waits.status, publish={"promotion": "Manual", "approved": True})
    assert job_names(plan(make.view(approved, turn=SECOND))) == ["run-1-publish-1"]


# Targets and the webhook

TARGETS = {
    "encryption": {"secretKeyRef": {"name": "model-key"}},
    "targets": [
        {"name": "edge", "type": "Directory"},
        {
            "name": "cdn",
            "type": "S3",
            "s3": {"endpoint": "https://x", "bucket": "models", "credentialsSecretRef": {"name": "cdn"}},
        },
    ],
}
HOOK = {"notify": {"urlSecretRef": {"name": "hook"}}}


def published(publish: dict[str, Any], **fields: Any) -> RunView:
    """A run whose model was just put in place."""
    done = (PREPARE, TRAIN, EVALUATE, PUBLISH)
    values: dict[str, Any] = {
        "jobs": tuple(make.job(stage, state="Complete") for stage in done),
        "pods": tuple(make.ended_pod(stage, ExitCode.COMPLETED) for stage in done),
        "reports": make.last_reports(*done),
        "turn": SECOND,
    } | fields
    run = values.pop("of", None) or make.run(status=make.released(), publish=publish)
    return make.view(run, **values)


def told(states: dict[str, UploadState], outcome: AttemptReason | None = None) -> RunReport:
    uploads = tuple(UploadStatus(target=name, state=state, message="away") for name, state in states.items())
    return make.report(UPLOAD, uploads=uploads, outcome=outcome)


def test_a_published_model_is_uploaded_without_the_device() -> None:
    found = plan(published(TARGETS))
    assert job_names(found) == ["run-1-upload-1"]
    manifest = found.create[-1][1]
    assert "azaion.com/device" not in manifest["metadata"]["labels"]
    pod = manifest["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in str(pod["containers"][0]["resources"])
    assert task(found).deployed == make.DEPLOYED.path
    assert not queue_entry(make.view(make.run(status=found.status, publish=TARGETS))).holds
    assert [(u.target, u.state) for u in found.status.uploads] == [
        ("edge", UploadState.WAITING),
        ("cdn", UploadState.WAITING),
    ]
    assert found.status.publication is Publication.WAITING
    assert condition(found.status, "Published") == ("True", "Completed")


def test_secrets_are_mounted_where_they_are_used_and_nothing_of_them_is_said() -> None:
    pod = plan(published(TARGETS)).create[-1][1]["spec"]["template"]["spec"]
    mounted = {v["secret"]["secretName"]: v["secret"]["optional"] for v in pod["volumes"] if "secret" in v}
    assert mounted == {"model-key": True, "cdn": True}
    mounts = [m for m in pod["containers"][0]["volumeMounts"] if m["name"].startswith("secret-")]
    assert [(m["mountPath"], m["readOnly"]) for m in mounts] == [
        ("/etc/azaion/secrets/model-key", True),
        ("/etc/azaion/secrets/cdn", True),
    ]
    publishing = plan(make.view(make.run(status=after(PREPARE, TRAIN, EVALUATE), publish=TARGETS)))
    assert job_names(publishing) == ["run-1-publish-1"]
    assert "secret" not in str(publishing.create[-1][1]["spec"]["template"]["spec"]["volumes"])


def test_a_failed_upload_is_tried_again_and_the_promotion_stands() -> None:
    status = plan(published(TARGETS)).status
    uploading = make.run(status=status, publish=TARGETS)
    failed = plan(
        make.view(
            uploading,
            jobs=(make.job(UPLOAD, state="Failed"),),
            pods=(make.ended_pod(UPLOAD, ExitCode.UPLOAD_FAILED, word="cdn: away"),),
            reports=make.by_pod(told({"edge": UploadState.OK, "cdn": UploadState.NOT_OK}, AttemptReason.UPLOAD_FAILED)),
        )
    ).status
    assert (failed.phase, failed.promotion.decision if failed.promotion else None) == (
        Phase.RUNNING,
        PromotionDecision.PROMOTED,
    )
    assert failed.message.startswith("tries again in 9s; upload ended as UploadFailed: cdn: away")
    assert [u.state for u in failed.uploads] == [UploadState.OK, UploadState.NOT_OK]
    assert failed.publication is Publication.NOT_OK
    assert failed.restarts == 0, "the store's fault, not the run's"
    found = find_condition(failed.conditions, "Published")
    assert found is not None
    assert found.message.endswith("not uploaded yet to cdn: away")
    again = plan(make.view(make.run(status=failed, publish=TARGETS), turn=SECOND), after_s=30)
    assert job_names(again) == ["run-1-upload-2"]


def test_a_run_ends_once_every_target_has_the_model() -> None:
    status = plan(published(TARGETS)).status
    ended = plan(
        make.view(
            make.run(status=status, publish=TARGETS),
            jobs=(make.job(UPLOAD, state="Complete"),),
            pods=(make.ended_pod(UPLOAD, ExitCode.COMPLETED),),
            reports=make.by_pod(told({"edge": UploadState.OK, "cdn": UploadState.OK}, AttemptReason.COMPLETED)),
        )
    ).status
    assert (ended.phase, ended.publication) == (Phase.SUCCEEDED, Publication.OK)


def test_a_target_that_has_the_model_never_goes_back() -> None:
    status = msgspec.structs.replace(
        plan(published(TARGETS)).status,
        uploads=(UploadStatus(target="edge", state=UploadState.OK), UploadStatus(target="cdn")),
    )
    view = make.view(
        make.run(status=status, publish=TARGETS),
        jobs=(make.job(UPLOAD, 2),),
        pods=(make.pod(UPLOAD, 2),),
        reports=make.by_pod(make.report(UPLOAD, 2, uploads=(UploadStatus(target="edge"),))),
    )
    assert [u.state for u in plan(view).status.uploads] == [UploadState.OK, UploadState.WAITING]


def test_an_upload_that_fails_for_a_week_ends_the_run_and_says_that_the_model_is_current() -> None:
    status = plan(published(TARGETS)).status
    attempts = (*status.attempts, make.ended(UPLOAD, 170, AttemptReason.UPLOAD_FAILED, message="cdn: away"))
    found = plan(make.view(make.run(status=msgspec.structs.replace(status, attempts=attempts), publish=TARGETS))).status
    assert found.phase is Phase.FAILED
    assert found.message.startswith("the model is current, but it was not uploaded in 170 attempts; ")


def test_a_run_without_targets_ends_when_its_model_is_in_place() -> None:
    found = plan(published({}))
    assert (found.status.phase, found.create, found.status.uploads) == (Phase.SUCCEEDED, (), ())


def test_a_rejected_model_is_uploaded_nowhere() -> None:
    view = rejected()
    found = plan(replace(view, run=make.run(status=make.released(), publish=TARGETS | HOOK)))
    assert found.status.phase is Phase.SUCCEEDED
    assert job_names(found) == ["run-1-notify-rejected"]


def test_the_webhook_is_told_once_of_a_promotion_without_the_operator_knowing_its_address() -> None:
    found = plan(published(HOOK))
    assert job_names(found) == ["run-1-notify-promoted"]
    assert found.status.notices == ("Promoted",)
    pod = found.create[-1][1]["spec"]["template"]["spec"]
    assert [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v] == ["hook"]
    assert pod["automountServiceAccountToken"] is False
    assert "persistentVolumeClaim" not in str(pod["volumes"])
    environment = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    notice = decode_notice_task(environment["AZAION_TASK"])
    assert (notice.event, notice.model) == (NoticeEvent.PROMOTED, make.DEPLOYED.path)
    assert "test mAP50-95 0.7" in notice.message


def test_the_webhook_is_told_before_a_slow_upload_and_not_again_after_it() -> None:
    found = plan(published(TARGETS | HOOK))
    assert sorted(job_names(found)) == ["run-1-notify-promoted", "run-1-upload-1"]
    later = make.view(make.run(status=found.status, publish=TARGETS | HOOK), jobs=(make.job(UPLOAD),))
    assert job_names(plan(later)) == []


def test_a_notice_at_work_keeps_the_run_from_nothing() -> None:
    notice = make.job(UPLOAD)
    labels = {name: value for name, value in notice.metadata.labels.items() if "stage" not in name}
    notice = msgspec.structs.replace(
        notice, metadata=msgspec.structs.replace(notice.metadata, name="run-1-notify-promoted", labels=labels)
    )
    view = published(TARGETS | HOOK)
    assert "run-1-upload-1" in job_names(plan(replace(view, jobs=(*view.jobs, notice))))


def test_the_webhook_is_told_of_a_failure() -> None:
    view = failed(ExitCode.BAD_DATA, of=make.run(status=after(PREPARE), publish=HOOK))
    found = plan(view)
    assert found.status.phase is Phase.FAILED
    assert job_names(found) == ["run-1-notify-failed"]
    assert found.status.notices == ("Failed",)


# One line, one model after another


def test_a_run_is_judged_once_the_one_before_it_has_published() -> None:
    view = make.view(make.run(status=after(PREPARE, TRAIN)), turn=make.HOLDS, publishes_first="older")
    found = plan(view)
    assert (found.create, found.status.message) == ((), "waits until run older has published")
    assert job_names(plan(replace(view, publishes_first=None))) == ["run-1-evaluate-1"]


def test_a_model_is_put_in_place_once_the_line_has_switched() -> None:
    work = LineWork(action=LineAction.SWITCH, number=1, model="azaion-2026-09-01")
    line = make.line(make.record())
    switching = msgspec.structs.replace(line, status=msgspec.structs.replace(line.status, work=work))
    status = after(PREPARE, TRAIN, EVALUATE)
    view = make.view(make.run(status=status), line=switching, turn=SECOND)
    assert plan(view).status.message == "waits until line azaion has switched to azaion-2026-09-01"
    assert job_names(plan(replace(view, line=line))) == ["run-1-publish-1"]


# When a pod does not end well


def failed(code: int, stage: JobStage = TRAIN, **fields: Any) -> RunView:
    done = tuple(JobStage)[: tuple(JobStage).index(stage)]
    values: dict[str, Any] = {
        "jobs": (make.job(stage, state="Failed"),),
        "pods": (make.ended_pod(stage, code),),
        "turn": make.HOLDS,
    } | fields
    return make.view(values.pop("of", None) or make.run(status=after(*done)), **values)


def test_an_attempt_ended_from_outside_is_followed_by_the_next_at_once() -> None:
    found = plan(failed(ExitCode.PREEMPTED))
    assert (job_names(found), found.status.restarts) == (["run-1-train-2"], 0)


def test_a_crash_is_followed_by_the_next_attempt_after_a_pause_and_holds_the_device() -> None:
    found = plan(failed(ExitCode.CRASHED))
    assert (found.create, found.status.phase, found.status.restarts) == ((), Phase.RUNNING, 1)
    assert found.again_in_s == 9
    assert found.status.message.startswith("tries again in 9s; train ended as Crashed")
    assert condition(found.status, "Training") == ("False", "Retrying")
    later = plan(make.view(make.run(status=found.status), jobs=(make.job(TRAIN, state="Failed"),), turn=make.HOLDS), 9)
    assert (job_names(later), later.status.restarts) == (["run-1-train-2"], 1)


def test_every_attempt_counts_once_under_its_reason_even_when_it_is_no_longer_listed() -> None:
    first = plan(failed(ExitCode.CRASHED)).status
    again = plan(make.view(make.run(status=first), jobs=(make.job(TRAIN, state="Failed"),), turn=make.HOLDS), 4).status
    assert first.attempts_by_reason["Crashed"] == again.attempts_by_reason["Crashed"] == 1
    forgotten = msgspec.structs.replace(first, attempts=(), attempts_by_reason={"Crashed": 7, "Preempted": 40})
    later = plan(failed(ExitCode.GPU_OUT_OF_MEMORY, of=make.run(status=forgotten))).status.attempts_by_reason
    assert (later["Crashed"], later["Preempted"], later["GPUOutOfMemory"]) == (7, 40, 1)


def test_waiting_for_a_retry_writes_the_status_once() -> None:
    first = plan(failed(ExitCode.CRASHED)).status
    again = plan(make.view(make.run(status=first), jobs=(make.job(TRAIN, state="Failed"),), turn=make.HOLDS), 4)
    assert again.status == first


def test_gpu_memory_that_ran_out_becomes_a_smaller_batch_in_the_next_task() -> None:
    report = make.report(TRAIN, training=make.training(batch=11), outcome=AttemptReason.GPU_OUT_OF_MEMORY)
    found = plan(failed(ExitCode.GPU_OUT_OF_MEMORY, reports=make.by_pod(report)), 60)
    assert (found.status.batch, task(found).batch, task(found).attempt) == (5, 5, 2)
    assert (found.status.attempts[-1].batch, found.status.restarts) == (11, 1)


def test_a_batch_lowered_once_stays_lowered() -> None:
    status = msgspec.structs.replace(
        after(PREPARE), batch=5, attempts=(make.ended(TRAIN, 2, AttemptReason.PREEMPTED, batch=5),)
    )
    assert task(plan(make.view(make.run(status=status), turn=make.HOLDS))).batch == 5


def test_bad_data_fails_the_run_at_once_with_the_pods_sentence() -> None:
    pods = (make.ended_pod(PREPARE, ExitCode.BAD_DATA, word="data/labels holds no label that can be read"),)
    found = plan(failed(ExitCode.BAD_DATA, PREPARE, pods=pods)).status
    assert (found.phase, found.message) == (Phase.FAILED, "data/labels holds no label that can be read")
    assert [condition(found, t) for t in ("DatasetReady", "Succeeded", "Finished")] == [
        ("False", "BadData"),
        ("False", "BadData"),
        ("True", "Failed"),
    ]


def test_a_failed_publication_keeps_the_trained_model() -> None:
    view = failed(ExitCode.BAD_SPEC, PUBLISH, pods=(make.ended_pod(PUBLISH, ExitCode.BAD_SPEC, word="no such line"),))
    found = plan(view).status
    assert found.phase is Phase.FAILED
    assert [m.role for m in found.models] == ["trained", "exported"]
    assert [condition(found, t) for t in ("Evaluated", "Published")] == [("True", "Completed"), ("False", "BadSpec")]
    assert found.publication is Publication.NOT_OK


def test_a_full_disk_is_waited_for_until_there_is_space() -> None:
    full = failed(ExitCode.STORAGE_FULL, storage=make.storage(available_bytes=50))
    found = plan(full, 3600)
    assert (found.status.phase, found.create, found.status.restarts) == (Phase.RUNNING, (), 0)
    assert found.status.message.startswith("waits for space on the volume")
    assert job_names(plan(failed(ExitCode.STORAGE_FULL), 3600)) == ["run-1-train-2"]


def test_a_disk_found_full_of_which_the_volume_knows_nothing_is_not_tried_again_at_once() -> None:
    """Files have run out, or a quota, or what the storage pod said is older."""
    found = plan(failed(ExitCode.STORAGE_FULL))
    assert (found.create, found.again_in_s) == ((), pytest.approx(9))
    assert found.status.message.startswith("tries again in 9s; train ended as StorageFull")


def test_an_image_that_cannot_be_had_is_said_in_the_kubelets_words_and_waited_for() -> None:
    pod = make.pod(PREPARE, phase="Pending", state=make.waiting("ErrImageNeverPull", "it is not present"))
    found = plan(at_work(PREPARE, pods=(pod,)), 86400)
    assert (found.status.phase, found.create, found.stop) == (Phase.RUNNING, (), ())
    assert found.status.message == "the image docker.io/azaion/trainer:0.1.0 cannot be had (it is not present)"
    assert condition(found.status, "DatasetReady") == ("Unknown", "ImageUnavailable")


def test_a_job_without_a_pod_says_where_to_look() -> None:
    job = make.job(PREPARE, suspended=False, made=30)
    idle = msgspec.structs.replace(job, status=msgspec.structs.replace(job.status, active=0))
    found = plan(at_work(PREPARE, jobs=(idle,), pods=()))
    assert found.status.message == "Job run-1-prepare-1 has no pod yet; kubectl describe job run-1-prepare-1 tells why"


def test_a_job_that_kueue_holds_back_is_left_alone() -> None:
    view = at_work(TRAIN, done=(PREPARE,), jobs=(make.job(TRAIN, suspended=True),), pods=())
    view = make.view(make.run(status=view.run.status, queueName="gpus"), jobs=view.jobs, turn=make.HOLDS)
    found = plan(view)
    assert (found.status.message, found.stop, found.create) == ("waits for Kueue to admit it (gpus)", (), ())


def test_a_job_deleted_by_hand_is_followed_by_the_next_attempt_once_its_pod_has_ended() -> None:
    ends = plan(at_work(TRAIN, done=(PREPARE,), jobs=(), pods=(make.pod(TRAIN, deleted=True),)))
    assert (ends.create, ends.status.message) == ((), "waits until its last pod has ended")
    pods = (make.ended_pod(TRAIN, ExitCode.PREEMPTED, deleted=True, gone=True),)
    assert job_names(plan(at_work(TRAIN, done=(PREPARE,), jobs=(), pods=pods))) == ["run-1-train-2"]


def test_a_pod_that_ended_well_without_its_report_is_looked_at_again_soon() -> None:
    view = failed(ExitCode.COMPLETED, PREPARE, jobs=(make.job(PREPARE, state="Complete"),))
    found = plan(view)
    assert (found.status.message, found.again_in_s, found.create) == (
        "waits for the last report of a pod that has ended",
        2.0,
        (),
    )


# Suspension, epochs, deletion, the end


def test_suspending_ends_the_pod_and_frees_the_device_once_it_has_saved() -> None:
    status = after(PREPARE)
    stop = plan(at_work(TRAIN, of=make.run(status=status, suspend=True)))
    assert ([j.metadata.name for j in stop.stop], stop.status.phase) == (["run-1-train-1"], Phase.RUNNING)
    deleted = (make.job(TRAIN, deleted=True),)
    saves = plan(at_work(TRAIN, of=make.run(status=stop.status, suspend=True), jobs=deleted))
    assert (saves.stop, saves.status.phase, saves.status.message) == (
        (),
        Phase.RUNNING,
        "saves what it has, to be suspended",
    )
    gone = (make.ended_pod(TRAIN, ExitCode.PREEMPTED, gone=True, deleted=True),)
    done = plan(make.view(make.run(status=saves.status, suspend=True), pods=gone, turn=make.HOLDS))
    assert (done.status.phase, done.create) == (Phase.SUSPENDED, ())
    assert not queue_entry(make.view(make.run(status=done.status, suspend=True))).holds


def test_a_resumed_run_queues_again_and_goes_on_with_the_next_attempt() -> None:
    status = msgspec.structs.replace(
        after(PREPARE), phase=Phase.SUSPENDED, attempts=(make.ended(TRAIN, 1, AttemptReason.PREEMPTED),)
    )
    queued = plan(make.view(make.run(status=status), turn=SECOND)).status
    assert queued.phase is Phase.QUEUED
    assert queue_entry(make.view(make.run(status=queued))).waits
    goes_on = plan(make.view(make.run(status=queued), next_iteration=9))
    assert job_names(goes_on) == ["run-1-train-2"]
    assert (goes_on.status.start_time, goes_on.status.iteration) == (make.ago(50), 1)


def test_a_queued_run_that_is_suspended_leaves_the_queue() -> None:
    found = plan(make.view(make.run(suspend=True), turn=SECOND))
    assert (found.status.phase, found.status.message) == (
        Phase.SUSPENDED,
        "suspended; set spec.suspend to false to go on",
    )
    assert not queue_entry(make.view(make.run(suspend=True))).waits


def test_more_epochs_end_the_pod_gracefully_and_the_next_one_is_told() -> None:
    more = make.run(status=after(PREPARE), training={"epochs": 200})
    stop = plan(at_work(TRAIN, of=more))
    assert [j.metadata.name for j in stop.stop] == ["run-1-train-1"]
    pods = (make.ended_pod(TRAIN, ExitCode.PREEMPTED, gone=True),)
    goes_on = plan(make.view(make.run(status=stop.status, training={"epochs": 200}), pods=pods, turn=make.HOLDS))
    assert task(goes_on).spec.training.epochs == 200
    assert goes_on.create[-1][1]["metadata"]["annotations"] == {"azaion.com/epochs": "200"}


def test_a_pod_that_knows_the_epochs_is_left_alone() -> None:
    more = make.run(status=after(PREPARE), training={"epochs": 200})
    assert plan(at_work(TRAIN, of=more, jobs=(make.job(TRAIN, epochs=200),))).stop == ()


def test_a_run_that_is_being_deleted_is_left_to_kubernetes() -> None:
    run = make.run(status=after(PREPARE), deleted=make.NOW)
    assert plan(make.view(run)) == RunPlan(status=run.status)
    assert not queue_entry(make.view(run)).holds


def finished(ttl: int | None = None, **fields: Any) -> TrainingRun:
    status = plan(rejected()).status
    spec: dict[str, Any] = {} if ttl is None else {"ttlSecondsAfterFinished": ttl}
    return make.run(status=msgspec.structs.replace(status, **fields), **spec)


def test_nothing_is_made_for_a_finished_run_ever_again() -> None:
    assert plan(make.view(finished(), jobs=(), pods=(), has_report_map=False), 10**6) == RunPlan(
        status=finished().status
    )


def test_a_finished_run_is_deleted_after_its_time() -> None:
    assert plan(make.view(finished(ttl=60)), 10).again_in_s == 50
    assert plan(make.view(finished(ttl=60)), 60).remove


def test_a_run_stays_until_its_line_has_recorded_its_model() -> None:
    promoted = PromotionStatus(decision=PromotionDecision.PROMOTED)
    run = finished(ttl=0, promotion=promoted)
    assert not plan(make.view(run)).remove
    assert plan(make.view(run, line=make.line(make.record(run_uid=make.UID)))).remove


def test_a_run_is_in_the_queue_as_long_as_it_needs_the_device() -> None:
    created = make.ago(60)
    assert queue_entry(make.view()) == Entry("run-1", 0, created, waits=True)
    assert queue_entry(make.view(storage=None)) == Entry("run-1", 0, created)
    holding = queue_entry(make.view(make.run(status=after(PREPARE, TRAIN))))
    assert holding == Entry("run-1", 0, created, holds=True, released=make.ago(50))
    over = queue_entry(make.view(make.run(status=after(PREPARE, TRAIN, EVALUATE))))
    assert (over.holds, over.waits) == (False, False)


@pytest.mark.parametrize(
    ("publish", "message"),
    [
        ({"notify": {"urlSecretRef": {"name": "payroll"}}}, "the Secret payroll is not on the chart's list"),
        ({"encryption": {"secretKeyRef": {"name": "payroll"}}}, "the Secret payroll is not on the chart's list"),
        (
            {
                "targets": [
                    {
                        "name": "a",
                        "type": "API",
                        "api": {"url": "https://evil.example", "credentialsSecretRef": {"name": "azaion-api"}},
                    }
                ]
            },
            "the host evil.example is not on the chart's list",
        ),
        (
            {
                "targets": [
                    {
                        "name": "a",
                        "type": "S3",
                        "s3": {
                            "endpoint": "https://evil.example:9000",
                            "bucket": "models",
                            "credentialsSecretRef": {"name": "azaion-cdn"},
                        },
                    }
                ]
            },
            "the host evil.example is not on the chart's list",
        ),
    ],
)
def test_a_run_sends_no_secret_and_no_model_where_the_chart_does_not_let_it(
    publish: dict[str, Any], message: str
) -> None:
    found = plan(make.view(make.run(publish=publish)))
    assert (found.status.phase, found.create) == (Phase.PENDING, ())
    assert message in found.status.message


# A budget


def budgeted(*, spent: int, best: Best | None = BEST, **budget: Any) -> TrainingRun:
    """A run in training that may work for an hour and has so far worked for `spent` seconds."""
    status = msgspec.structs.replace(after(PREPARE), active_seconds=spent, best=best)
    return make.run(status=status, budget={"activeSeconds": 3600, **budget})


def test_a_budget_that_is_not_spent_lets_the_pod_work_and_looks_again_when_it_will_be() -> None:
    found = plan(at_work(TRAIN, of=budgeted(spent=3000)))
    assert (found.stop, found.status.phase) == ((), Phase.RUNNING)
    assert found.again_in_s == pytest.approx(3600 - 3000 - 5)


def test_a_clock_that_is_set_an_hour_ahead_spends_no_budget() -> None:
    reports = make.by_pod(make.report(TRAIN, elapsed_seconds=4))
    found = plan(at_work(TRAIN, of=budgeted(spent=3000), reports=reports), 3600)
    assert (found.stop, found.status.active_seconds) == ((), 3004)
    assert found.again_in_s == pytest.approx(3600 - 3004 - 60)


def test_a_pod_that_has_not_reported_for_a_while_is_not_looked_at_in_a_hot_loop() -> None:
    found = plan(at_work(TRAIN, of=budgeted(spent=3539.9)), 3600)
    assert (found.stop, found.again_in_s) == ((), pytest.approx(1))


def test_a_spent_budget_ends_the_training_which_saves_and_then_makes_its_best_model_ready() -> None:
    run = budgeted(spent=3596)
    working = plan(at_work(TRAIN, of=run))
    assert [job.metadata.name for job in working.stop] == ["run-1-train-1"]
    assert working.status.message == "saves what it has, its budget of 1h00m is spent"
    saved = plan(
        at_work(
            TRAIN,
            of=budgeted(spent=3596),
            jobs=(make.job(TRAIN, state="Failed"),),
            pods=(make.ended_pod(TRAIN, ExitCode.PREEMPTED),),
        )
    )
    assert job_names(saved) == ["run-1-train-2"]
    assert task(saved).wrap_up
    manifest = saved.create[-1][1]
    wrapping = make.job(TRAIN, 2)
    annotations = {**wrapping.metadata.annotations, **manifest["metadata"]["annotations"]}
    meta = msgspec.structs.replace(wrapping.metadata, annotations=annotations)
    left_alone = plan(
        at_work(
            TRAIN,
            of=budgeted(spent=3700),
            jobs=(msgspec.structs.replace(wrapping, metadata=meta),),
            pods=(make.pod(TRAIN, 2),),
        )
    )
    assert left_alone.stop == ()


@pytest.mark.parametrize(
    ("budget", "best", "words"),
    [
        ({"onExhausted": "Fail"}, BEST, "its budget of 1h00m is spent (spec.budget); its checkpoints stay"),
        ({}, None, "before the first epoch was complete, so there is no model to go on with"),
    ],
    ids=["when it is to fail", "when there is no model yet"],
)
def test_a_spent_budget_fails_the_run(budget: dict[str, Any], best: Best | None, words: str) -> None:
    found = plan(
        at_work(
            TRAIN,
            of=budgeted(spent=3600, best=best, **budget),
            jobs=(make.job(TRAIN, state="Failed"),),
            pods=(make.ended_pod(TRAIN, ExitCode.PREEMPTED),),
        )
    )
    assert (found.status.phase, found.create) == (Phase.FAILED, ())
    assert words in found.status.message
    assert condition(found.status, "Succeeded") == ("False", "BudgetSpent")


def test_judging_and_publishing_come_on_top_of_the_budget() -> None:
    status = msgspec.structs.replace(after(PREPARE, TRAIN), active_seconds=99_999)
    found = plan(make.view(make.run(status=status, budget={"activeSeconds": 60}), turn=make.HOLDS))
    assert job_names(found) == ["run-1-evaluate-1"]


# A smoke run


def test_a_smoke_run_has_one_epoch_goes_through_every_stage_and_publishes_nothing() -> None:
    judged = plan(
        make.view(
            make.run(status=msgspec.structs.replace(after(PREPARE, TRAIN), promotion=None), smoke=True),
            jobs=(make.job(EVALUATE, state="Complete"),),
            pods=(make.ended_pod(EVALUATE, ExitCode.COMPLETED),),
            reports=make.last_reports(PREPARE, TRAIN, EVALUATE),
        )
    )
    assert job_names(judged) == ["run-1-publish-1"]
    assert judged.status.epochs == 1
    told = task(judged)
    assert told.spec.smoke
    assert told.promotion == PromotionStatus(
        decision=PromotionDecision.REJECTED, reason="a smoke run publishes nothing"
    )
    ended = plan(
        make.view(
            make.run(status=judged.status, smoke=True),
            jobs=(make.job(PUBLISH, state="Complete"),),
            pods=(make.ended_pod(PUBLISH, ExitCode.COMPLETED),),
            reports=make.by_pod(make.report(PUBLISH, outcome=AttemptReason.COMPLETED)),
        )
    )
    assert ended.status.phase is Phase.SUCCEEDED
    assert ended.status.message == "a smoke run: two batches went through every stage, and nothing was published"
    assert condition(ended.status, "Published") == ("False", "Rejected")


def test_a_smoke_run_is_no_training_of_its_line() -> None:
    found = plan(make.view(make.run(smoke=True), next_iteration=4))
    assert job_names(found) == ["run-1-prepare-1"]
    assert found.status.iteration is None


# A pod that no node takes


def unscheduled(since_s: float) -> Any:
    told = StatusCondition(
        type="PodScheduled",
        status="False",
        reason="Unschedulable",
        message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        last_transition_time=make.ago(since_s),
    )
    return make.pod(TRAIN, phase="Pending", state=ContainerState(), conditions=(told,))


OTHERS_WAIT = Turn(go=True, others_wait=True, confirmed=True)


def test_a_pod_that_no_node_takes_says_so_in_the_schedulers_words_and_is_looked_at_again() -> None:
    found = plan(at_work(TRAIN, done=(PREPARE,), pods=(unscheduled(60),), turn=OTHERS_WAIT))
    assert found.status.message == ("no node takes the pod: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    assert found.again_in_s == pytest.approx(540)
    assert found.stop == ()


def test_after_ten_minutes_a_pod_that_no_node_takes_lets_the_next_run_go_first() -> None:
    view = at_work(TRAIN, done=(PREPARE,), pods=(unscheduled(601),), turn=OTHERS_WAIT)
    found = plan(view)
    assert [job.metadata.name for job in found.stop] == ["run-1-train-1"]
    assert found.status.message == (
        "lets the next run go first, after 10m: no node takes the pod: "
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    )
    lost = make.run(status=found.status)
    entry = queue_entry(make.view(lost))
    assert (entry.holds, entry.waits, entry.lost_turn) == (False, True, make.NOW)
    waiting = plan(make.view(lost, turn=SECOND))
    assert (waiting.status.phase, waiting.create) == (Phase.QUEUED, ())
    again = plan(make.view(make.run(status=waiting.status)))
    assert job_names(again) == ["run-1-train-2"]
    assert again.status.lost_turn_time is None


def test_a_pod_that_no_node_takes_stays_while_nobody_else_waits() -> None:
    found = plan(at_work(TRAIN, done=(PREPARE,), pods=(unscheduled(6000),)))
    assert found.stop == ()


# Heat


def overheated(**fields: Any) -> RunView:
    """A run whose training has just left the GPU for its heat."""
    return at_work(
        TRAIN,
        done=(PREPARE,),
        jobs=(make.job(TRAIN, state="Failed"),),
        pods=(make.ended_pod(TRAIN, ExitCode.OVERHEATED, word="the GPU was at up to 95 °C"),),
        **fields,
    )


def test_a_gpu_that_was_left_for_its_heat_is_given_ten_minutes_when_nobody_reads_its_temperature() -> None:
    found = plan(overheated())
    assert (found.status.phase, found.create, found.status.restarts) == (Phase.RUNNING, (), 0)
    assert found.status.message == "lets the GPU cool down; train ended as Overheated: the GPU was at up to 95 °C"
    entry = queue_entry(make.view(make.run(status=found.status)))
    assert entry.hot_until == make.ago(1) + timedelta(minutes=10)
    again = plan(make.view(make.run(status=found.status), turn=make.HOLDS), after_s=600)
    assert job_names(again) == ["run-1-train-2"]


@pytest.mark.parametrize(("celsius", "goes"), [(76.0, False), (75.0, False), (74.0, True)])
def test_a_thermometer_says_when_training_goes_on(celsius: float, goes: bool) -> None:
    found = plan(overheated(gpu_celsius=celsius))
    assert bool(found.create) is goes
    late = plan(overheated(gpu_celsius=celsius), after_s=3600)
    assert bool(late.create) is goes, "the clock does not count where the temperature is known"


# A loss that is not finite


def test_each_loss_that_is_not_finite_halves_the_learning_rate_of_the_next_attempt() -> None:
    view = at_work(
        TRAIN,
        done=(PREPARE,),
        jobs=(make.job(TRAIN, state="Failed"),),
        pods=(make.ended_pod(TRAIN, ExitCode.LOSS_NOT_FINITE),),
    )
    first = plan(view)
    assert first.status.learning_rate_factor == "0.5"
    again = plan(make.view(make.run(status=first.status), turn=make.HOLDS), after_s=60)
    assert task(again).learning_rate_factor == 0.5
    second = plan(
        make.view(
            make.run(status=again.status),
            jobs=(make.job(TRAIN, 2, state="Failed"),),
            pods=(make.ended_pod(TRAIN, ExitCode.LOSS_NOT_FINITE, 2),),
            turn=make.HOLDS,
        ),
        after_s=60,
    )
    assert second.status.learning_rate_factor == "0.25"


# A clock that was set back


def test_a_clock_that_was_set_back_lets_no_retry_wait_for_it() -> None:
    crashed = at_work(
        TRAIN,
        done=(PREPARE,),
        jobs=(make.job(TRAIN, state="Failed"),),
        pods=(make.ended_pod(TRAIN, ExitCode.CRASHED),),
    )
    assert job_names(plan(crashed)) == []
    assert job_names(plan(crashed, after_s=-3600)) == ["run-1-train-2"]


def test_a_clock_that_was_set_back_does_not_wait_for_a_last_report_until_it_has_caught_up() -> None:
    unreported = at_work(
        PREPARE, jobs=(make.job(PREPARE, state="Complete"),), pods=(make.ended_pod(PREPARE, ExitCode.COMPLETED),)
    )
    assert "waits for the last report" in plan(unreported).status.message
    found = plan(unreported, after_s=-3600)
    assert found.status.attempts[-1].reason is AttemptReason.CRASHED
