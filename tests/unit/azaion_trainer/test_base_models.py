"""`azaion-trainer add-model` refuses what no run could start from, before anything is read as a model."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from azaion_api.layout import Layout
from azaion_trainer.cli import main


def add(layout: Layout, *arguments: str) -> int:
    return main(["add-model", *arguments, "--root", str(layout.root)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-",), "needs --name, for example --name yolo26m.pt"),
        (("-", "--name", "../evil.pt"), "is no name for models/"),
        (("-", "--name", "model.onnx"), "is no name for models/"),
        (("-", "--name", ".hidden.pt"), "is no name for models/"),
        (("/nowhere/yolo26m.pt",), "/nowhere/yolo26m.pt is not there"),
    ],
)
def test_bad_names_and_missing_files_are_said(
    layout: Layout, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert add(layout, *arguments) == 1
    assert message in capsys.readouterr().err
    assert list(layout.models.iterdir()) == []


def test_nothing_on_standard_input_is_said(
    layout: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert add(layout, "-", "--name", "yolo26m.pt") == 1
    assert "nothing came from standard input" in capsys.readouterr().err
    assert list(layout.models.iterdir()) == []


def test_a_lines_current_model_is_not_overwritten(
    layout: Layout, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (layout.models / "azaion.pt").symlink_to("azaion-2026-11-23/azaion.pt")
    (tmp_path / "azaion.pt").write_bytes(b"x")
    assert add(layout, str(tmp_path / "azaion.pt"), "--replace") == 1
    assert "is a line's current model" in capsys.readouterr().err


def test_a_storage_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add-model", "-", "--name", "a.pt", "--root", str(tmp_path / "nowhere")]) == 1
    assert "is the storage mounted" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"no model at all", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    assert add(layout, str(tmp_path / "bad.pt")) == 1
    assert "no YOLO detection model that can be used" in capsys.readouterr().err
    assert list(layout.models.iterdir()) == []


@pytest.mark.slow
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    import torch

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    assert add(layout, str(tmp_path / "trap.pt")) == 1
    assert "no YOLO detection model" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
