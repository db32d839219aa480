"""Two runs side by side, whatever of them is left."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from azaion_api.layout import Layout
from azaion_api.training_run import EvaluationStatus, Scores
from azaion_trainer.cli import main
from azaion_trainer.model_card import EVALUATION_FILE, EvaluationRecord

SCORES = Scores(map50="0.9", map50to95="0.61", precision="0.8", recall="0.7", f1="0.75")


def add_run(layout: Layout, name: str, maps: list[float], *, judged: bool = True, **arguments: object) -> Path:
    directory = layout.runs / name
    (directory / "train").mkdir(parents=True)
    rows = [f"{number},{value + 0.2},{value}" for number, value in enumerate(maps, start=1)]
    head = "epoch, metrics/mAP50(B),metrics/mAP50-95(B)"
    (directory / "train" / "results.csv").write_text("\n".join([head, *rows]) + "\n")
    text = "".join(f"{key}: {value}\n" for key, value in {"save_dir": name, "epochs": 3, **arguments}.items())
    (directory / "train" / "args.yaml").write_text(text)
    if judged:
        (directory / "evaluation").mkdir()
        record = EvaluationRecord(
            sha256="0",
            evaluation=EvaluationStatus(new=SCORES, images=16, hard_samples=3),
            per_class={"disc": 0.5, f"only-{name[:1]}": 0.25},
            split="test",
        )
        (directory / "evaluation" / EVALUATION_FILE).write_bytes(msgspec.json.encode(record))
    return directory


def test_two_runs_stand_side_by_side(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(layout, "a-11111111", [0.1, 0.3, 0.2], lr0=0.01, batch=8)
    add_run(layout, "b-22222222", [0.4], judged=False, lr0=0.02, batch=8)
    assert main(["compare", "runs/a-11111111", "b", "--root", str(layout.root)]) == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines[""][-2:] == ["a-11111111", "b-22222222"]
    assert lines["epochs"][-2:] == ["3", "1"]
    assert lines["best epoch, mAP50-95"][-4:] == ["2,", "0.30000", "1,", "0.40000"]
    assert lines["last epoch, mAP50-95"][-2:] == ["0.20000", "0.40000"]
    assert lines["test map50to95"][-2:] == ["0.61", "-"]
    assert lines["test mAP50-95 of disc"][-2:] == ["0.50000", "-"]
    assert lines["lr0"][-2:] == ["0.01", "0.02"]
    assert "batch" not in lines
    assert "save_dir" not in lines


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing", "nothing is not there; runs/ holds a-11111111, a-22222222"),
        ("a", "a may be a-11111111 or a-22222222; name one of them"),
        ("../data", "is no run"),
        ("", "is no run"),
        ("runs/../../etc", "is no run"),
    ],
)
def test_a_run_that_cannot_be_found_is_said(
    layout: Layout, capsys: pytest.CaptureFixture[str], given: str, message: str
) -> None:
    add_run(layout, "a-11111111", [0.1])
    add_run(layout, "a-22222222", [0.1])
    assert main(["compare", "a-11111111", given, "--root", str(layout.root)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "garbage", "epoch\nx\n", "a: [", "\x00\x00"])
def test_files_that_say_nothing_are_no_reason_to_fail(
    layout: Layout, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    for name in ("a-11111111", "b-22222222"):
        directory = add_run(layout, name, [0.1])
        for file in ("train/results.csv", "train/args.yaml", f"evaluation/{EVALUATION_FILE}"):
            (directory / file).write_text(content)
    assert main(["compare", "a-11111111", "b-22222222", "--root", str(layout.root)]) == 0
    assert "best epoch" in capsys.readouterr().out
