"""The tree is made where it is missing, checked where it was there before, and never harmed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azaion_api.layout import DATA_DIRECTORIES, TOP_DIRECTORIES, Layout
from azaion_api.model_card import CARD_FILE, ModelCard, write_card
from azaion_operator import storage_tree
from azaion_operator.storage_tree import (
    base_models,
    check_tree,
    count_images,
    found_models,
    image_directories,
    make_tree,
    space,
)

CLASSES = [{"Id": 0, "Name": "Alpha", "ShortName": "A", "Color": "#FF0000"}]
LONG_AGO = 1_000_000_000
LATER = 4_000_000_000.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of another user can be made by root only")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "chart" / "classes.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CLASSES))
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "azaion"
    root.mkdir()
    return Layout(root)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def everything(root: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Every path with its inode, mode and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_ino,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(root.rglob("*"))
    }


# Making


def test_an_empty_volume_gets_the_whole_tree(layout: Layout, classes: Path) -> None:
    assert make_tree(layout, classes) == []
    found = {path.relative_to(layout.root).as_posix() for path in layout.root.rglob("*")}
    pairs = {f"{name}/{part}" for name in DATA_DIRECTORIES if name != "data-rejected" for part in ("images", "labels")}
    assert found == {*TOP_DIRECTORIES, *pairs, "classes.json"}
    assert json.loads(layout.classes.read_text()) == CLASSES


def test_directories_can_be_written_by_the_group(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    for path in layout.root.rglob("*"):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o775, path
    assert stat.S_IMODE(layout.classes.stat().st_mode) == 0o664


def test_the_group_of_the_top_directory_is_inherited(layout: Layout, classes: Path) -> None:
    layout.root.chmod(0o2775)
    make_tree(layout, classes)
    assert layout.images("data").stat().st_mode & stat.S_ISGID


def test_what_is_there_stays_as_it_is(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    (layout.images("data") / "a.jpg").write_bytes(b"image")
    (layout.root / "data-seed").chmod(0o700)
    (layout.root / "somebody-elses").mkdir()
    layout.classes.write_text("[]")
    before = everything(layout.root)
    assert make_tree(layout, classes) == []
    check_tree(layout)
    assert everything(layout.root) == before


def test_a_link_in_place_of_classes_json_is_left_alone(layout: Layout, classes: Path) -> None:
    layout.classes.symlink_to("elsewhere.json")
    make_tree(layout, classes)
    assert os.readlink(layout.classes) == "elsewhere.json"


def test_without_classes_in_the_chart_none_are_written(layout: Layout, tmp_path: Path) -> None:
    assert make_tree(layout, tmp_path / "none.json") == []
    assert not layout.classes.exists()


def test_a_file_in_the_place_of_a_directory_is_a_problem(layout: Layout, classes: Path) -> None:
    (layout.root / "models").write_text("oops")
    assert make_tree(layout, classes) == ["models is no directory; move it away"]


def test_a_link_to_what_is_not_mounted_is_a_problem(layout: Layout, classes: Path) -> None:
    (layout.root / "data").symlink_to("/mnt/disk2/data")
    (problem,) = make_tree(layout, classes)
    assert problem.startswith("data is a symbolic link to /mnt/disk2/data, which is not on the volume; put")


# Checking


def test_a_tree_of_our_own_is_in_order(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    assert check_tree(layout) == []


def test_no_probe_is_left_and_images_do_not_look_changed(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    os.utime(layout.images("data"), (LONG_AGO, LONG_AGO))
    before = set(layout.root.rglob("*"))
    check_tree(layout)
    assert set(layout.root.rglob("*")) == before
    assert layout.images("data").stat().st_mtime == LONG_AGO


def test_data_and_data_sets_on_two_file_systems_are_a_problem(
    layout: Layout, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(layout, classes)

    def refuse(*_arguments: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(storage_tree.os, "link", refuse)
    (problem,) = check_tree(layout)
    assert problem.startswith("data sets cannot be formed: hard links are refused (Invalid cross-device link)")


def test_images_on_another_file_system_are_a_problem(layout: Layout, classes: Path) -> None:
    other = Path("/dev/shm") / f"azaion-test-{os.getpid()}"
    other.mkdir()
    try:
        if other.stat().st_dev == layout.root.stat().st_dev:
            pytest.skip("/dev/shm is no file system of its own here")
        make_tree(layout, classes)
        layout.images("data").rmdir()
        layout.images("data").symlink_to(other)
        (problem,) = check_tree(layout)
        assert problem.startswith("data sets cannot be formed: data/images and datasets lie on different file systems")
    finally:
        other.rmdir()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not a list of {Id, Name, ShortName, Color}"),
        ("{", "is not a list of {Id, Name, ShortName, Color}"),
        ('{"Id": 0}', "is not a list of {Id, Name, ShortName, Color}"),
        ('[{"Id": "0", "Name": "A"}]', "is not a list of {Id, Name, ShortName, Color}"),
        ('[{"Id": 0}]', "is not a list of {Id, Name, ShortName, Color}"),
        ("[]", "names no class"),
    ],
)
def test_classes_nobody_could_use_are_a_problem(layout: Layout, classes: Path, content: str, said: str) -> None:
    make_tree(layout, classes)
    layout.classes.write_text(content)
    (problem,) = check_tree(layout)
    assert problem.startswith(f"classes.json {said}")
    assert problem.endswith("correct it, or move it away")


def test_classes_with_more_fields_are_fine(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    layout.classes.write_text('[{"Id": 1, "Name": "Ü", "PhotoMode": 3}]')
    assert check_tree(layout) == []


AS_OTHER_USER = """
import os, sys
from pathlib import Path
from azaion_api.layout import Layout
from azaion_operator.storage_tree import check_tree, make_tree
os.setgroups([])
os.setgid(10001)
os.setuid(10001)
os.umask(0o002)
layout = Layout(Path(sys.argv[1]))
for problem in dict.fromkeys(make_tree(layout, Path("/nonexistent")) + check_tree(layout)):
    print(problem)
"""


@pytest.fixture
def problems_of_our_user(tmp_path: Path, layout: Layout) -> Callable[[], list[str]]:
    """What the storage pod's user finds; directories above the tree are opened for it."""
    for path in (layout.root, *layout.root.parents):
        if path.is_relative_to(Path("/tmp")) and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)

    def look() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", AS_OTHER_USER, str(layout.root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return look


@needs_root
def test_a_volume_of_root_names_owner_and_remedy(layout: Layout, problems_of_our_user: Callable[[], list[str]]) -> None:
    layout.root.chmod(0o755)
    problems = problems_of_our_user()
    assert "chown -R 10001:10001" in problems[0]
    assert any("cannot be written by 10001:10001" in p and "belongs to 0:0, mode 755" in p for p in problems)


@needs_root
def test_an_adopted_directory_of_somebody_else_is_named(
    layout: Layout, classes: Path, problems_of_our_user: Callable[[], list[str]]
) -> None:
    make_tree(layout, classes)
    for path in (layout.root, *layout.root.rglob("*")):
        os.chown(path, 10001, 10001)
    for path in (layout.root / "models",):
        os.chown(path, 0, 0)
        path.chmod(0o755)
    (problem,) = problems_of_our_user()
    assert problem.startswith("models cannot be written: it belongs to 0:0, mode 755; on the node")


@needs_root
def test_adopted_images_that_cannot_be_linked_are_named_but_those_of_the_group_can(
    layout: Layout, classes: Path, problems_of_our_user: Callable[[], list[str]]
) -> None:
    make_tree(layout, classes)
    image = layout.images("data") / "a.jpg"
    image.write_bytes(b"image")
    for path in (layout.root, *layout.root.rglob("*")):
        os.chown(path, 10001, 10001)
    os.chown(image, 0, 10001)
    image.chmod(0o664)
    assert problems_of_our_user() == []
    image.chmod(0o644)
    (problem,) = problems_of_our_user()
    assert problem.startswith("data/images/a.jpg cannot be written or linked by 10001:10001")
    assert image.read_bytes() == b"image"


# What lies there


def test_space_is_the_volume_s(layout: Layout) -> None:
    found = space(layout)
    assert 0 < found.available_bytes <= found.capacity_bytes


def test_base_models_are_files_and_links_that_can_be_opened(layout: Layout) -> None:
    layout.models.mkdir()
    (layout.models / "yolo26m.pt").write_bytes(b"weights")
    (layout.models / "azaion-2026-11-22").mkdir()
    (layout.models / "azaion-2026-11-22" / "azaion.pt").write_bytes(b"weights")
    (layout.models / "azaion.pt").symlink_to("azaion-2026-11-22/azaion.pt")
    (layout.models / "broken.pt").symlink_to("gone/azaion.pt")
    (layout.models / "directory.pt").mkdir()
    (layout.models / "empty.pt").touch()
    (layout.models / ".hidden.pt").write_bytes(b"weights")
    (layout.models / "notes.txt").write_bytes(b"x")
    assert base_models(layout, now=LATER) == ("azaion.pt", "yolo26m.pt")


def test_a_model_that_is_being_copied_is_not_one_yet(layout: Layout) -> None:
    layout.models.mkdir()
    path = layout.models / "yolo26m.pt"
    path.write_bytes(b"half of it")
    changed = path.stat().st_ctime
    assert base_models(layout, now=changed + 1) == ()
    assert base_models(layout, now=changed + 3) == ("yolo26m.pt",)


def test_there_are_no_models_without_the_directory(layout: Layout) -> None:
    assert base_models(layout) == ()


def test_directories_that_resources_may_name_are_counted_as_well(layout: Layout, classes: Path) -> None:
    make_tree(layout, classes)
    for name in ("annotations-2024", ".ingest", "datasets"):
        layout.images(name).mkdir(parents=True)
    (layout.root / "plain").mkdir()
    assert image_directories(layout) == ("data", "data-seed", "data_deleted", "data-corrupted", "annotations-2024")


def test_only_images_are_counted(layout: Layout) -> None:
    directory = layout.images("data")
    directory.mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "c.png", "d.webp", "e.tif", "f.txt", ".g.jpg", "h"):
        (directory / name).touch()
    assert count_images(directory) == 5


def test_counting_stops_at_the_limit(layout: Layout) -> None:
    directory = layout.images("data")
    directory.mkdir(parents=True)
    for number in range(12):
        (directory / f"{number}.jpg").touch()
    assert count_images(directory, limit=10) == 10


# Models with a card


def carded(layout: Layout, name: str, day: int, line: str = "azaion") -> Path:
    directory = layout.models / name
    directory.mkdir(parents=True)
    (directory / f"{line}.pt").write_bytes(name.encode())
    card = ModelCard(
        name=name,
        line=line,
        run="",
        run_uid=f"models/{name}",
        published=datetime(2026, 3, day, tzinfo=UTC),
        model=f"{line}.pt",
        sha256="d" * 64,
        dataset=None,
        evaluation=None,
        per_class={},
        exports=(),
        reason="",
        ultralytics="",
    )
    (directory / CARD_FILE).write_bytes(write_card(card))
    return directory


def test_models_with_a_card_are_found_newest_first_with_each_lines_current_one(layout: Layout) -> None:
    for day in (1, 2, 3):
        carded(layout, f"azaion-2026-03-0{day}", day)
    carded(layout, "edge-2026-03-09", 9, line="edge")
    layout.model_link("azaion").symlink_to("azaion-2026-03-01/azaion.pt")
    found = [(model.line, model.record.name, model.current) for model in found_models(layout)]
    assert found == [
        ("edge", "edge-2026-03-09", False),
        ("azaion", "azaion-2026-03-03", False),
        ("azaion", "azaion-2026-03-02", False),
        ("azaion", "azaion-2026-03-01", True),
    ]
    assert found_models(layout)[3].record.path == "models/azaion-2026-03-01/azaion.pt"
    bounded = [model.record.name for model in found_models(layout, limit=2)]
    assert bounded == ["edge-2026-03-09", "azaion-2026-03-03", "azaion-2026-03-01"], "the current one is always told"


def test_what_has_no_card_of_ours_is_no_found_model(layout: Layout) -> None:
    assert found_models(layout) == ()
    (layout.models / "plain").mkdir(parents=True)
    (layout.models / "broken").mkdir()
    (layout.models / "broken" / CARD_FILE).write_text("{")
    carded(layout, ".publishing-1", 1)
    (layout.models / "elsewhere").symlink_to(carded(Layout(layout.root / "other"), "azaion-x", 2))
    assert found_models(layout) == ()


def test_a_link_that_leads_nowhere_or_out_makes_no_model_current(layout: Layout, tmp_path: Path) -> None:
    carded(layout, "azaion-2026-03-01", 1)
    link = layout.model_link("azaion")
    (tmp_path / "azaion-2026-03-01").mkdir()
    (tmp_path / "azaion-2026-03-01" / "azaion.pt").touch()
    for target in ("gone/azaion.pt", str(tmp_path / "azaion-2026-03-01" / "azaion.pt")):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert [model.current for model in found_models(layout)] == [False]
