"""`kubectl azaion adopt`: a Compose installation's tree made the platform's, and given back.

Nothing of the tree is deleted or written to: files change their owners, models get a card and a second name, and the
file that says which model is current becomes a link. A record in the tree tells the way back; it is there before
anything changes, so a killed adoption is finished, or undone, by the next.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from azaion_api import compose_offset
from azaion_api.layout import CLASSES_FILE, GID, MOUNT_PATH, TOP_DIRECTORIES, UID, Layout
from azaion_api.model_card import CARD_FILE, write_card
from azaion_api.words import plural
from azaion_kubectl import compose
from azaion_kubectl.compose import INGEST, LINE, Installation, Settings
from azaion_kubectl.dated_models import (
    Current,
    DatedModel,
    card_of,
    dated_models,
    find_current,
    same_content,
    sha256_of,
)
from azaion_kubectl.errors import CommandError
from azaion_kubectl.holders import holders
from azaion_kubectl.host_tree import (
    DirectoryOwners,
    Owner,
    Progress,
    Survey,
    change_owners,
    original,
    survey,
    wanted,
)
from azaion_kubectl.screen import Screen

#: At the top of the tree: the record, and the file that was models/<line>.pt.
STATE = ".adopted"
_RECORD_VERSION = 1
COMPOSE_DIRECTORY = "/opt/azaion-training"
OUTPUT = "azaion-adopted"
_COLOUR = re.compile("#[0-9A-Fa-f]{6}([0-9A-Fa-f]{2})?")
_OFFSET_STATE, _GIVEN_BACK = "offset.json", "offset.json.given-back"


class Record(msgspec.Struct, kw_only=True):
    """What an adoption changed; belongs to root, as the way back gives files the owners it names."""

    version: int = _RECORD_VERSION
    adopted: datetime
    #: Names at the top whose files belong to the platform.
    names: tuple[str, ...]
    #: Files, then directories, that were not there before; relative to the root.
    added: list[str] = []
    #: The offset file of the Compose installation, when it lies outside of the tree.
    offset_source: str | None = None
    owners: dict[str, DirectoryOwners]


class _Class(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of classes.json, with what the chart takes of it."""

    identifier: int = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    short_name: str = msgspec.field(name="ShortName", default="")
    color: str = msgspec.field(name="Color", default="")


class _OffsetState(msgspec.Struct, frozen=True):
    """The part of an ingest's offset file that says how far it came."""

    offset: int | None


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    directory: Path
    compose: Path
    output: Path
    namespace: str
    node: str | None = None
    broker: str | None = None
    dry_run: bool = False


@dataclass
class Plan:
    """What an adoption is going to do."""

    layout: Layout
    names: tuple[str, ...]
    classes: list[_Class]
    record: Record
    surveyed: Survey
    models: list[DatedModel]
    current: Current | None
    #: The offset file's text, to be copied from outside of the tree.
    offset_copy: bytes | None
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    again: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything of the tree is to change."""
        now = Owner.of(os.stat(self.layout.root))
        return (
            any(self.surveyed.changes.values())
            or now != _top_owner(now)
            or bool(_to_card(self))
            or (self.current is not None and self.current.switch)
            or self.offset_copy is not None
        )


def adopt(screen: Screen, request: Request) -> int:
    """Make the tree the platform's and write its settings; 0.

    Raises CommandError, mostly before anything changes; whatever was done by then, doing it again goes on there.
    """
    with _disk_errors():
        return _adopt(screen, request)


def undo(screen: Screen, directory: Path, *, dry_run: bool) -> int:
    """Give a tree back as it was; 0. What the platform made since stays, with the owners of its neighbours."""
    with _disk_errors():
        return _undo(screen, directory, dry_run=dry_run)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{error.filename or 'the disk'}: {error.strerror}; mend it, and the same command goes on where it stopped"
        ) from error


def _adopt(screen: Screen, request: Request) -> int:
    root = _tree(request.directory)
    settings = compose.read_settings(request.compose, request.broker)
    plan = _plan(screen, request, root, settings)
    documents = _documents(request, settings, plan)
    screen.table(("WHAT", "NOW", "THEN"), [*plan.rows, *_document_rows(request, settings)])
    for note in plan.notes:
        screen.say(f"Note: {note}.")
    if request.dry_run:
        screen.say("Nothing was changed. Without --dry-run this is done, and --undo takes it back.")
        return 0
    changed = 0
    if plan.changes:
        _ready_to_change(root, "adopt", "stop it first: docker compose stop")
        changed = _apply(screen, plan)
    _write_documents(screen, request.output, documents)
    screen.say(_summary(plan, changed))
    screen.say(_next_steps(request))
    return 0


# ---- looking ----


def _tree(directory: Path) -> Path:
    """The tree's real place."""
    if not directory.is_dir():
        raise CommandError(f"{directory} is no directory; name the one that Compose mounts as {MOUNT_PATH}")
    root = directory.resolve()
    if root == Path("/") or any(character.isspace() for character in str(root)):
        raise CommandError(f"{root} cannot be a volume; name the directory that Compose mounts as {MOUNT_PATH}")
    return root


def _plan(screen: Screen, request: Request, root: Path, settings: Settings) -> Plan:
    layout = Layout(root)
    data, *_ = settings.data_directories
    names = tuple(dict.fromkeys((*TOP_DIRECTORIES, *settings.data_directories)))
    _check_tree(layout, names, data)
    classes = _classes(layout)
    offset_source, offset_copy, offset_row = _offset(layout, request.compose)
    models = dated_models(layout, LINE)
    current = find_current(layout, LINE, models, settings.get("AZAION_ROOT_DIR", MOUNT_PATH))
    record = read_record(root)
    again = record is not None
    owned = (*names, CLASSES_FILE, compose_offset.OFFSET_FILE)
    with _progress(screen, "looking at the files") as progress:
        surveyed = survey(root, owned, progress, record.owners if record is not None else None)
    if record is None:
        record = Record(adopted=datetime.now(UTC), names=owned, owners=surveyed.owners, offset_source=offset_source)
    elif set(record.names) != set(owned):
        raise CommandError(
            f"{root} was adopted with other directories ({', '.join(sorted(set(record.names) ^ set(owned)))} differ); "
            "take it back with --undo first"
        )
    elif offset_copy is not None:
        record.offset_source = offset_source
    plan = Plan(layout, names, classes, record, surveyed, models, current, offset_copy, again=again)
    plan.rows += _owner_rows(plan)
    plan.rows += _model_rows(plan)
    plan.rows.append((CLASSES_FILE, f"{len(classes)} of at most 20", "stays as it is"))
    plan.rows.append(offset_row)
    plan.notes += _notes(plan, settings, request)
    return plan


def _check_tree(layout: Layout, names: Sequence[str], data: str) -> None:
    """Raises CommandError for half a tree, and for one whose parts lie elsewhere."""
    root = layout.root
    needed = [layout.images(data), layout.labels(data), layout.models, layout.classes]
    missing = [str(path.relative_to(root)) for path in needed if not path.exists() and not path.is_symlink()]
    if missing:
        raise CommandError(
            f"{root} lacks {', '.join(missing)}; name the directory that Compose mounts as {MOUNT_PATH}, or make what "
            "has never been there"
        )
    for name in names:
        for path in (root / name, layout.images(name), layout.labels(name)):
            if path.is_symlink():
                raise CommandError(
                    f"{path} is a symbolic link to {os.readlink(path)}, and pods see {root} alone; "
                    "move the directory itself there"
                )
            if path.exists() and not path.is_dir():
                raise CommandError(f"{path} is no directory; move it away")
    if layout.classes.is_symlink() or not layout.classes.is_file():
        raise CommandError(f"{layout.classes} is no file; put the list of classes itself there")


def _classes(layout: Layout) -> list[_Class]:
    try:
        found = msgspec.json.decode(layout.classes.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=list[_Class])
    except OSError as error:
        raise CommandError(f"{layout.classes} cannot be read ({error.strerror}); run this as root") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{layout.classes} is not a list of {{Id, Name, ShortName, Color}} ({error}); correct it"
        ) from error
    numbers = [entry.identifier for entry in found]
    if not found or len(set(numbers)) < len(numbers) or not all(0 <= number < 20 for number in numbers):
        raise CommandError(f"{layout.classes} has to give every class an Id of its own from 0 to 19; correct it")
    return found


def _offset(layout: Layout, directory: Path) -> tuple[str | None, bytes | None, tuple[str, str, str]]:
    """Where the offset file lies when outside of the tree, its content then, and the row that tells."""
    inside, outside = layout.root / compose_offset.OFFSET_FILE, directory / compose_offset.OFFSET_FILE
    name = compose_offset.OFFSET_FILE
    if (layout.ingest_state(INGEST) / _OFFSET_STATE).exists():
        return None, None, (name, "taken over", f"ingest {INGEST} goes on at its own offset")
    path = next((path for path in (inside, outside) if path.is_file()), None)
    if path is None:
        return None, None, (name, "missing", f"ingest {INGEST} begins with the first message of the stream")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); run this as root") from error
    number = compose_offset.next_offset(content.decode(errors="replace"))
    if number is None:
        raise CommandError(
            f"{path} holds no offset; correct it, or move it away to begin with the first message of the stream"
        )
    row = (name, str(number), f"ingest {INGEST} begins there")
    return (None, None, row) if path == inside else (str(outside), content, row)


def _owner_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    root, top = plan.layout.root, plan.record.owners[""].own
    now = Owner.of(os.stat(root))
    if now != _top_owner(now):
        yield str(root), f"{top.uid}:{top.gid}, mode {top.mode:o}", f"{UID}:{GID}, mode {_top_owner(now).mode:o}"
    for name, count in sorted(plan.surveyed.entries.items()):
        if (root / name).is_dir():
            changes = plan.surveyed.changes[name]
            then = f"{changes:,} change to {UID}:{GID}" if changes else f"belong to {UID}:{GID} already"
            yield f"{name}/", f"{count:,} files and directories", then


def _model_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for model in plan.models:
        if model.weights is None:
            then = "left alone: no best.pt in it"
        elif model.carded:
            then = "in the line's history already"
        else:
            then = f"in the line's history since {model.day}"
        yield f"models/{model.name}", model.weights or "", then
    link = f"models/{LINE}.pt"
    if plan.current is None:
        yield link, "missing", "the line begins without a current model"
    elif plan.current.switch:
        target = f"{plan.current.model.name}/{plan.current.model.file(LINE)}"
        yield link, plan.current.now, f"a link to {target}, the current model; what it was is kept in {STATE}"
    else:
        yield link, plan.current.now, "stays: the current model"


def _notes(plan: Plan, settings: Settings, request: Request) -> Iterator[str]:
    root = plan.layout.root
    if plan.again:
        yield f"{root} was adopted on {plan.record.adopted:%Y-%m-%d}; only what is missing is done"
    if plan.current is None and plan.models:
        newest = plan.models[-1].name
        yield (
            f"models/{LINE}.pt is missing, so the first run of the line is published without a comparison; "
            f"to compare with {newest}, pin it: kubectl azaion rollback {LINE} {newest}"
        )
    base = settings.get("TRAINING_MODEL", "yolo26m.pt")
    if not (plan.layout.models / base).exists():
        yield f"models/{base}, which runs start from, is missing; put it there (docs/install-k3s.md, step 7)"
    for name in settings.differing:
        yield f"{name} is another one in {compose.CONFIG_FILE}; {compose.ENV_FILE} counts"
    if settings.unused:
        yield f"nothing is made of {', '.join(settings.unused)}"
    if settings.get("AZAION_API_URL") and settings.api_secret is None:
        yield "AZAION_API_URL is given without AZAION_API_EMAIL and AZAION_API_PASSWORD, so there is no Secret for it"
    if request.dry_run and (found := holders(root)):
        yield f"{root} is in use by {', '.join(found[:5])}; that has to be stopped first"
    if request.compose.resolve().is_relative_to(root):
        yield f"{request.compose} lies in the volume, where every pod can read its passwords; move it out of {root}"


def _top_owner(now: Owner) -> Owner:
    return Owner(UID, GID, now.mode | stat.S_ISGID | 0o770)


def _ready_to_change(root: Path, doing: str, advice: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(
            f'only root may give files to others: sudo "$(command -v kubectl-azaion)" {doing} {shlex.quote(str(root))}'
        )
    found = holders(root)
    if found:
        raise CommandError(f"{root} is in use by {', '.join(found[:5])}; {advice}")


# ---- doing ----


def _apply(screen: Screen, plan: Plan) -> int:
    """Do it; how many files and directories got another owner. Safe to do again after a kill anywhere."""
    root, models = plan.layout.root, plan.layout.models
    state = root / STATE
    state.mkdir(mode=0o755, exist_ok=True)
    adopted = _to_card(plan)
    for _, model in adopted:
        plan.record.added += [path for path in _additions(model) if path not in plan.record.added]
    if plan.offset_copy is not None:
        plan.record.added.insert(0, compose_offset.OFFSET_FILE)
    _write(state / "record.json", msgspec.json.encode(plan.record), 0o644)
    with _progress(screen, "models", total=len(adopted)) as progress:
        for done, (place, model) in enumerate(adopted, start=1):
            _adopt_model(plan, model, place)
            progress(done)
    if plan.current is not None and plan.current.switch:
        target = f"{plan.current.model.name}/{plan.current.model.file(LINE)}"
        _switch(models / f"{LINE}.pt", target, state / f"{LINE}.pt")
    if plan.offset_copy is not None:
        _write(root / compose_offset.OFFSET_FILE, plan.offset_copy, 0o664)
    with _progress(screen, "owners", total=plan.surveyed.total) as progress:
        top = _top_owner(Owner.of(os.stat(root)))
        return change_owners(root, plan.record.names, wanted, top, progress)


def _to_card(plan: Plan) -> list[tuple[int, DatedModel]]:
    """The models that get a card, oldest first, with their place among all; the current one as it is found."""
    found = {model.name: model for model in plan.models if model.weights is not None}
    if plan.current is not None:
        found[plan.current.model.name] = plan.current.model
    ordered = sorted(found.values(), key=lambda model: (model.day, model.name))
    return [(place, model) for place, model in enumerate(ordered) if not model.carded]


def _additions(model: DatedModel) -> Iterator[str]:
    directory = f"models/{model.name}"
    yield f"{directory}/{CARD_FILE}"
    if model.new or "/" in (model.weights or ""):
        yield f"{directory}/{model.file(LINE)}"
    if model.new:
        yield directory


def _adopt_model(plan: Plan, model: DatedModel, place: int) -> None:
    models = plan.layout.models
    directory = models / model.name
    source = models / plan.current.file if model.new and plan.current else directory / (model.weights or "")
    file = directory / model.file(LINE)
    if model.new:
        directory.mkdir(exist_ok=True)
    if source != file and not file.exists():
        _second_name(source, file)
    elif source != file and not same_content(source, file):
        raise CommandError(f"{file} and {source} are different models; move the one away that is not to be used")
    _write(directory / CARD_FILE, write_card(card_of(LINE, model, sha256_of(file), place)), 0o664)


def _second_name(source: Path, name: Path) -> None:
    try:
        os.link(source, name)
    except OSError as error:
        raise CommandError(
            f"{source} cannot get a second name ({error.strerror}); the platform needs a file system with hard links, "
            "such as ext4 or xfs"
        ) from error


def _switch(link: Path, target: str, kept: Path) -> None:
    """Make the link, in one rename; what was there keeps its other name."""
    if not os.path.lexists(kept):
        os.link(link, kept, follow_symlinks=False)
    beside = _beside(link)
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def _beside(path: Path) -> Path:
    """Where a file is made before it gets its name."""
    return path.with_name(f".{path.name}.new")


def _write(path: Path, content: bytes, mode: int) -> None:
    """A file that is whole or not there, and durable."""
    beside = _beside(path)
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _progress(screen: Screen, text: str, total: int | None = None) -> Iterator[Progress]:
    """A bar on a terminal, nothing in a pipe."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=screen.console,
        transient=True,
        disable=not screen.terminal,
    )
    with bar:
        task = bar.add_task(text, total=total)
        yield lambda number: bar.update(task, completed=number)


# ---- settings ----


def _documents(request: Request, settings: Settings, plan: Plan) -> dict[str, str]:
    """The files that are written, by name."""
    root = plan.layout.root
    space = os.statvfs(root)
    node = request.node or socket.gethostname().lower()
    where = Installation(request.namespace, str(root), node, space.f_blocks * space.f_frsize)
    classes = [msgspec.to_builtins(entry) for entry in plan.classes]
    for entry in classes:
        # Only the annotation tools look at it; the chart takes colours as HTML has them.
        if not _COLOUR.fullmatch(entry.get("Color", "")):
            entry.pop("Color", None)
    return {
        "values.yaml": compose.as_yaml(compose.chart_values(settings, where, classes)),
        "secrets.yaml": compose.as_yaml(*compose.secrets(settings, where)),
        "resources.yaml": compose.as_yaml(*compose.resources(settings, where)),
        "trainingrun.yaml": compose.as_yaml(compose.training_run(settings, where)),
    }


def _document_rows(request: Request, settings: Settings) -> Iterator[tuple[str, str, str]]:
    for source in (compose.ENV_FILE, compose.CONFIG_FILE):
        names = [name for name, file in settings.sources.items() if file == source]
        if names:
            yield source, plural(len(names), "setting"), f"values.yaml, secrets.yaml and resources in {request.output}"


def _write_documents(screen: Screen, output: Path, documents: dict[str, str]) -> None:
    """Write them for their owner alone; what is there and different is somebody's work and stays."""
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        _for_caller(output)
        for name, text in documents.items():
            path = output / name
            if path.exists() and path.read_text() != text:
                screen.say(f"Note: {path} is there and differs; it is left alone. Remove it to have it written anew.")
                continue
            _write(path, text.encode(), 0o600)
            _for_caller(path)
    except OSError as error:
        raise CommandError(
            f"{error.filename or output} cannot be written ({error.strerror}); the tree is adopted, "
            "run the same command again with another --to"
        ) from error


def _for_caller(path: Path) -> None:
    """With sudo, the files are for who called it."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if uid.isdecimal() and gid.isdecimal() and os.geteuid() == 0:
        os.chown(path, int(uid), int(gid), follow_symlinks=False)


def _summary(plan: Plan, changed: int) -> str:
    what = "was adopted already" if plan.again else "is adopted"
    given = f"{changed:,} files and directories were given to {UID}:{GID}" if changed else "nothing had to change"
    return f"{plan.layout.root} {what}: {given}. The way back: kubectl-azaion adopt {plan.layout.root} --undo"


def _next_steps(request: Request) -> str:
    files, namespace = request.output, request.namespace
    return (
        f"Next:\n"
        f"  kubectl create namespace {namespace}\n"
        f"  kubectl apply -f {files}/secrets.yaml\n"
        f"  helm upgrade --install azaion charts/azaion -n {namespace} --wait "
        f"-f samples/values.production.yaml -f {files}/values.yaml\n"
        f"  kubectl apply -f {files}/resources.yaml\n"
        f"  kubectl azaion preflight -n {namespace} -f {files}/trainingrun.yaml"
    )


# ---- the way back ----


def read_record(root: Path) -> Record | None:
    """The record of an adoption, None without one. Raises CommandError for one that cannot be trusted or read."""
    path = root / STATE / "record.json"
    try:
        status = path.lstat()
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}); run this as root") from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022 or not stat.S_ISREG(status.st_mode):
        raise CommandError(f"{path} is not root's alone, so it may say anything; remove {path.parent}, or its changes")
    try:
        found = msgspec.json.decode(content, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is damaged ({error}); restore it from a backup, or remove {path.parent}") from error
    if found.version != _RECORD_VERSION:
        raise CommandError(f"{path} is of version {found.version}; use the kubectl-azaion that wrote it")
    return found


def _undo(screen: Screen, directory: Path, *, dry_run: bool) -> int:
    root = _tree(directory)
    layout = Layout(root)
    record = read_record(root)
    if record is None and (root / STATE).is_dir() and not dry_run:
        # Killed before anything changed, or when everything was back.
        _remove_state(root)
        screen.say(f"{root} is as it was.")
        return 0
    if record is None:
        raise CommandError(f"{root} is not adopted: {root / STATE / 'record.json'} is not there; nothing to undo")
    if layout.models.is_symlink():
        raise CommandError(f"{layout.models} is a symbolic link now; put the directory back first")
    steps = _returns(layout, record)
    unfinished = sorted(str(path) for path in (root / ".ingest").glob("*/batch.msgpack"))
    if unfinished:
        raise CommandError(
            f"{unfinished[0]} is a batch of messages that is filed in part; start that ingest once more, "
            "and suspend it before the platform is removed"
        )
    screen.table(("WHAT", "NOW", "THEN"), _undo_rows(layout, record, steps))
    if dry_run:
        screen.say("Nothing was changed.")
        return 0
    _ready_to_change(root, "adopt --undo", "remove the platform first: helm uninstall azaion -n azaion")
    _restore_link(layout)
    for path in record.added:
        _remove_added(root / path)
    for step in steps:
        _return_offset(root, step)
    owners = record.owners
    with _progress(screen, "owners") as progress:
        changed = change_owners(root, record.names, lambda entry: original(owners, entry), owners[""].own, progress)
    _remove_state(root)
    screen.say(f"{root} is as it was: {changed:,} files and directories were given back.")
    left = [name for name in (".ingest", "runs", "data-rejected", "data-corrupted") if (root / name).exists()]
    if left:
        screen.say(f"What the platform made is left: {', '.join(left)}, and new files beside the old ones.")
    return 0


@dataclass(frozen=True)
class _OffsetReturn:
    """An offset file that an ingest has taken over, and what it says on the way back."""

    taken: Path
    target: Path
    text: str
    now: int
    state: Path


def _returns(layout: Layout, record: Record) -> list[_OffsetReturn]:
    found = []
    prefix = compose_offset.taken_over_by("")
    target = Path(record.offset_source) if record.offset_source else layout.root / compose_offset.OFFSET_FILE
    for taken in sorted(layout.root.glob(f"{prefix}*")):
        state = layout.ingest_state(taken.name.removeprefix(prefix))
        text = taken.read_text(errors="replace")
        before = compose_offset.next_offset(text) or 0
        now = max(before, _next_of(state))
        found.append(_OffsetReturn(taken, target, compose_offset.with_next_offset(text, now), now, state))
    return found


def _next_of(state: Path) -> int:
    """The next message an ingest would read; 0 when it has filed none."""
    for name in (_OFFSET_STATE, _GIVEN_BACK):
        try:
            offset = msgspec.json.decode((state / name).read_bytes(), type=_OffsetState).offset
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandError(f"{state / name} cannot be read ({error}); correct it, its offset is needed") from error
        return 0 if offset is None else offset + 1
    return 0


def _undo_rows(layout: Layout, record: Record, steps: Iterable[_OffsetReturn]) -> Iterator[tuple[str, str, str]]:
    top = record.owners[""].own
    yield str(layout.root), f"{UID}:{GID}", f"{top.uid}:{top.gid}, and every file what it had"
    link, kept = layout.model_link(LINE), layout.root / STATE / f"{LINE}.pt"
    if os.path.lexists(kept):
        now = f"a link to {os.readlink(link)}" if link.is_symlink() else "missing" if not link.exists() else "a file"
        yield f"models/{LINE}.pt", now, "what it was before"
    if record.added:
        yield "cards and second names", plural(len(record.added), "path"), "removed"
    for step in steps:
        yield compose_offset.OFFSET_FILE, step.taken.name, f"{step.target} says {step.now}: Compose goes on there"


def _remove_state(root: Path) -> None:
    record = root / STATE / "record.json"
    _beside(record).unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    with suppress(OSError):
        (root / STATE).rmdir()


def _restore_link(layout: Layout) -> None:
    link, kept = layout.model_link(LINE), layout.root / STATE / f"{LINE}.pt"
    _beside(link).unlink(missing_ok=True)
    if not os.path.lexists(kept):
        return
    if os.path.lexists(link) and os.path.samestat(link.lstat(), kept.lstat()):
        kept.unlink()
    else:
        kept.replace(link)


def _remove_added(path: Path) -> None:
    """Take away what the adoption made; a model that has no other name by now stays."""
    with suppress(FileNotFoundError, NotADirectoryError):
        _beside(path).unlink(missing_ok=True)
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            with suppress(OSError):
                path.rmdir()
        elif path.name in (CARD_FILE, compose_offset.OFFSET_FILE) or status.st_nlink > 1:
            path.unlink()


def _return_offset(root: Path, step: _OffsetReturn) -> None:
    """In an order that a kill anywhere leaves to be done again."""
    with suppress(FileNotFoundError):
        os.rename(step.state / _OFFSET_STATE, step.state / _GIVEN_BACK)
    before = step.target.stat() if step.target.exists() else step.taken.stat()
    if step.text == step.taken.read_text(errors="replace") and step.target.parent == root:
        os.rename(step.taken, step.target)
    else:
        _write(step.target, step.text.encode(), stat.S_IMODE(before.st_mode))
        os.chown(step.target, before.st_uid, before.st_gid)
    step.taken.unlink(missing_ok=True)
