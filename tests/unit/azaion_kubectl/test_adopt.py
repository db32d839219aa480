"""`kubectl azaion adopt`: a Compose tree becomes the platform's, and comes back as it was."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import compose_make as make
import msgspec
import pytest
import yaml
from compose_make import MIDDLE, NEW, OLD, Compose, everything
from tests.unit.azaion_trainer import crash_points

from azaion_api.annotation_ingest import IngestStorage
from azaion_api.layout import Layout
from azaion_api.model_card import read_card
from azaion_api.resources import AnnotationIngest, ModelLine, TrainingRun
from azaion_consumer.lock import LockHolder
from azaion_consumer.storage import Storage
from azaion_kubectl.adopt import STATE, adopt, read_record, undo
from azaion_kubectl.cli import main
from azaion_kubectl.errors import CommandError
from azaion_kubectl.holders import holders
from azaion_operator.storage_tree import check_tree, found_models, make_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")


@pytest.fixture(autouse=True)
def _caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """With a current model that is a copy of the middle one."""
    found = Compose(tmp_path)
    found.copy_current()
    if os.geteuid() == 0:
        found.own()
    return found


def adopted(compose: Compose, **changes: object) -> str:
    """What an adoption says."""
    screen, out = make.screen()
    assert adopt(screen, compose.request(**changes)) == 0
    return out.getvalue()


def undone(compose: Compose, *, dry_run: bool = False) -> str:
    screen, out = make.screen()
    assert undo(screen, compose.root, dry_run=dry_run) == 0
    return out.getvalue()


def refusal(compose: Compose, **changes: object) -> str:
    """Why it is not adopted; nothing has changed."""
    before = everything(compose.path)
    with pytest.raises(CommandError) as caught:
        adopt(make.screen()[0], compose.request(**changes))
    assert everything(compose.path) == before
    return str(caught.value)


def history(compose: Compose) -> list[tuple[str, str, bool]]:
    """What the storage pod tells the operator: directory, model file, current; newest first."""
    return [(m.record.name, Path(m.record.path).name, m.current) for m in found_models(Layout(compose.root))]


# There and back


@needs_root
def test_an_adopted_tree_belongs_to_the_platform_and_keeps_every_byte(compose: Compose) -> None:
    before = everything(compose.root)
    adopted(compose)
    after = everything(compose.root)
    for path, (mode, uid, gid, _, content) in after.items():
        if path.startswith(STATE.encode()) or stat.S_ISLNK(int(str(mode))):
            continue
        assert (uid, gid) == (10001, 10001), path
        bits = 0o2770 if stat.S_ISDIR(int(str(mode))) else 0o660
        assert int(str(mode)) & bits == bits, path
        if path in before and path != b"models/azaion.pt":
            assert content == before[path][4], path
    assert set(before) <= set(after), "nothing was deleted"


@needs_root
def test_the_way_back_restores_the_tree_byte_for_byte_owner_for_owner(compose: Compose) -> None:
    (compose.root / "data" / "labels" / os.fsdecode(b"no text \xff.txt")).write_text("0 0 0 0 0\n")
    (compose.root / "data" / "run.sh").write_text("#!/bin/sh\n")
    (compose.root / "data" / "run.sh").chmod(0o751)
    (compose.root / "logs").mkdir()
    (compose.root / "datasets" / "old").symlink_to("azaion-2026-05-20")
    before = everything(compose.root)
    adopted(compose)
    assert everything(compose.root) != before
    undone(compose)
    assert everything(compose.root) == before


@needs_root
def test_adopting_again_changes_nothing(compose: Compose) -> None:
    adopted(compose)
    once = everything(compose.path)
    said = adopted(compose)
    assert everything(compose.path) == once
    assert "was adopted already: nothing had to change" in said


@needs_root
def test_a_dry_run_shows_all_and_changes_nothing(compose: Compose) -> None:
    before = everything(compose.path)
    said = adopted(compose, dry_run=True)
    assert everything(compose.path) == before
    for told in ("1000:1001, mode 755", "10001:10001, mode 2775", OLD, "a copy of azaion-2026-06-01", "4711"):
        assert told in said
    adopted(compose)
    both = everything(compose.path)
    assert "4711" in undone(compose, dry_run=True) or "what it was before" in undone(compose, dry_run=True)
    assert everything(compose.path) == both


@needs_root
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.faults)])
def test_a_kill_anywhere_is_finished_by_the_next_adoption_or_undone(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setitem(crash_points.CALLS, os, (*crash_points.CALLS[os], "fchown", "fchmod"))
    before = everything(compose.root)
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", compose.root, template], check=True)

    def again() -> None:
        subprocess.run(["rm", "-rf", compose.root], check=True)
        subprocess.run(["cp", "-a", template, compose.root], check=True)

    adopted(compose)
    whole = without_time(compose.root)
    kills = 0
    for number in range(1, 1000, step):
        again()
        with crash_points.killed_at(number, monkeypatch):
            survived = True
            try:
                adopted(compose)
            except crash_points.KilledError:
                survived = False
        if survived:
            break
        kills += 1
        if number % 2:
            adopted(compose)
            assert without_time(compose.root) == whole, f"killed at {number}"
        with crash_points.killed_at(number // 2 + 1, monkeypatch), suppress(crash_points.KilledError, CommandError):
            undone(compose)
        if (compose.root / STATE).exists():
            undone(compose)
        assert everything(compose.root) == before, f"killed at {number}"
    assert kills * step > 100, "every part of an adoption was hit"


def without_time(root: Path) -> dict[bytes, tuple[object, ...]]:
    """The tree but for the record, which names its time."""
    return {path: what for path, what in everything(root).items() if path != f"{STATE}/record.json".encode()}


@needs_root
def test_files_that_came_or_moved_since_get_the_owners_of_their_neighbours(compose: Compose) -> None:
    for path in (compose.root / "data" / "labels").iterdir():
        os.chown(path, 1000, 1001)
        path.chmod(0o640)
    adopted(compose)
    label = compose.root / "data" / "labels" / "new.txt"
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    run = compose.root / "runs" / "full-1"
    run.mkdir(parents=True)
    (run / "state.pt").write_bytes(b"state")
    for path in (label, run.parent, run, run / "state.pt"):
        os.chown(path, 10001, 10001)
    said = undone(compose)
    status = label.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1001, 0o640)
    top = compose.root.stat()
    assert (run.stat().st_uid, run.stat().st_gid) == (top.st_uid, top.st_gid)
    assert (run / "state.pt").read_bytes() == b"state"
    assert "What the platform made is left: runs" in said


@needs_root
def test_what_somebody_adds_after_an_adoption_is_adopted_by_the_next_and_given_back(compose: Compose) -> None:
    adopted(compose)
    added = compose.root / "data" / "images" / "by hand.jpg"
    added.write_bytes(b"image")
    added.chmod(0o604)
    os.chown(added, 1234, 1235)
    adopted(compose)
    assert added.stat().st_uid == 10001
    undone(compose)
    assert (added.stat().st_uid, added.stat().st_gid, stat.S_IMODE(added.stat().st_mode)) == (1234, 1235, 0o604)


@needs_root
def test_a_record_that_is_not_roots_alone_is_not_followed(compose: Compose) -> None:
    adopted(compose)
    record = compose.root / STATE / "record.json"
    os.chown(record, 10001, 10001)
    with pytest.raises(CommandError, match="is not root's alone"):
        read_record(compose.root)
    os.chown(record, 0, 0)
    record.write_text("{")
    with pytest.raises(CommandError, match="is damaged"):
        undone(compose)


@needs_root
def test_a_program_never_comes_back_with_the_rights_of_its_owner(compose: Compose) -> None:
    tool = compose.root / "data" / "tool"
    tool.write_text("#!/bin/sh\n")
    os.chown(tool, 0, 0)
    tool.chmod(0o6755)
    adopted(compose)
    undone(compose)
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755


# Models


@needs_root
def test_dated_models_are_the_lines_history_and_the_copy_is_current(compose: Compose) -> None:
    adopted(compose)
    assert history(compose) == [(NEW, "best.pt", False), (MIDDLE, "best.pt", True), (OLD, "azaion.pt", False)]
    assert os.readlink(compose.current) == f"{MIDDLE}/best.pt"
    second, first = compose.root / "models" / OLD / "azaion.pt", compose.root / "models" / OLD / "weights" / "best.pt"
    assert os.path.samefile(first, second), "no space is used twice"
    card = read_card(compose.root / "models" / OLD)
    assert card is not None
    assert (card.line, card.run, card.run_uid, str(card.published.date())) == (
        "azaion", "", f"models/{OLD}", "2026-03-28",
    )  # fmt: skip


def as_a_file(compose: Compose) -> str:
    compose.current.write_bytes(b"trained somewhere else")
    os.utime(compose.current, (1_780_000_000, 1_780_000_000))
    return "azaion-2026-05-28/azaion.pt"


def as_a_link(compose: Compose) -> str:
    compose.current.symlink_to(f"{OLD}/weights/best.pt")
    return f"{OLD}/azaion.pt"


def as_a_link_that_is_right(compose: Compose) -> str:
    compose.current.symlink_to(f"{NEW}/best.pt")
    return f"{NEW}/best.pt"


def as_a_link_of_the_container(compose: Compose) -> str:
    compose.current.symlink_to(f"/azaion/models/{NEW}/best.pt")
    return f"{NEW}/best.pt"


def as_a_link_to_a_file_beside(compose: Compose) -> str:
    beside = compose.root / "models" / "good one.pt"
    beside.write_bytes(b"good")
    os.utime(beside, (1_780_000_000, 1_780_000_000))
    compose.current.symlink_to("good one.pt")
    return "azaion-2026-05-28/azaion.pt"


def as_a_link_to_another_directory(compose: Compose) -> str:
    compose.model("handmade", "best.pt")
    compose.current.symlink_to(compose.root / "models" / "handmade" / "best.pt")
    return "handmade/best.pt"


@needs_root
@pytest.mark.parametrize(
    "prepare",
    [
        as_a_file,
        as_a_link,
        as_a_link_that_is_right,
        as_a_link_of_the_container,
        as_a_link_to_a_file_beside,
        as_a_link_to_another_directory,
    ],
    ids=lambda function: function.__name__,
)
def test_the_current_model_is_found_whatever_the_file_is(tmp_path: Path, prepare: Callable[[Compose], str]) -> None:
    compose = Compose(tmp_path)
    target = prepare(compose)
    compose.own()
    wanted = (compose.root / "models" / target.partition("/")[0]).name
    before = everything(compose.root)
    adopted(compose)
    assert os.readlink(compose.current) == target
    assert [name for name, _, current in history(compose) if current] == [wanted]
    adopted(compose)
    undone(compose)
    assert everything(compose.root) == before


@needs_root
def test_a_better_model_of_the_platform_stays_when_the_old_one_is_current_again(compose: Compose) -> None:
    adopted(compose)
    compose.model("azaion-2026-11-22", "azaion.pt")
    compose.current.unlink()
    compose.current.symlink_to("azaion-2026-11-22/azaion.pt")
    undone(compose)
    assert compose.current.read_bytes() == f"weights of {MIDDLE}".encode()
    assert not compose.current.is_symlink()
    assert (compose.root / "models" / "azaion-2026-11-22" / "azaion.pt").is_file()


def test_a_line_without_a_current_model_is_told(tmp_path: Path) -> None:
    compose = Compose(tmp_path)
    said = adopted(compose, dry_run=True)
    assert "the first run of the line is published without a comparison" in said
    assert f"kubectl azaion rollback azaion {NEW}" in said


def test_directories_that_only_look_like_models_are_left_alone(tmp_path: Path) -> None:
    compose = Compose(tmp_path)
    for name in ("azaion-2026-99-01", "azaion-notes", "other-2026-01-01"):
        (compose.root / "models" / name).mkdir()
    (compose.root / "models" / "azaion-2026-01-01").mkdir()
    (compose.root / "models" / "azaion-2026-01-02").symlink_to(OLD)
    said = adopted(compose, dry_run=True)
    assert "models/azaion-2026-01-01" in said
    assert "left alone: no best.pt in it" in said
    for name in ("azaion-2026-99-01", "azaion-notes", "other-2026-01-01", "azaion-2026-01-02"):
        assert name not in said


# The platform takes it up


@pytest.fixture
def reachable(compose: Compose) -> Iterator[None]:
    """Another user may go down to the tree; only this test's own directories are opened for that."""
    opened = []
    for parent in compose.root.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & 0o001:
            parent.chmod(mode | 0o001)
            opened.append((parent, mode))
    yield
    for parent, mode in opened:
        parent.chmod(mode)


@needs_root
@pytest.mark.usefixtures("reachable")
def test_the_storage_pods_user_finds_nothing_wrong_with_an_adopted_tree(compose: Compose) -> None:
    adopted(compose)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(10001)
            os.setuid(10001)
            os.umask(0o002)
            layout = Layout(compose.root)
            problems = make_tree(layout, compose.path / "none.json") + check_tree(layout)
            status = 2 if problems else 0
            print(problems, file=sys.stderr)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert history(compose)[1] == (MIDDLE, "best.pt", True)


def storage(compose: Compose) -> Storage:
    return Storage(compose.root, LockHolder("annotations", "pod-1"), "azaion-annotations", IngestStorage())


def filed(compose: Compose, offset: int) -> None:
    """An ingest that has filed every message up to this one, and was stopped."""
    store = storage(compose)
    record = store.open()
    assert record is not None
    store.stage_offset(msgspec.structs.replace(record, offset=offset))
    store.sync()
    store.publish_offset()
    store.lock.release()


@needs_root
def test_compose_goes_on_where_the_ingest_stopped(compose: Compose) -> None:
    adopted(compose)
    filed(compose, 5000)
    said = undone(compose)
    assert (compose.root / "offset.yaml").read_text() == "# written by the annotation queue\noffset_queue: 5001\n"
    assert "offset.yaml says 5001: Compose goes on there" in said
    assert not list(compose.root.glob("offset.yaml.*"))
    # And there once more: the ingest begins where Compose has come to.
    (compose.root / "offset.yaml").write_text("offset_queue: 6000\n")
    adopted(compose)
    record = storage(compose).open()
    assert record is not None
    assert record.offset == 5999


@needs_root
def test_an_ingest_that_has_filed_nothing_leaves_the_offset_file_as_it_was(compose: Compose) -> None:
    before = everything(compose.root)
    adopted(compose)
    storage(compose).open()
    undone(compose)
    after = everything(compose.root)
    assert after[b"offset.yaml"] == before[b"offset.yaml"]


@needs_root
def test_an_offset_file_beside_the_settings_is_copied_and_gets_the_number_back(compose: Compose) -> None:
    file = compose.settings / "offset.yaml"
    os.rename(compose.root / "offset.yaml", file)
    os.chown(file, 1000, 1001)
    file.chmod(0o640)
    before = everything(compose.root)
    adopted(compose)
    assert (compose.root / "offset.yaml").read_text() == file.read_text()
    undone(compose)
    assert everything(compose.root) == before
    adopted(compose)
    filed(compose, 5000)
    undone(compose)
    assert file.read_text().endswith("offset_queue: 5001\n")
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (1000, 1001, 0o640)
    assert not (compose.root / "offset.yaml").exists()


@needs_root
def test_a_batch_that_is_filed_in_part_has_to_be_finished_first(compose: Compose) -> None:
    adopted(compose)
    batch = compose.root / ".ingest" / "annotations" / "batch.msgpack"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"batch")
    with pytest.raises(CommandError, match="is filed in part; start that ingest once more"):
        undone(compose)


# What it writes


@needs_root
def test_settings_become_values_secrets_and_resources_that_only_their_owner_reads(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1001")
    said = adopted(compose)
    for path in (compose.output, *compose.output.iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (1000, 1001)
        assert stat.S_IMODE(status.st_mode) == (0o700 if path.is_dir() else 0o600)
    for password in make.PASSWORDS:
        assert password not in said
    texts = {path.name: path.read_text() for path in compose.output.iterdir()}
    assert [name for name, text in texts.items() if any(p in text for p in make.PASSWORDS)] == ["secrets.yaml"]
    broker, api = yaml.safe_load_all(texts["secrets.yaml"])
    assert broker["metadata"] == {"name": "azaion-rabbitmq", "namespace": "azaion"}
    assert broker["stringData"] == {"username": "azaion_receiver", "password": make.PASSWORDS[0]}
    assert api["stringData"] == {"email": "uploader@example.com", "password": make.PASSWORDS[1]}
    ingest, line = yaml.safe_load_all(texts["resources.yaml"])
    stream = msgspec.convert(ingest, AnnotationIngest).spec.stream
    assert (stream.host, stream.port, stream.credentials_secret_ref.name) == (
        "broker.example.com", 5552, "azaion-rabbitmq",
    )  # fmt: skip
    assert msgspec.convert(line, ModelLine).metadata.name == "azaion"
    training = msgspec.convert(yaml.safe_load(texts["trainingrun.yaml"]), TrainingRun).spec.training
    assert (training.epochs, training.batch, training.image_size, training.workers) == (60, 11, 1280, 24)
    values = yaml.safe_load(texts["values.yaml"])
    assert values["storage"]["hostPath"] == {"path": str(compose.root), "node": "gpu-1"}
    assert values["access"] == {
        "secrets": ["azaion-rabbitmq", "azaion-api"],
        "hosts": ["broker.example.com", "api.example.com"],
    }
    assert values["classes"] == [
        {"Id": 0, "Name": "Car", "ShortName": "C", "Color": "#E6194B"},
        {"Id": 16, "Name": "Вантажівка", "ShortName": "В"},
    ]


@needs_root
def test_a_file_that_somebody_has_changed_is_left_alone(compose: Compose) -> None:
    adopted(compose)
    values = compose.output / "values.yaml"
    values.write_text("mine: true\n")
    said = adopted(compose)
    assert values.read_text() == "mine: true\n"
    assert "values.yaml is there and differs; it is left alone" in said


# What is refused


def test_half_a_tree_is_refused_with_all_that_is_missing(tmp_path: Path) -> None:
    compose = Compose(tmp_path)
    os.rename(compose.root / "models", tmp_path / "elsewhere")
    (compose.root / "classes.json").unlink()
    said = refusal(compose)
    assert f"{compose.root} lacks models, classes.json; name the directory that Compose mounts as /azaion" in said
    assert "is no directory" in refusal(compose, directory=tmp_path / "nowhere")


BAD_TREES: dict[str, tuple[Callable[[Compose], object], str]] = {
    "a directory elsewhere": (
        lambda c: (os.rename(c.root / "data", c.path / "disk2"), (c.root / "data").symlink_to(c.path / "disk2")),
        "data is a symbolic link to .*/disk2, and pods see .* alone; move the directory itself there",
    ),
    "classes that are no list": (
        lambda c: (c.root / "classes.json").write_text("{}"),
        r"classes.json is not a list of \{Id, Name, ShortName, Color\}",
    ),
    "classes with an Id for two": (
        lambda c: (c.root / "classes.json").write_text('[{"Id": 1, "Name": "A"}, {"Id": 1, "Name": "B"}]'),
        "every class an Id of its own from 0 to 19",
    ),
    "an offset that is none": (
        lambda c: (c.root / "offset.yaml").write_text("offset: many\n"),
        "offset.yaml holds no offset; correct it",
    ),
    "a current model that is gone": (
        lambda c: c.current.symlink_to("azaion-2025-01-01/best.pt"),
        "azaion.pt is a symbolic link to azaion-2025-01-01/best.pt, where there is no model within",
    ),
    "a current model outside": (
        lambda c: ((c.path / "x.pt").write_bytes(b"x"), c.current.symlink_to(c.path / "x.pt")),
        "where there is no model within .*/models; point it to a model of a dated directory, or remove it",
    ),
    "a directory for the current model": (lambda c: c.current.mkdir(), "azaion.pt is no file; move it away"),
}


@pytest.mark.parametrize("name", list(BAD_TREES))
def test_a_tree_that_cannot_be_taken_over_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    compose = Compose(tmp_path)
    spoil, sentence = BAD_TREES[name]
    spoil(compose)
    said = refusal(compose)
    assert re.search(sentence, said), said


@needs_root
def test_other_data_directories_need_the_way_back_first(compose: Compose) -> None:
    adopted(compose)
    env = compose.settings / ".env"
    env.write_text(env.read_text().replace("AZAION_DATA_SEED_DIR=data-seed", "AZAION_DATA_SEED_DIR=seed"))
    assert "was adopted with other directories (seed differ)" in refusal(compose)


def test_without_an_adoption_there_is_no_way_back(compose: Compose) -> None:
    with pytest.raises(CommandError, match=r"is not adopted: .*record\.json is not there; nothing to undo"):
        undone(compose)


@needs_root
def test_a_process_with_a_file_of_the_tree_open_is_named(compose: Compose) -> None:
    assert holders(compose.root) == ()
    with (compose.root / "classes.json").open() as file:
        holder = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        eventually("the process has the file open", lambda: len(holders(compose.root)) == 1)
        said = refusal(compose)
        assert f"is in use by process {holder.pid} (sleep); stop it first: docker compose stop" in said
    finally:
        holder.kill()
        holder.wait()
    adopted(compose)


#: A container as far as the kernel knows them: a mount namespace with a root of its own, and the tree in it.
CONTAINER = """
import os, subprocess, sys
root, tree = sys.argv[1:]
mount = lambda *arguments: subprocess.run(["mount", *arguments], check=True)
mount("--make-rprivate", "/")
mount("-t", "tmpfs", "none", root)
os.mkdir(f"{root}/azaion")
mount("--bind", tree, f"{root}/azaion")
os.chroot(root)
os.chdir("/")
print("ready", flush=True)
sys.stdin.read()
"""


@needs_root
def test_a_container_that_has_the_tree_mounted_is_named_though_it_has_no_file_open(
    compose: Compose, tmp_path: Path
) -> None:
    (tmp_path / "container").mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", CONTAINER, str(tmp_path / "container"), str(compose.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "ready\n"
        assert f"is in use by process {container.pid}" in refusal(compose)
        assert holders(tmp_path / "opt") == ()
        container.communicate("")
    assert holders(compose.root) == ()


def test_a_user_who_is_not_root_is_told_how_to_be(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert 'sudo "$(command -v kubectl-azaion)" adopt' in refusal(compose)


def eventually(what: str, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        pause.wait(0.02)
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"


@needs_root
def test_a_tree_in_use_that_needs_no_change_is_not_refused(compose: Compose) -> None:
    adopted(compose)
    with (compose.root / "classes.json").open() as file:
        holder = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        (compose.output / "values.yaml").unlink()
        assert "nothing had to change" in adopted(compose)
        assert (compose.output / "values.yaml").exists()
    finally:
        holder.kill()
        holder.wait()


@needs_root
def test_a_file_that_cannot_be_given_is_named_and_the_rest_is_done_next_time(compose: Compose) -> None:
    stuck = compose.root / "data" / "labels" / "clip_000001.txt"
    if subprocess.run(["chattr", "+i", stuck], check=False, capture_output=True).returncode != 0:
        pytest.skip("this file system knows no immutable files")
    try:
        before = everything(compose.root)
        with pytest.raises(CommandError, match=rf"{stuck.name}: Operation not permitted; mend it, and the same"):
            adopted(compose)
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)
    adopted(compose)
    assert stuck.stat().st_uid == 10001
    undone(compose)
    assert everything(compose.root) == before


# The command


@needs_root
def test_the_command_adopts_and_undoes(compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(compose.root)
    words = ["adopt", str(compose.root), "-n", "azaion"]
    settings = ["--compose", str(compose.settings), "--to", str(compose.output), "--node", "gpu-1"]
    assert main([*words, *settings, "--dry-run"]) == 0
    assert everything(compose.root) == before
    assert main([*words, *settings]) == 0
    assert main([*words, "--undo"]) == 0
    assert everything(compose.root) == before
    assert main([*words, "--undo"]) == 1
    written = capsys.readouterr()
    assert "kubectl azaion adopt: " in written.err
    assert not any(password in written.out + written.err for password in make.PASSWORDS)


@needs_root
@pytest.mark.slow
def test_a_hundred_thousand_files_come_back_and_the_record_stays_small(compose: Compose) -> None:
    labels = compose.root / "data" / "labels"
    for number in range(100_000):
        mode = 0o600 if number % 1000 == 0 else 0o644
        os.close(os.open(labels / f"many_{number:06}.txt", os.O_CREAT | os.O_WRONLY, mode))
    before = owners(labels)
    adopted(compose)
    assert {owner[1:] for owner in owners(labels).values()} == {(10001, 10001)}
    assert (compose.root / STATE / "record.json").stat().st_size < 64 * 1024
    undone(compose)
    assert owners(labels) == before


def owners(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and group of every file in it."""
    with os.scandir(directory) as entries:
        statuses = ((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
        return {name: (status.st_mode, status.st_uid, status.st_gid) for name, status in statuses}
