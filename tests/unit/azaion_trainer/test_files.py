"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from azaion_trainer import files


def test_a_file_is_replaced_only_when_it_is_written_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_bytes(path, b"old")
    writing = files.replacing(path)
    writing.__enter__().write(b"half")
    writing.__exit__(ValueError, ValueError("in the middle"), None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_leaves_hard_links_as_they_were(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "b"
    files.write_bytes(path, b"old")
    os.link(path, link)
    files.write_bytes(path, b"new")
    assert (path.read_bytes(), link.read_bytes()) == (b"new", b"old")


def test_a_link_is_switched_in_one_rename(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_text(name)
    link = tmp_path / "model.pt"
    files.point_link(link, tmp_path / "one" / "model.pt")
    assert link.read_text() == "one"
    files.point_link(link, tmp_path / "two" / "model.pt")
    assert link.read_text() == "two"
    assert os.readlink(link) == "two/model.pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "one", "two"]


def test_linking_never_hides_a_real_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "none", tmp_path / "target")
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")


def test_a_disk_error_while_linking_is_not_answered_with_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")

    def fails(_source: object, _target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "link", fails)
    with pytest.raises(OSError, match="No space"):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_within_follows_links(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    assert files.within(tmp_path / "root", tmp_path / "root" / "x" / ".." / "y")
    assert not files.within(tmp_path / "root", tmp_path / "root" / "link" / "file")
    assert not files.within(tmp_path / "root", tmp_path / "root" / ".." / "outside")
