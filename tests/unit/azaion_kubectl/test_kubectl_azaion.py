"""`kubectl azaion`: what is decided without a cluster. What needs one is tested against a real API server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubectl_make as make
import pytest
from rich.console import Console

from azaion_api.facts import Facts
from azaion_api.health import Outcome
from azaion_api.report import EpochRow, Progress, RunReport
from azaion_api.training_run import Stage
from azaion_kubectl import health, lines
from azaion_kubectl.access import Kubectl, failure, objects_in
from azaion_kubectl.cli import build_parser, main, parse
from azaion_kubectl.completion import SCRIPTS, candidates
from azaion_kubectl.errors import CommandError, ForbiddenError, NotFoundError, UnreachableError
from azaion_kubectl.logs import parts_of, readable
from azaion_kubectl.runs import next_name, queue_order, retried
from azaion_kubectl.screen import Screen, sparkline
from azaion_kubectl.watch import Reports, line_of, picture, progress_of

ROOT = Path(__file__).resolve().parents[3]


def screen(*, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    width = 100 if terminal else 10000
    return Screen(Console(file=out, force_terminal=terminal, width=width, highlight=False, color_system=None)), out


# ---- queue ----


def test_the_queue_is_by_priority_then_age_with_the_running_first_and_finished_left_out() -> None:
    runs = [
        make.run("young", phase="Queued", age_s=10),
        make.run("old", phase="Queued", age_s=1000),
        make.run("urgent", spec={"priority": 5}, phase="Queued", age_s=1),
        make.run("done", phase="Succeeded"),
        make.run("asks", phase="AwaitingApproval"),
        make.run("trains", phase="Running"),
        make.run("new"),
    ]
    order = [(place, run.metadata.name) for place, run in queue_order(runs)]
    assert order[:4] == [(0, "trains"), (1, "urgent"), (2, "old"), (3, "young")]
    assert set(order[4:]) == {(None, "asks"), (None, "new")}


# ---- retry ----


@pytest.mark.parametrize(
    ("name", "taken", "wanted"),
    [
        ("full", ["full"], "full-r2"),
        ("full", ["full", "full-r2"], "full-r3"),
        ("full-r2", ["full-r2"], "full-r3"),
        ("a" * 40, [], "a" * 37 + "-r2"),
        ("a" * 36 + "-bcd", [], "a" * 36 + "-r2"),
    ],
)
def test_a_retry_gets_the_next_free_name(name: str, taken: list[str], wanted: str) -> None:
    assert next_name(name, taken) == wanted
    assert len(wanted) <= 40


FAILED = {
    "phase": "Failed",
    "directory": "runs/full-uid8",
    "checkpoint": make.checkpoint(),
    "dataset": {"path": "datasets/azaion-2026-11-18", "train": 7, "valid": 2, "test": 1},
}


def retry(spec: dict[str, Any], status: dict[str, Any], **options: Any) -> dict[str, Any]:
    raw = make.raw_run(spec=spec, **status)
    values = {"epochs": None, "from_scratch": False} | options
    found: dict[str, Any] = retried(raw, make.run(spec=spec, **status), "full-r2", **values)["spec"]
    return found


def test_a_retry_takes_over_checkpoint_and_data_set_and_keeps_everything_else() -> None:
    spec = {
        "training": {"epochs": 120, "batch": 11},
        "publish": {"promotion": "Manual", "approved": True},
        "suspend": True,
        "fieldOfANewerVersion": {"deep": [1]},
    }
    assert retry(spec, FAILED) == {
        "training": {"epochs": 120, "batch": 11, "resumeFrom": "runs/full-uid8"},
        "dataset": {"existing": "datasets/azaion-2026-11-18"},
        "publish": {"promotion": "Manual"},
        "fieldOfANewerVersion": {"deep": [1]},
    }
    assert "approved" in spec["publish"], "the old run's spec is not changed"


def test_a_retry_of_a_run_that_saved_nothing_begins_anew() -> None:
    assert retry({"training": {"epochs": 3}}, {"phase": "Failed"}) == {"training": {"epochs": 3}}


def test_a_retry_from_scratch_forms_a_new_data_set_and_more_epochs_can_be_asked_for() -> None:
    spec = {"training": {"resumeFrom": "runs/older"}}
    assert retry(spec, FAILED, from_scratch=True, epochs=200) == {"training": {"epochs": 200}}


# ---- watch ----

HISTORY = [EpochRow(epoch=n, seconds=60, train_loss=4 / n, map50=0.9, map50to95=n / 100) for n in range(1, 47)]
TRAINS = {
    "phase": "Running",
    "stage": "Training",
    "message": "trains epoch 47 of 120",
    "completedEpochs": 46,
    "epochs": 120,
    "timeLeft": "7d2h",
    "metrics": {"map50": "0.83", "map50to95": "0.57", "trainLoss": "1.2", "losses": {"val/box": "0.9"}},
    "best": {"epoch": 44, "map50to95": "0.58"},
    "checkpoint": make.checkpoint(),
    "restarts": 1,
}


def test_a_pipe_gets_one_line_a_state() -> None:
    assert line_of(make.run(**TRAINS)) == (
        "Running  Training  epoch 46/120  mAP50-95 0.57 loss 1.2  7d2h left  trains epoch 47 of 120"
    )
    assert line_of(make.run()) == "New"


def test_the_picture_shows_progress_figures_and_curves() -> None:
    shown, out = screen(terminal=True)
    shown.console.print(picture(make.run(**TRAINS), Reports(HISTORY, None)))
    text = out.getvalue()
    for words in (
        "full  Running",
        "38%",
        "epoch 46 of 120",
        "7d2h left",
        "0.57",
        "▁",
        "█",
        "val/box 0.9",
        "in epoch 44",
    ):
        assert words in text, (words, text)


def test_progress_within_an_epoch_comes_from_the_pods_report() -> None:
    report = RunReport(pod_uid="u", sequence=1, time=make.NOW, stage=Stage.TRAINING, progress=Progress(fraction=0.41))
    assert progress_of(make.run(**TRAINS), report) == (0.41, "epoch 46 of 120")
    assert progress_of(make.run(**TRAINS), None)[0] == pytest.approx(46 / 120)
    assert progress_of(make.run(phase="Succeeded", completedEpochs=3, epochs=3), None) == (1.0, "3 epochs")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([5, 5, 5], "▄▄▄"),
        ([None, float("nan"), 1.0], "▄"),
        ([], ""),
        (range(1000), "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_shows_the_shape(values: Any, line: str) -> None:
    assert sparkline(list(values), 8) == line


def test_objects_of_a_watch_are_told_apart() -> None:
    objects = [{"n": 1, "text": "}\n{"}, {"n": 2}]
    text = "".join(json.dumps(found, indent=4) + "\n" for found in objects)
    assert list(objects_in(io.StringIO(text))) == objects


# ---- logs ----


def pod(stage: str, number: int, uid: str, made_s: float) -> dict[str, Any]:
    labels = {"azaion.com/stage": stage, "azaion.com/attempt": str(number)}
    return {
        "metadata": {
            "name": f"full-{stage}-{number}-x",
            "uid": uid,
            "labels": labels,
            "creationTimestamp": make.at(made_s),
        }
    }


def test_logs_go_over_all_attempts_also_those_whose_pod_is_gone() -> None:
    run = make.run(
        attempts=[
            make.attempt("prepare", ended=make.at(500), reason="Completed"),
            make.attempt("train", 1, ended=make.at(300), reason="NodeLost"),
        ]
    )
    pods = [pod("train", 2, "train-2", 100), pod("prepare", 1, "prepare-1", 600)]
    found = [(part.stage, part.number, part.there) for part in parts_of(run, pods, None)]
    assert found == [("prepare", 1, True), ("train", 1, False), ("train", 2, True)]
    assert [part.number for part in parts_of(run, pods, "train")] == [1, 2]
    assert "NodeLost" in parts_of(run, pods, "train")[0].title


def test_a_line_of_the_log_is_made_readable_and_any_other_is_left_as_it_is() -> None:
    line = {
        "timestamp": "2026-11-22T12:00:00.000Z",
        "level": "WARN",
        "service": "azaion-trainer",
        "message": "slow [disk]",
        "context": {"logger": "x", "epoch": 4, "trace": "Traceback"},
    }
    assert readable(json.dumps(line)).plain == "2026-11-22T12:00:00.000Z WARN  slow [disk]  epoch=4\nTraceback"
    for other in ("plain text", "[1, 2]", '{"message": "no time"}', "null"):
        assert readable(f"{other}\n").plain == other


# ---- lines ----


def test_going_back_takes_the_model_before_or_one_that_is_named() -> None:
    line = make.line(make.record("c"), make.record("b"), make.record("a"))
    assert lines._wanted(line, None).name == "b"
    assert lines._wanted(line, "a").name == "a"
    with pytest.raises(CommandError, match="azaion has no model x; it has: c, b, a"):
        lines._wanted(line, "x")
    with pytest.raises(CommandError, match="nothing to go back to"):
        lines._wanted(make.line(make.record("c")), None)


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("models/azaion-2026-11-01/azaion.pt", True),
        ("models/../../etc/passwd", False),
        ("/etc/passwd", False),
        ("models/a;rm -rf x", False),
        ("-n", False),
    ],
)
def test_only_files_below_the_storage_root_are_copied(path: str, safe: bool) -> None:
    assert lines._is_safe(path) is safe


# ---- errors ----


@pytest.mark.parametrize(
    ("said", "type_", "words"),
    [
        ('Error from server (NotFound): trainingruns.azaion.com "x" not found', NotFoundError, "not found"),
        (
            'Error from server (Forbidden): pods is forbidden: User "eve" cannot list',
            ForbiddenError,
            'you may not do this: pods is forbidden: User "eve" cannot list',
        ),
        (
            "E1123 03:11:10.36 2 memcache.go:265] noise\nThe connection to the server localhost:8080 was refused - did",
            UnreachableError,
            "there is no cluster to ask; set KUBECONFIG",
        ),
        ("Unable to connect to the server: dial tcp: no route to host", UnreachableError, "is the cluster up"),
        ("error: current-context is not set", UnreachableError, "set KUBECONFIG"),
        ("The TrainingRun is invalid:\n spec: too bad", CommandError, "The TrainingRun is invalid: spec: too bad"),
    ],
)
def test_kubectls_words_become_a_sentence_without_its_noise(said: str, type_: type[Exception], words: str) -> None:
    error = failure(said)
    assert type(error) is type_
    assert words in str(error)
    assert "memcache" not in str(error)


def test_without_kubectl_it_says_so() -> None:
    with pytest.raises(CommandError, match="kubectl is not on the PATH"):
        Kubectl("azaion", program="kubectl-that-is-not-there").run("get", "pods")


def test_a_cluster_that_is_not_there_is_an_error_with_a_way_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "kubectl"
    stub.write_text("#!/bin/sh\necho 'error: current-context is not set' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["queue"]) == 1
    assert main(["health"]) == 3, "what could not be checked is not healthy"
    assert "kubectl azaion queue: there is no cluster to ask" in capsys.readouterr().err


# ---- completion ----


class Named(Kubectl):
    """Names as a cluster would give them; nothing else is asked of it."""

    def names(self, kind: Any) -> tuple[str, ...]:
        return {"TrainingRun": ("full", "fast"), "ModelLine": ("azaion",)}[kind.value]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["wa"], ["watch"]),
        (["watch", "f"], ["fast", "full"]),
        (["watch", "full", ""], []),
        (["-n", "other", "re"], ["resume", "retry"]),
        (["rollback", ""], ["azaion"]),
        (["cp", ""], ["azaion", "run/fast", "run/full"]),
        (["cp", "azaion", "--format", ""], ["onnx", "pytorch", "rknn", "tensorrt"]),
        (["logs", "--st"], ["--stage"]),
        (["logs", "--stage", "t"], ["train"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
    ],
)
def test_what_may_follow_is_offered(words: list[str], found: list[str]) -> None:
    assert candidates(build_parser(), words, Named("azaion")) == found


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_completion_script_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "__complete" in capsys.readouterr().out


def test_the_script_for_bash_is_bash() -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS["bash"], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- command line ----


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["cp", "run/full", "--format", "onnx", "./"], "destination", "./"),
        (["cp", "--format", "onnx", "run/full", "./"], "destination", "./"),
        (["cp", "azaion"], "destination", None),
        (["rollback", "azaion", "-n", "other", "older"], "model", "older"),
    ],
)
def test_options_and_words_may_stand_in_any_order(words: list[str], name: str, value: str | None) -> None:
    assert getattr(parse(words), name) == value


@pytest.mark.parametrize("words", [["cp", "a", "b", "c"], ["queue", "extra"], ["watch", "a", "--no-such"], []])
def test_what_is_too_much_or_too_little_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


# ---- output ----


def test_a_table_in_a_pipe_has_no_colours_no_frames_and_no_folded_lines() -> None:
    shown, out = screen()
    shown.table(("RUN", "MESSAGE"), [("full", "x" * 300), ("[bold]b[/]", "short")])
    lines_ = out.getvalue().splitlines()
    assert len(lines_) == 3
    assert lines_[0] == "RUN          MESSAGE"
    assert lines_[1].endswith("x" * 300)
    assert lines_[2] == "[bold]b[/]   short"


# ---- preflight ----


def test_without_the_storage_pods_word_the_base_model_is_unknown() -> None:
    spec = make.run().spec
    assert health._base_model(Facts(now=make.NOW), spec).outcome is Outcome.UNKNOWN


# ---- packaging ----


@pytest.mark.slow
def test_the_wheel_brings_everything_it_needs_and_starts(tmp_path: Path) -> None:
    project = ROOT / "operator" / "kubectl"
    build = [
        str(Path(sys.executable).parent / "uv"),
        "build",
        "--wheel",
        "--no-build-isolation",
        "-q",
        "-o",
        str(tmp_path),
    ]
    subprocess.run([*build, "--python", sys.executable, str(project)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("kubectl_azaion-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert "azaion_api/training_run.py" in names
    assert not any(name.startswith(("azaion_operator", "azaion_trainer")) for name in names)
    done = subprocess.run(
        [sys.executable, "-c", "import azaion_kubectl.cli, azaion_api; print(azaion_api.__file__)"],
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().startswith(str(tmp_path))
