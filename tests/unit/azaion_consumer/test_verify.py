"""What `azaion-consumer verify` finds, and what it does not mistake for a fault while messages are filed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from consumer_make import created, deleted, file_batch, opened

from azaion_consumer import cli, commands
from azaion_consumer.messages import Role
from azaion_consumer.tree import Tree
from azaion_consumer.verify import Finding, Kind, verify


def sound(root: Path) -> Tree:
    """Three names in data, one in data-seed, one in data_deleted."""
    storage = opened(root)
    row = [created(name) for name in "abcd"] + [created("e", role=Role.OPERATOR), deleted("d")]
    file_batch(storage, row)
    storage.lock.release()
    return storage.tree


def found(tree: Tree, meanwhile: Callable[[float], object] = lambda _s: None) -> list[Finding]:
    return list(verify(tree, pause=lambda s: meanwhile(s) and None).findings)


def test_a_sound_tree_has_no_findings_and_its_counts_are_told(tmp_path: Path) -> None:
    looked = verify(sound(tmp_path))
    assert looked.findings == ()
    assert looked.images == looked.labels == {"data": 3, "data-seed": 1, "data_deleted": 1}


@pytest.mark.parametrize(
    ("damage", "kind", "name", "places"),
    [
        (lambda r: os.unlink(r / "data/labels/a.txt"), Kind.IMAGE_WITHOUT_LABEL, "a", ("data/images/a.jpg",)),
        (lambda r: os.unlink(r / "data/images/a.jpg"), Kind.LABEL_WITHOUT_IMAGE, "a", ("data/labels/a.txt",)),
        (
            lambda r: os.link(r / "data/images/a.jpg", r / "data/images/a.png"),
            Kind.TWO_IMAGES,
            "a",
            ("data/images/a.jpg", "data/images/a.png"),
        ),
        (lambda r: (r / "data/images/notes.md").touch(), Kind.STRAY_FILE, "notes.md", ("data/images/notes.md",)),
        (lambda r: (r / "data/labels/a.txt~").touch(), Kind.STRAY_FILE, "a.txt~", ("data/labels/a.txt~",)),
    ],
)
def test_damage_is_found_with_its_kind_and_place(
    tmp_path: Path, damage: Callable[[Path], None], kind: Kind, name: str, places: tuple[str, ...]
) -> None:
    tree = sound(tmp_path)
    damage(tmp_path)
    assert found(tree) == [Finding(kind, name, places)]


def test_an_image_in_two_directories_is_found(tmp_path: Path) -> None:
    tree = sound(tmp_path)
    os.link(tmp_path / "data/images/a.jpg", tmp_path / "data-seed/images/a.jpg")
    os.link(tmp_path / "data/labels/a.txt", tmp_path / "data-seed/labels/a.txt")
    assert found(tree) == [Finding(Kind.IN_TWO_DIRECTORIES, "a", ("data/images/a.jpg", "data-seed/images/a.jpg"))]


def test_what_is_being_filed_at_the_moment_is_no_finding(tmp_path: Path) -> None:
    tree = sound(tmp_path)
    label = tmp_path / "data/labels/new.txt"
    label.touch()
    assert found(tree, lambda _s: (tmp_path / "data/images/new.jpg").touch()) == []
    label.rename(tmp_path / "data/labels/other.txt")
    assert [f.kind for f in found(tree, lambda _s: os.unlink(tmp_path / "data/labels/other.txt"))] == [
        Kind.IMAGE_WITHOUT_LABEL
    ]


def run(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = cli.main(["verify", "--root", str(root), *options])
    return code, capsys.readouterr().out


def test_the_command_prints_a_table_or_json_and_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZAION_TASK", raising=False)
    # Nobody files anything here, so the second look need not wait.
    monkeypatch.setattr(commands, "verify", partial(verify, settle_s=0.0))
    sound(tmp_path)
    code, text = run(tmp_path, capsys)
    assert (code, text.splitlines()[1].split()) == (0, ["data", "3", "3"])
    for number in range(30):
        (tmp_path / f"data/labels/x{number:02d}.txt").touch()
    code, text = run(tmp_path, capsys)
    assert code == 1
    assert "LabelWithoutImage: 30" in text
    assert "data/labels/x19.txt" in text
    assert "x20" not in text
    assert "and 10 more; --all names them" in text
    assert "x29" in run(tmp_path, capsys, "--all")[1]
    code, text = run(tmp_path, capsys, "--json")
    document = json.loads(text)
    assert code == 1
    assert document["counts"] == {"LabelWithoutImage": 30}
    assert document["findings"][0] == {"kind": "LabelWithoutImage", "name": "x00", "places": ["data/labels/x00.txt"]}
    assert run(tmp_path / "elsewhere", capsys)[0] == 2


def test_other_directories_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(tmp_path)
    (tmp_path / "data").rename(tmp_path / "day")
    code, text = run(tmp_path, capsys, "--data", "day")
    assert (code, text.splitlines()[1].split()) == (0, ["day", "3", "3"])
