"""`kubectl azaion` with a real kubectl before a real API server, with a person's rights and with few."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_harness import eventually
from real_api import Document, Namespace

from azaion_api.names import Kind

CHECKPOINT = {"epoch": 3, "time": "2026-11-22T12:00:00Z", "path": "runs/full-1/checkpoints/x.pt", "sha256": "c" * 64}
FAILED: Document = {
    "phase": "Failed",
    "message": "the GPU fell off the bus",
    "completedEpochs": 3,
    "epochs": 120,
    "directory": "runs/full-1",
    "checkpoint": CHECKPOINT,
    "dataset": {"path": "datasets/azaion-2026-11-18", "train": 7, "valid": 2, "test": 1},
    "attempts": [
        {
            "pod": "full-train-1-x",
            "podUid": "u",
            "stage": "train",
            "number": 1,
            "started": "2026-11-22T10:00:00Z",
            "ended": "2026-11-22T12:00:00Z",
            "reason": "Crashed",
            "exitCode": 1,
            "message": "Xid 79",
        }
    ],
}


class Cli:
    """The command as a person types it."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.environment = namespace.api.environment

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "azaion_kubectl.cli", words[0], "-n", self.namespace.name, *words[1:]]

    def run(self, *words: str, code: int = 0) -> str:
        """Standard output, or the error when it ends with another code than 0."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=120, check=False, env=self.environment
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if done.returncode in (0, 2) or not done.stderr else done.stderr

    def spec(self, kind: Kind, name: str) -> Document:
        found: Document = self.namespace.get(kind, name).get("spec", {})
        return found


@pytest.fixture
def cli(namespace: Namespace) -> Cli:
    return Cli(namespace)


def make(namespace: Namespace, name: str, spec: object = None, status: Document | None = None) -> None:
    assert namespace.create(Kind.TRAINING_RUN, name, spec if spec is not None else {}).status == 201
    if status is not None:
        assert namespace.patch_status(Kind.TRAINING_RUN, name, status).status == 200


def test_the_queue_is_told_in_order_and_as_json(cli: Cli) -> None:
    assert f"No run waits or trains in the namespace {cli.namespace.name}." in cli.run("queue")
    make(cli.namespace, "later", {"priority": -1}, {"phase": "Queued", "message": "place 2"})
    make(cli.namespace, "sooner", {}, {"phase": "Queued", "message": "place 1"})
    make(cli.namespace, "now", {}, {"phase": "Running", "epochColumn": "4/120"})
    make(cli.namespace, "done", {}, {"phase": "Succeeded"})
    shown = cli.run("queue").splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["now", "now"], ["1", "sooner"], ["2", "later"]]
    assert [found["run"] for found in json.loads(cli.run("queue", "-o", "json"))] == ["now", "sooner", "later"]


def test_a_run_is_described_with_its_attempts(cli: Cli) -> None:
    make(cli.namespace, "full", {}, FAILED)
    shown = cli.run("describe", "full")
    for words in ("full: Failed", "the GPU fell off the bus", "3 of 120", "Crashed", "Xid 79", "runs/full-1"):
        assert words in shown, shown
    assert json.loads(cli.run("describe", "full", "-o", "json"))["status"]["phase"] == "Failed"


def test_a_name_that_is_not_there_is_answered_with_those_that_are(cli: Cli) -> None:
    make(cli.namespace, "full")
    said = cli.run("describe", "ful", code=1)
    assert f"there is no TrainingRun ful in the namespace {cli.namespace.name}; there are: full" in said


def test_suspend_and_resume_change_one_field(cli: Cli) -> None:
    make(cli.namespace, "full", {"priority": 3}, {"phase": "Running"})
    assert "saves a checkpoint and frees the GPU" in cli.run("suspend", "full")
    assert cli.spec(Kind.TRAINING_RUN, "full")["suspend"] is True
    assert "is suspended already" in cli.run("suspend", "full")
    assert "goes on where it was" in cli.run("resume", "full")
    assert cli.spec(Kind.TRAINING_RUN, "full")["suspend"] is False
    assert cli.spec(Kind.TRAINING_RUN, "full")["priority"] == 3
    make(cli.namespace, "over", {}, FAILED)
    assert "kubectl azaion retry over" in cli.run("resume", "over", code=1)


def test_a_retry_is_a_new_run_that_the_api_server_accepts(cli: Cli) -> None:
    spec = {"training": {"epochs": 120, "batch": 4}, "publish": {"promotion": "Manual", "approved": True}}
    make(cli.namespace, "full", spec, FAILED)
    assert "full-r2 goes on from epoch 3 of full" in cli.run("retry", "full")
    made = cli.spec(Kind.TRAINING_RUN, "full-r2")
    assert made["training"]["resumeFrom"] == "runs/full-1"
    assert made["dataset"]["existing"] == "datasets/azaion-2026-11-18"
    assert (made["training"]["batch"], made["publish"]["approved"]) == (4, False)
    assert "full-r3" in cli.run("retry", "full")
    shown = json.loads(cli.run("retry", "full", "--dry-run", "--from-scratch", "--name", "other"))
    assert shown["metadata"]["name"] == "other"
    assert "resumeFrom" not in shown["spec"]["training"]
    make(cli.namespace, "busy", {}, {"phase": "Running"})
    assert "only a finished run is retried" in cli.run("retry", "busy", code=1)
    make(cli.namespace, "good", {}, {**FAILED, "phase": "Succeeded", "completedEpochs": 120})
    assert "give --epochs with more" in cli.run("retry", "good", code=1)
    cli.run("retry", "good", "--epochs", "150")
    assert cli.spec(Kind.TRAINING_RUN, "good-r2")["training"]["epochs"] == 150


def test_approval_is_given_where_it_is_waited_for(cli: Cli) -> None:
    waits = {"phase": "AwaitingApproval", "promotion": {"decision": "Waiting", "reason": "test mAP50-95 0.6; set it"}}
    make(cli.namespace, "full", {"publish": {"promotion": "Manual"}}, waits)
    assert "approved and is being published (test mAP50-95 0.6)" in cli.run("approve", "full")
    assert cli.spec(Kind.TRAINING_RUN, "full")["publish"]["approved"] is True
    make(cli.namespace, "auto", {})
    assert "only a run with Manual waits" in cli.run("approve", "auto", code=1)


def record(name: str) -> Document:
    head = {"name": name, "path": f"models/{name}/azaion.pt", "sha256": "d" * 64, "run": "full", "runUid": name}
    return {**head, "time": "2026-11-22T12:00:00Z", "map50to95": "0.58"}


def test_a_line_goes_back_holds_and_is_released(cli: Cli) -> None:
    newer, older = record("azaion-2026-11-20"), record("azaion-2026-11-01")
    assert cli.namespace.create(Kind.MODEL_LINE, "azaion", {}).status == 201
    status = {"current": newer, "previous": older, "history": [newer, older], "iteration": 2}
    assert cli.namespace.patch_status(Kind.MODEL_LINE, "azaion", status).status == 200
    shown = cli.run("models").splitlines()
    assert shown[1].split()[:3] == ["*", "azaion-2026-11-20", "0.58"]
    assert "goes from azaion-2026-11-20 to azaion-2026-11-01" in cli.run("rollback", "azaion")
    assert cli.spec(Kind.MODEL_LINE, "azaion")["pinnedModel"] == "azaion-2026-11-01"
    assert "is pinned to azaion-2026-11-01 already" in cli.run("rollback", "azaion", "azaion-2026-11-01")
    assert "is released from azaion-2026-11-01" in cli.run("rollback", "azaion", "--release")
    assert "pinnedModel" not in cli.spec(Kind.MODEL_LINE, "azaion")
    assert "azaion has no model x; it has: azaion-2026-11-20" in cli.run("rollback", "azaion", "x", code=1)


def test_watch_tells_every_change_until_the_end_and_ends_as_the_run_did(cli: Cli) -> None:
    trains = {"phase": "Running", "stage": "Training", "epochs": 3, "message": "trains epoch 1 of 3"}
    make(cli.namespace, "full", {}, trains)
    with subprocess.Popen(
        cli.command("watch", "full"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cli.environment
    ) as process:
        assert process.stdout is not None
        assert "trains epoch 1 of 3" in process.stdout.readline()
        lines: list[str] = []

        def patch(status: Document) -> None:
            assert cli.namespace.patch_status(Kind.TRAINING_RUN, "full", status).status == 200

        # kubectl may still be on its way to its watch; a change before that is in what the watch begins with.
        patch({"completedEpochs": 1, "message": "trains epoch 2 of 3", "metrics": {"map50to95": "0.5"}})
        while "epoch 1/3" not in (line := process.stdout.readline()):
            assert line, process.stderr.read() if process.stderr else ""
        lines.append(line)
        patch({"phase": "Failed", "stage": None, "message": "no space left"})
        lines += process.stdout.readlines()
        assert process.wait(30) == 1, process.stderr.read() if process.stderr else ""
    assert "mAP50-95 0.5" in lines[0]
    assert "no space left" in lines[-1]


def test_a_run_that_is_deleted_ends_the_watch_with_a_sentence(cli: Cli) -> None:
    make(cli.namespace, "full", {}, {"phase": "Running", "directory": "runs/full-1"})
    with subprocess.Popen(
        cli.command("watch", "full"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cli.environment
    ) as process:
        assert process.stdout is not None
        assert "Running" in process.stdout.readline()
        cli.namespace.api.request("DELETE", cli.namespace.path(Kind.TRAINING_RUN, "full"))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1, said
    assert "full was deleted; its files stay in runs/full-1" in said


def health(cli: Cli, *words: str) -> tuple[int, Document]:
    done = subprocess.run(
        cli.command("health", "-o", "json", *words),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=cli.environment,
    )
    assert done.stdout, done.stderr
    found: Document = json.loads(done.stdout)
    return done.returncode, found


def checks(found: Document) -> dict[str, Document]:
    return {check["name"]: check for check in found["checks"]}


def test_health_finds_what_is_missing_in_an_empty_namespace(cli: Cli) -> None:
    code, found = health(cli)
    assert code == found["exitCode"] == 2
    assert found["healthy"] is False
    by_name = checks(found)
    assert by_name["Operator"]["message"] == "there is no operator"
    assert by_name["Consumer"]["outcome"] == "Skipped"
    assert by_name["Storage"]["severity"] == "High"
    text = cli.run("health", code=2)
    assert "FAIL   Operator" in text
    assert "Operator (within 30 minutes): install the chart" in text


def test_health_reads_the_keys_of_a_secret_and_never_what_they_hold(cli: Cli) -> None:
    assert cli.namespace.create(Kind.ANNOTATION_INGEST, "annotations", {}).status == 201
    core = f"/api/v1/namespaces/{cli.namespace.name}/secrets"
    values = {"username": "dXNlcg==", "password": ""}
    body = {"metadata": {"name": "azaion-rabbitmq"}, "data": values}
    assert checks(health(cli)[1])["Credentials"]["message"] == "Secret azaion-rabbitmq does not exist"
    assert cli.namespace.api.request("POST", core, body).status == 201
    _, found = health(cli)
    assert checks(found)["Credentials"]["message"] == "Secret azaion-rabbitmq has no password"
    assert "dXNlcg" not in json.dumps(found)


def test_a_person_without_rights_is_told_so_and_health_is_unknown_not_bad(cli: Cli, tmp_path: Path) -> None:
    """Impersonation: the API server decides by the rights of somebody who has none."""
    document: dict[str, Any] = yaml.safe_load(Path(cli.environment["KUBECONFIG"]).read_text())
    for found in document["users"]:
        found["user"]["as"] = "eve"
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(document))
    config.chmod(0o600)
    cli.environment = {**cli.environment, "KUBECONFIG": str(config)}
    assert 'you may not do this: trainingruns.azaion.com is forbidden: User "eve"' in cli.run("queue", code=1)
    code, report = health(cli)
    assert code == 3
    assert {check["outcome"] for check in report["checks"]} == {"Unknown"}


def test_preflight_says_what_a_run_would_lack(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "apiVersion: azaion.com/v1alpha1\nkind: TrainingRun\nmetadata: {name: full}\n"
        "spec: {dataset: {split: {train: 50, valid: 20, test: 10}}}\n"
    )
    done = subprocess.run(
        cli.command("preflight", "-f", str(file), "-o", "json"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=cli.environment,
    )
    assert done.returncode == 2, done.stderr
    by_name = checks(json.loads(done.stdout))
    assert "have to sum to 100" in by_name["Spec"]["message"]
    assert by_name["Rights"]["outcome"] == "OK"
    assert by_name["Installed"]["outcome"] == "Failed"
    assert by_name["BaseModel"]["outcome"] == "Unknown"
    runs = cli.namespace.api.request("GET", cli.namespace.path(Kind.TRAINING_RUN)).object["items"]
    assert runs == [], "a preflight stores nothing"


def test_kubectl_finds_the_command_as_its_plugin_and_completes_it(cli: Cli) -> None:
    make(cli.namespace, "full")
    scripts = str(Path(sys.executable).parent)
    environment = {**cli.environment, "PATH": f"{scripts}{os.pathsep}{cli.environment['PATH']}"}

    def kubectl(*words: str) -> str:
        done = subprocess.run(
            ["kubectl", *words], capture_output=True, text=True, timeout=120, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "full" in kubectl("azaion", "queue", "-n", cli.namespace.name) + kubectl(
        "azaion", "describe", "full", "-n", cli.namespace.name
    )
    assert kubectl("__complete", "azaion", "wat").splitlines()[0] == "watch"
    offered = eventually(
        "completion offers the run",
        lambda: kubectl("__complete", "azaion", "-n", cli.namespace.name, "watch", "").splitlines(),
    )
    assert "full" in offered
