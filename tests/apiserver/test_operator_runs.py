"""The operator before a real API server: TrainingRuns from apply to the end."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from operator_harness import IMAGE, RUN_STAGES, Node, Operator, Runs, busy, eventually, new_namespace
from real_api import Document, Namespace, RealApi
from tests import faketime

from azaion_api.names import JobStage, Kind
from azaion_api.outcome import AttemptReason, ExitCode
from azaion_api.report import EpochRow, Progress, TrainingProgress
from azaion_api.training_run import RUN_CONDITIONS, EvaluationStatus

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def namespace(api: RealApi) -> Namespace:
    """One namespace for all tests here: an operator takes seconds of a busy processor to start."""
    return new_namespace(api, "operator-runs")


@pytest.fixture(scope="module")
def one_operator(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    found = Operator(namespace, tmp_path_factory.mktemp("operator"))
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def operator(one_operator: Operator, node: Node) -> Iterator[Operator]:
    """The operator at work, with nothing left of another test; nothing it asked for was refused."""
    if not one_operator.runs:
        one_operator.start()
    told = len(one_operator.log)
    yield one_operator
    if not one_operator.runs:
        one_operator.start()
    node.clear()
    one_operator.require_no_defect(told)


@pytest.fixture
def node(namespace: Namespace) -> Node:
    return Node(namespace)


@pytest.fixture
def runs(namespace: Namespace) -> Runs:
    return Runs(namespace)


def test_a_run_waits_for_what_is_missing_and_starts_when_it_is_there(
    operator: Operator, node: Node, runs: Runs
) -> None:
    runs.create("full")
    status = runs.until("full", phase="Pending")
    assert status["message"].startswith("the storage pod has not reported")
    assert [c["type"] for c in status["conditions"]] == list(RUN_CONDITIONS)
    assert {c["status"] for c in status["conditions"]} == {"Unknown"}
    node.report_storage(base_models=())
    runs.until(
        "full",
        message="models/yolo26m.pt is not on the volume; add it with: azaion-trainer add-model yolo26m.pt "
        "(kubectl cp and the other ways are in the README)",
    )
    node.report_storage(images={})
    runs.until("full", message="data/images holds 0 images, the run needs 1")
    node.report_storage()
    node.job("full-prepare-1")
    status = runs.until("full", phase="Running", stage="Preparing")
    uid = runs.get("full")["metadata"]["uid"]
    assert (status["image"], status["directory"], status["iteration"]) == (IMAGE, f"runs/full-{uid[:8]}", 1)
    assert "full-run" in node.names("serviceaccounts")
    assert "full-run-report" in node.names("configmaps")


def test_a_run_goes_from_apply_to_a_published_model(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    node.complete_run("full")
    namespace.api.output("wait", "-n", namespace.name, "--for=condition=Finished", "--timeout=20s", "trainingrun/full")
    status = runs.until("full", phase="Succeeded", message="published models/full/azaion.pt")
    assert {a["stage"]: a["reason"] for a in status["attempts"]} == {s.value: "Completed" for s in RUN_STAGES}
    assert status["dataset"]["path"] == "datasets/azaion-2026-11-22"
    assert status["promotion"]["decision"] == "Promoted"
    assert {m["role"] for m in status["models"]} == {"trained", "exported", "deployed"}
    assert runs.conditions("full")["Published"] == ("True", "Completed")
    line = eventually(
        "the line has its model",
        lambda: namespace.get(Kind.MODEL_LINE, "azaion").get("status", {}).get("current"),
    )
    assert (line["run"], line["path"], line["map50to95"]) == ("full", "models/full/azaion.pt", "0.7")
    assert namespace.get(Kind.MODEL_LINE, "azaion")["status"]["iteration"] == 1
    events = namespace.api.request("GET", f"/api/v1/namespaces/{namespace.name}/events").object["items"]
    told = {e["reason"] for e in events if e["involvedObject"]["name"] == "full"}
    assert {"Released", "Preparing", "Training", "Evaluating", "Publishing", "Promoted", "Succeeded"} <= told


def test_what_a_pod_reports_is_in_the_status(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full", training={"epochs": 3})
    node.complete("full-prepare-1")
    pod = node.start_pod(node.job("full-train-1"))
    progress = TrainingProgress(completed_epochs=1, epochs=3, batch=11, map50=0.5, map50to95=0.25, best_epoch=1)
    node.report(pod, training=progress, progress=Progress(remaining_seconds=7200, activity="validating"))
    # The report may be seen before the pod's start is: they come by different watches.
    message = "trains, 1 of 3 epochs done: validating"
    status = runs.until("full", epochColumn="1/3", timeLeft="2h00m", stage="Training", message=message)
    assert (status["metrics"]["map50"], status["metrics"]["map50to95"], status["batch"]) == ("0.5", "0.25", 11)
    columns = runs_table(runs)
    assert columns == ["full", "Running", "Training", "1/3", "0.25", "2h00m"]


def runs_table(runs: Runs) -> list[str]:
    """The row of the only run as `kubectl get` shows it, but for its age."""
    namespace = runs._namespace
    return namespace.api.output("get", "tr", "-n", namespace.name, "--no-headers").split()[:-1]


def test_reports_of_strangers_garbage_and_old_news_are_ignored(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full", training={"epochs": 9})
    node.complete("full-prepare-1")
    pod = node.start_pod(node.job("full-train-1"))
    node.report(pod, sequence=50, training=TrainingProgress(completed_epochs=5, epochs=9))
    runs.until("full", completedEpochs=5)
    since = runs.get("full")["metadata"]["resourceVersion"]
    stranger = {**pod, "metadata": {**pod["metadata"], "uid": "somebody-else"}}
    node.report(stranger, sequence=99, training=TrainingProgress(completed_epochs=7, epochs=9))
    node.patch("configmaps", "full-run-report", {"data": {"train.json": "}garbage{", "evaluate.json": "[]"}})
    node.report(pod, sequence=49, training=TrainingProgress(completed_epochs=4, epochs=9))
    node.report(pod, sequence=51, training=TrainingProgress(completed_epochs=6, epochs=9))
    runs.until("full", completedEpochs=6)
    shown = epochs_shown(namespace, since)
    assert shown == sorted(shown)
    assert shown[-1] == 6


def epochs_shown(namespace: Namespace, since: str) -> list[int]:
    """Completed epochs of every state the runs have had since then, as the API server remembers them."""
    path = f"/apis/azaion.com/v1alpha1/namespaces/{namespace.name}/trainingruns"
    text = namespace.api.output("get", "--raw", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=1")
    changes = [json.loads(line) for line in text.splitlines()]
    assert {change["type"] for change in changes} <= {"ADDED", "MODIFIED"}, changes[-1]
    return [change["object"].get("status", {}).get("completedEpochs", 0) for change in changes]


def test_one_run_at_a_time_by_priority_then_age(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("first")
    node.job("first-prepare-1")
    runs.create("second")
    runs.until("second", phase="Queued", message="place 1 in the queue: run first is at the device")
    runs.create("urgent", priority=5)
    runs.until("urgent", message="place 1 in the queue: run first is at the device")
    runs.until("second", message="place 2 in the queue: run first is at the device")
    for stage in (JobStage.PREPARE, JobStage.TRAIN, JobStage.EVALUATE):
        assert node.get("jobs", "urgent-prepare-1") is None
        node.complete(f"first-{stage}-1")
    node.job("first-publish-1")
    node.job("urgent-prepare-1")
    runs.until("second", message="place 1 in the queue: run urgent is at the device")
    assert "second-prepare-1" not in node.names("jobs")


def test_a_deleted_runs_pod_keeps_the_device_until_it_is_gone(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("first")
    pod = node.start_pod(node.job("first-prepare-1"))
    runs.create("second")
    runs.until("second", phase="Queued")
    namespace.api.output("delete", "tr", "-n", namespace.name, "first")
    name = pod["metadata"]["name"]
    runs.until("second", message=f"place 1 in the queue: pod {name} has not ended yet")
    node.remove(pod)
    node.job("second-prepare-1")


def test_a_namesake_of_a_deleted_run_starts_clean(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("again")
    # Several times: a run deleted as soon as its Job is there is often one the operator is still at work on.
    for iteration in range(2, 8):
        pod = node.start_pod(node.job("again-prepare-1"))
        first = runs.get("again")["metadata"]["uid"]
        namespace.api.output("delete", "tr", "-n", namespace.name, "again")
        runs.create("again")
        second = runs.get("again")["metadata"]["uid"]
        node.report(pod, progress=Progress(activity="still at it"))
        node.remove(pod)
        eventually("the new run has its own Job", lambda: owner_of_job(node, "again-prepare-1") == second)  # noqa: B023
        status = runs.until("again", phase="Running")
        assert (status["directory"], status["iteration"]) == (f"runs/again-{second[:8]}", iteration), f"after {first}"
        assert [attempt for attempt in status["attempts"] if "reason" in attempt] == [], "it has the first run's end"


def owner_of_job(node: Node, name: str) -> str | None:
    job = node.get("jobs", name)
    return job["metadata"]["ownerReferences"][0]["uid"] if job else None


def test_a_crash_is_tried_again_and_bad_data_is_not(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full")
    pod = node.start_pod(node.job("full-prepare-1"))
    node.end_pod(pod, 139)
    status = runs.until("full", restarts=1)
    assert status["attempts"][0]["reason"] == "Crashed"
    eventually("the run says when", lambda: runs.status("full")["message"].startswith("tries again in"))
    pod = node.start_pod(node.job("full-prepare-2"))
    node.end_pod(pod, ExitCode.BAD_DATA, "data/labels holds no label that can be read")
    status = runs.until("full", phase="Failed", message="data/labels holds no label that can be read")
    assert runs.conditions("full")["Succeeded"] == ("False", "BadData")
    assert runs.conditions("full")["Finished"] == ("True", "Failed")
    assert [(a["number"], a["reason"], a["exitCode"]) for a in status["attempts"]] == [
        (1, "Crashed", 139),
        (2, "BadData", 11),
    ]


def test_gpu_memory_that_ran_out_is_tried_again_with_half_the_batch(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full")
    node.complete("full-prepare-1")
    pod = node.start_pod(node.job("full-train-1"))
    node.report(pod, training=TrainingProgress(epochs=120, batch=11), outcome=AttemptReason.GPU_OUT_OF_MEMORY)
    node.end_pod(pod, ExitCode.GPU_OUT_OF_MEMORY)
    job = node.job("full-train-2")
    assert task_of(job)["batch"] == 5
    assert runs.until("full", batch=5)["restarts"] == 1


def task_of(job: Document) -> Document:
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    found: Document = json.loads(next(e["value"] for e in environment if e["name"] == "AZAION_TASK"))
    return found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, "must be less than or equal to cpu limit"),
        ({"nodeSelector": {"not a key": "x"}}, "not a key"),
    ],
    ids=["requests above limits", "a label key that is none"],
)
def test_a_spec_that_makes_no_job_fails_the_run_in_the_api_servers_words(
    operator: Operator, node: Node, runs: Runs, wrong: dict[str, Any], words: str
) -> None:
    node.report_storage()
    runs.create("full", **wrong)
    status = runs.until("full", phase="Failed")
    assert words in status["message"]
    assert runs.conditions("full")["Succeeded"] == ("False", "BadSpec")
    version = runs.get("full")["metadata"]["resourceVersion"]
    runs.create("next")
    node.job("next-prepare-1")
    assert runs.get("full")["metadata"]["resourceVersion"] == version, "it is written again and again"
    assert "full-prepare-1" not in node.names("jobs")


def test_a_missing_image_is_said_and_waited_for(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full")
    pod = node.bound_pod(node.job("full-prepare-1"))
    waiting = {"reason": "ErrImageNeverPull", "message": "it is not present with pull policy of Never"}
    node.set_pod(pod, "Pending", {"waiting": waiting})
    runs.until(
        "full",
        phase="Running",
        message=f"the image {IMAGE} cannot be had (it is not present with pull policy of Never)",
    )
    assert runs.conditions("full")["DatasetReady"] == ("Unknown", "ImageUnavailable")
    node.set_pod(pod, "Running", {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}})
    runs.until("full", message="starts to form the data set")
    assert node.names("jobs") == ["full-prepare-1"]


def test_suspending_ends_the_pod_gracefully_and_resuming_goes_on(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    node.complete("full-prepare-1")
    pod = node.start_pod(node.job("full-train-1"))
    runs.patch("full", suspend=True)
    eventually(
        "the Job is being deleted",
        lambda: (node.get("jobs", "full-train-1") or {}).get("metadata", {}).get("deletionTimestamp"),
    )
    assert runs.until("full", phase="Running", message="saves what it has, to be suspended")
    node.end_pod(pod, ExitCode.PREEMPTED, "saved after 3 epochs")
    node.remove(pod)
    status = runs.until("full", phase="Suspended")
    assert [(a["stage"], a["reason"], a["message"]) for a in status["attempts"][1:]] == [
        ("train", "Preempted", "saved after 3 epochs")
    ]
    runs.create("next")
    node.job("next-prepare-1")
    other = node.bound_pod(node.job("next-prepare-1"))
    runs.patch("full", suspend=False)
    runs.until("full", phase="Queued", message="place 1 in the queue: run next is at the device")
    namespace.api.output("delete", "tr", "-n", namespace.name, "next")
    node.remove(other)
    assert task_of(node.job("full-train-2"))["attempt"] == 2
    assert runs.until("full", phase="Running")["restarts"] == 0


def test_more_epochs_reach_the_training_through_a_graceful_restart(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full", training={"epochs": 10})
    node.complete("full-prepare-1")
    pod = node.start_pod(node.job("full-train-1"))
    runs.patch("full", training={"epochs": 20})
    eventually(
        "the Job is being deleted",
        lambda: (node.get("jobs", "full-train-1") or {}).get("metadata", {}).get("deletionTimestamp"),
    )
    node.end_pod(pod, ExitCode.PREEMPTED)
    node.remove(pod)
    assert task_of(node.job("full-train-2"))["spec"]["training"]["epochs"] == 20


def test_a_rejected_model_is_not_published(operator: Operator, node: Node, runs: Runs, namespace: Namespace) -> None:
    node.report_storage()
    runs.create("good")
    node.complete_run("good")
    runs.until("good", phase="Succeeded")
    eventually("the line has its model", lambda: "current" in namespace.get(Kind.MODEL_LINE, "azaion")["status"])
    runs.create("worse")
    node.complete("worse-prepare-1")
    node.complete("worse-train-1")
    job = node.job("worse-evaluate-1")
    assert task_of(job)["currentModel"] == "models/good/azaion.pt"
    pod = node.start_pod(job)
    scores = {"map50": "0.5", "map50to95": "0.6", "precision": "0.5", "recall": "0.5", "f1": "0.5"}
    better = {**scores, "map50to95": "0.7"}
    node.report(pod, outcome=AttemptReason.COMPLETED, evaluation=evaluation(scores, better))
    node.end_pod(pod)
    status = runs.until("worse", phase="Succeeded")
    assert status["promotion"] == {
        "decision": "Rejected",
        "reason": "test mAP50-95 0.6 against 0.7 of the current model: a gain of -0.1, minGain is 0",
    }
    assert runs.conditions("worse")["Published"] == ("False", "Rejected")
    assert "worse-publish-1" not in node.names("jobs")
    assert namespace.get(Kind.MODEL_LINE, "azaion")["status"]["current"]["run"] == "good"


def evaluation(new: dict[str, str], current: dict[str, str]) -> EvaluationStatus:
    return msgspec.convert({"new": new, "current": current, "images": 10}, EvaluationStatus)


def test_a_report_deleted_under_a_working_pod_is_made_again(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    pod = node.start_pod(node.job("full-prepare-1"))
    namespace.api.output("delete", "configmap", "-n", namespace.name, "full-run-report")
    eventually("the report is there again", lambda: node.get("configmaps", "full-run-report"))
    node.report(pod, progress=Progress(activity="reading 100 images"))
    runs.until("full", message="forms the data set: reading 100 images")


def test_rights_that_an_operator_died_before_giving_are_given_by_the_next_one(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    node.start_pod(node.job("full-prepare-1"))

    def rights() -> list[str]:
        given = ("-n", namespace.name, "-l", "azaion.com/training-run=full", "-o", "name")
        return sorted(namespace.api.output("get", "role,rolebinding", *given).split())

    wanted = [
        "role.rbac.authorization.k8s.io/full-run",
        "rolebinding.rbac.authorization.k8s.io/full-run",
    ]
    eventually("the pod has its rights", lambda: rights() == wanted)
    operator.kill()
    namespace.api.output("delete", "-n", namespace.name, *wanted)
    operator.start()
    eventually("it has them again", lambda: rights() == wanted)


def test_a_job_deleted_by_hand_is_followed_by_the_next_attempt(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    pod = node.start_pod(node.job("full-prepare-1"))
    namespace.api.output("delete", "job", "-n", namespace.name, "full-prepare-1")
    runs.until("full", message="waits until its last pod has ended")
    node.end_pod(pod, ExitCode.PREEMPTED)
    node.remove(pod)
    node.job("full-prepare-2")
    eventually("the attempt is told", lambda: runs.status("full")["attempts"][0].get("reason") == "Preempted")
    assert runs.status("full")["restarts"] == 0


def test_a_finished_runs_children_are_never_made_again(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("full")
    node.complete_run("full")
    runs.until("full", phase="Succeeded")
    namespace.api.output(
        "delete",
        "job,pod,configmap",
        "-n",
        namespace.name,
        "-l",
        "azaion.com/training-run=full",
        "--force",
        "--grace-period=0",
    )
    operator.kill()
    operator.start()
    # A run that comes after shows that the operator has been through everything there was.
    runs.create("after")
    node.job("after-prepare-1")
    assert [name for name in node.names("jobs") if name.startswith("full")] == []
    assert runs.status("full")["phase"] == "Succeeded"


def test_a_finished_run_is_deleted_after_its_time(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    runs.create("short-lived", ttlSecondsAfterFinished=0)
    node.complete_run("short-lived")
    path = namespace.path(Kind.TRAINING_RUN, "short-lived")
    eventually("the run is gone", lambda: namespace.api.request("GET", path).status == 404)
    assert namespace.get(Kind.MODEL_LINE, "azaion")["status"]["current"]["run"] == "short-lived"


def test_nothing_is_written_while_nothing_changes(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    runs.create("full")
    pod = node.start_pod(node.job("full-prepare-1"))
    node.report(pod, progress=Progress(activity="reading", remaining_seconds=60))
    runs.until("full", message="forms the data set: reading")
    runs.create("queued")
    runs.until("queued", phase="Queued")
    said = eventually("the queue says until when", lambda: " until about " in runs.status("queued")["message"])
    assert said
    assert runs.status("queued")["message"].startswith("place 1 in the queue: run full is at the device until about ")
    before = {name: runs.get(name) for name in ("full", "queued")}
    operator.kill()
    operator.start()
    # Of two runs made in the same second the names decide, and this one is to be behind.
    runs.create("queued-later")
    runs.until("queued-later", phase="Queued")
    for name, state in before.items():
        assert without_managers(runs.get(name)) == without_managers(state)


def without_managers(run: Document) -> Document:
    return {**run, "metadata": {k: v for k, v in run["metadata"].items() if k != "managedFields"}}


def test_an_operator_that_is_killed_again_and_again_never_lets_two_at_the_device_and_loses_no_run(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    names = [f"run-{n}" for n in range(4)]
    node.report_storage()
    endings = (0, 0, 0, 0, ExitCode.PREEMPTED)
    with busy(namespace, endings, seed=7) as worker:
        for name in names:
            runs.create(name)

        def all_over() -> bool:
            return all(runs.status(name).get("phase") == "Succeeded" for name in names)

        for _ in range(3):
            made = worker.pods_made
            eventually("pods come and go", lambda made=made: worker.pods_made > made + 2 or all_over(), 60)  # type: ignore[misc]
            operator.kill()
            operator.start()
        eventually("all runs are over", all_over, 200, lambda: str([runs.status(n).get("message") for n in names]))
    assert worker.overlaps == []
    for name in names:
        status = runs.status(name)
        done = [(a["stage"], a["reason"]) for a in status["attempts"] if a["reason"] == "Completed"]
        assert done == [(stage.value, "Completed") for stage in RUN_STAGES]
        numbers = {stage: [a["number"] for a in status["attempts"] if a["stage"] == stage] for stage in RUN_STAGES}
        assert all(found == list(range(1, len(found) + 1)) for found in numbers.values()), numbers
    iterations = sorted(runs.status(name)["iteration"] for name in names)
    assert iterations == list(range(1, len(names) + 1))


def test_a_stored_run_that_can_no_longer_be_read_is_said_and_the_others_go_on(
    operator: Operator, node: Node, runs: Runs, namespace: Namespace
) -> None:
    node.report_storage()
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingruns.azaion.com"
    original = namespace.api.request("GET", crd).object
    with_any = json.loads(json.dumps(original))
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    with_any["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything
    try:
        namespace.api.request("PUT", crd, with_any).object  # noqa: B018 - it has to succeed
        body = {"training": {"epochs": "many"}}
        eventually("a broken run is stored", lambda: namespace.create(Kind.TRAINING_RUN, "broken", body).status == 201)
        status = runs.until("broken", phase="Pending")
        assert status["message"].startswith(
            "this operator cannot read the stored object: Expected `int`, got `str` - at `$.spec.training.epochs`"
        )
    finally:
        current = namespace.api.request("GET", crd).object
        current["spec"] = original["spec"]
        namespace.api.request("PUT", crd, current).object  # noqa: B018
    runs.create("fine")
    node.job("fine-prepare-1")
    version = runs.get("broken")["metadata"]["resourceVersion"]
    runs.until("fine", phase="Running")
    assert runs.get("broken")["metadata"]["resourceVersion"] == version


def test_sigterm_ends_the_operator_at_once_and_the_next_one_need_not_wait(
    operator: Operator, node: Node, runs: Runs
) -> None:
    node.report_storage()
    runs.create("full")
    node.job("full-prepare-1")
    assert operator.stop() < 5
    holder = any_lease(runs)["spec"].get("holderIdentity")
    assert not holder
    operator.start()
    node.complete("full-prepare-1")
    node.job("full-train-1")


def any_lease(runs: Runs) -> dict[str, Any]:
    namespace = runs._namespace
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace.name}/leases/azaion-operator"
    return namespace.api.request("GET", path).object


def test_a_standby_takes_over_when_the_acting_operator_is_gone(
    operator: Operator, namespace: Namespace, node: Node, runs: Runs, tmp_path: Path
) -> None:
    directory = tmp_path / "standby"
    directory.mkdir()
    standby = Operator(namespace, directory)
    standby.pod_uid = "standby-pod"
    standby.start()
    try:
        assert any_lease(runs)["spec"]["holderIdentity"] == "operator-pod"
        operator.kill()
        node.report_storage()
        runs.create("full")
        eventually("the standby makes the Job", lambda: node.get("jobs", "full-prepare-1"), 40, lambda: standby.log)
        assert any_lease(runs)["spec"]["holderIdentity"] == "standby-pod"
    finally:
        standby.kill()


def test_an_operator_that_slept_through_the_end_of_its_lease_acts_on_nothing_it_knew(
    operator: Operator, namespace: Namespace, node: Node, runs: Runs, tmp_path: Path
) -> None:
    directory = tmp_path / "standby"
    directory.mkdir()
    standby = Operator(namespace, directory)
    standby.pod_uid = "standby-pod"
    standby.start()
    by_holder = {"operator-pod": operator, "standby-pod": standby}
    moments = random.Random(5)
    names: list[str] = []
    node.report_storage()
    try:
        with busy(namespace, (0, 0, 0, ExitCode.PREEMPTED), seed=3) as worker:
            for _ in range(3):
                names += (again := [f"run-{len(names)}", f"run-{len(names) + 1}"])
                for name in again:
                    runs.create(name)
                enough = worker.pods_made + moments.randint(1, 4)
                eventually("pods come and go", lambda enough=enough: worker.pods_made >= enough, 60)  # type: ignore[misc]
                time.sleep(moments.uniform(0, 0.05))
                holder = any_lease(runs)["spec"]["holderIdentity"]
                sleeper = by_holder[holder]
                os.kill(sleeper.pid, signal.SIGSTOP)
                made = worker.pods_made
                try:
                    eventually("the other one acts", lambda made=made: worker.pods_made > made + 1, 60)  # type: ignore[misc]
                    assert any_lease(runs)["spec"]["holderIdentity"] != holder
                finally:
                    os.kill(sleeper.pid, signal.SIGCONT)

            def all_over() -> bool:
                return all(runs.status(name).get("phase") == "Succeeded" for name in names)

            eventually("all runs are over", all_over, 100, lambda: str([runs.status(n).get("message") for n in names]))
        assert worker.overlaps == []
        attempts = {name: runs.status(name)["attempts"] for name in names}
        for name in names:
            done = [a["stage"] for a in attempts[name] if a["reason"] == "Completed"]
            assert done == [stage.value for stage in RUN_STAGES]
        # Nothing was made that nobody knows of.
        assert worker.pods_made == sum(map(len, attempts.values()))
    finally:
        standby.kill()


def test_probes_and_metrics_answer(operator: Operator, node: Node, runs: Runs) -> None:
    node.report_storage()
    for name in ("a", "b", "c"):
        runs.create(name)
    runs.until("c", message="place 2 in the queue: run a is at the device")
    assert operator.probe("/livez") == (200, "ok\n")
    lines = operator.probe("/metrics")[1].splitlines()
    assert [line for line in lines if line.startswith("azaion_operator_queue_length")] == [
        "azaion_operator_queue_length 2.0"
    ]
    assert "azaion_operator_leader 1.0" in lines


def test_a_clock_that_moves_by_an_hour_forth_and_back_costs_a_training_nothing(
    operator: Operator, node: Node, runs: Runs, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    operator.kill()
    operator.environment = faketime.environment(faketime.library(), clock)
    try:
        operator.start()
        node.report_storage()
        runs.create("full", training={"epochs": 9})
        node.complete("full-prepare-1")
        pod = node.start_pod(node.job("full-train-1"))
        for epoch, offset in enumerate(("+0", "+1h", "+0", "-1h", "+0"), start=1):
            clock.write_text(f"{offset}\n")
            node.report(pod, training=TrainingProgress(completed_epochs=epoch, epochs=9))
            runs.until("full", completedEpochs=epoch, phase="Running")
        # What an hour too early seemed to lie ahead is not waited for.
        node.end_pod(pod, ExitCode.CRASHED)
        runs.until("full", restarts=1)
        clock.write_text("-1h\n")
        runs.patch("full", priority=1)
        pod = node.start_pod(node.job("full-train-2"))
        status = runs.until("full", message="starts training, attempt 2")
        assert [a["reason"] for a in status["attempts"][:-1]] == ["Completed", "Crashed"]
        assert operator.probe("/livez")[0] == 200
    finally:
        operator.kill()
        operator.environment = {}
        operator.start()


def test_the_status_page_follows_a_run(operator: Operator, node: Node, runs: Runs) -> None:
    """Its figures and its curve come with the watches; the page asks for nothing."""
    node.report_storage()
    runs.create("paged", training={"epochs": 3})
    node.complete("paged-prepare-1")
    pod = node.start_pod(node.job("paged-train-1"))
    rows = tuple(EpochRow(epoch=n, seconds=60.0, train_loss=3.0 / n, map50=0.2 * n, map50to95=0.1 * n) for n in (1, 2))
    progress = TrainingProgress(completed_epochs=2, epochs=3, map50=0.4, map50to95=0.2, history=rows)
    node.report(pod, training=progress, progress=Progress(fraction=0.8, remaining_seconds=7200))

    def page(path: str, *words: str) -> str | None:
        status, text = operator.page(path)
        return text if status == 200 and all(word in text for word in words) else None

    eventually("the page shows the run", lambda: page("/", "/runs/paged", "2h00m", "trains epoch 3 of 3"))
    eventually("its curve is drawn", lambda: page("/runs/paged", "Validation mAP: mAP50-95 went from 0.100 at epoch 1"))
    assert operator.page("/runs/another")[0] == 404
