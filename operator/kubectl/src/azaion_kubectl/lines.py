"""Model lines: going back to an earlier model, and copying a model out of the cluster."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from azaion_api.facts import STORAGE
from azaion_api.layout import MOUNT_PATH
from azaion_api.model_line import ModelRecord
from azaion_api.names import Kind
from azaion_api.resources import ModelLine, to_plain
from azaion_api.words import size
from azaion_kubectl.access import Kubectl
from azaion_kubectl.errors import CommandError
from azaion_kubectl.runs import find
from azaion_kubectl.screen import Screen, ago, figure, now

_CHUNK = 1 << 20
#: Of the file of each format.
SUFFIXES = {"pytorch": ".pt", "onnx": ".onnx", "tensorrt": ".engine", "rknn": ".rknn"}


def rollback(kubectl: Kubectl, screen: Screen, line_name: str, model: str | None, *, release: bool) -> int:
    """Pin the line to an earlier model, or release it; without a model, to the previous one."""
    line = kubectl.get(Kind.MODEL_LINE, line_name, ModelLine)
    status, pinned = line.status, line.spec.pinned_model
    if release:
        if pinned is None:
            screen.say(f"{line_name} is not pinned; its current model is {_current(line)}.")
            return 0
        kubectl.patch(Kind.MODEL_LINE, line_name, {"spec": {"pinnedModel": None}})
        screen.say(f"{line_name} is released from {pinned}: the next better model becomes current.")
        return 0
    wanted = _wanted(line, model)
    if pinned == wanted.name:
        screen.say(f"{line_name} is pinned to {wanted.name} already: {status.message or 'it holds there'}")
        return 0
    kubectl.patch(Kind.MODEL_LINE, line_name, {"spec": {"pinnedModel": wanted.name}})
    screen.say(
        f"{line_name} goes from {_current(line)} to {wanted.name} "
        f"(mAP50-95 {figure(wanted.map50to95)}, run {wanted.run or '-'}) and holds there: later runs are not promoted. "
        f"To end this: kubectl azaion rollback {line_name} --release"
    )
    return 0


def models(kubectl: Kubectl, screen: Screen, line_name: str, *, as_json: bool) -> int:
    """The models of a line, the newest first."""
    line = kubectl.get(Kind.MODEL_LINE, line_name, ModelLine)
    if as_json:
        screen.json(to_plain(line))
        return 0
    current, at = line.status.current, now()
    if not line.status.history:
        screen.say(f"{line_name} has no model yet.")
        return 0
    screen.table(
        ("", "MODEL", "mAP50-95", "mAP50", "RUN", "SINCE"),
        (
            (
                "*" if current and model.name == current.name else " ",
                model.name,
                figure(model.map50to95),
                figure(model.map50),
                model.run,
                ago(model.time, at),
            )
            for model in line.status.history
        ),
    )
    return 0


def _current(line: ModelLine) -> str:
    return line.status.current.name if line.status.current else "no model"


def _wanted(line: ModelLine, model: str | None) -> ModelRecord:
    known = {record.name: record for record in line.status.history}
    for record in (line.status.previous, line.status.current):
        if record is not None:
            known.setdefault(record.name, record)
    if model is not None:
        if model not in known:
            raise CommandError(f"{line.metadata.name} has no model {model}; it has: {', '.join(known) or 'none'}")
        return known[model]
    if line.status.previous is None:
        raise CommandError(f"{line.metadata.name} has no model before {_current(line)}; there is nothing to go back to")
    return line.status.previous


# ---- copying ----


@dataclass(frozen=True)
class RemoteFile:
    """A file on the volume, relative to its root; `sha256` is what the status says, if it does."""

    path: str
    sha256: str | None


def locate(kubectl: Kubectl, source: str, format_: str) -> RemoteFile:
    """The file of `LINE`, `LINE/MODEL` or `run/RUN` in that format."""
    head, _, tail = source.partition("/")
    suffix = SUFFIXES[format_.lower()]
    if head == "run":
        return _of_run(kubectl, tail, suffix)
    line = kubectl.get(Kind.MODEL_LINE, head, ModelLine)
    record = _wanted(line, tail) if tail else line.status.current
    if record is None:
        raise CommandError(f"{head} has no model yet; kubectl azaion queue shows what is under way")
    if suffix == ".pt":
        return RemoteFile(record.path, record.sha256)
    directory = str(PurePosixPath(record.path).parent)
    listed = _in_storage(kubectl, f"ls -1 {shlex.quote(directory)}").splitlines()
    found = [name for name in listed if name.endswith(suffix)]
    if not found:
        raise CommandError(f"{directory} holds no {suffix} file, only: {', '.join(listed)}")
    return RemoteFile(f"{directory}/{found[0]}", None)


def _of_run(kubectl: Kubectl, name: str, suffix: str) -> RemoteFile:
    if not name:
        raise CommandError("name the run as run/NAME")
    models = [model for model in find(kubectl, name).status.models if model.path.endswith(suffix)]
    if not models:
        raise CommandError(f"{name} has made no {suffix} file yet; see kubectl azaion describe {name}")
    # The newest word on it: deployed comes after trained.
    return RemoteFile(models[-1].path, models[-1].sha256)


def copy(kubectl: Kubectl, screen: Screen, source: str, destination: str | None, *, format_: str) -> int:
    """Copy a model out, through the storage pod, and compare its digest."""
    remote = locate(kubectl, source, format_)
    if not _is_safe(remote.path):
        raise CommandError(f"the status names {remote.path!r}, which is no file below the storage's root")
    expected = remote.sha256 or _in_storage(kubectl, f"sha256sum {shlex.quote(remote.path)}").split()[0]
    if destination == "-":
        _fetch(kubectl, remote.path, None)
        return 0
    target = Path(destination or PurePosixPath(remote.path).name)
    if target.is_dir():
        target = target / PurePosixPath(remote.path).name
    partial = target.with_name(f".{target.name}.part")
    try:
        digest = _fetch(kubectl, remote.path, partial)
        if digest != expected:
            raise CommandError(
                f"{remote.path} arrived with sha256 {digest[:12]} instead of {expected[:12]}; "
                "nothing was kept, try again"
            )
        os.replace(partial, target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    screen.say(f"{remote.path} -> {target} ({size(target.stat().st_size)}, sha256 {expected[:12]} verified)")
    return 0


def _is_safe(path: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", path)) and ".." not in path.split("/")


def _in_storage(kubectl: Kubectl, script: str) -> str:
    return kubectl.run("exec", f"deployment/{STORAGE}", "--", "sh", "-c", f"cd {MOUNT_PATH} && {script}")


def _fetch(kubectl: Kubectl, path: str, target: Path | None) -> str:
    """Write the file there, or to standard output; its sha256."""
    digest = hashlib.sha256()
    with kubectl.opened_bytes("exec", f"deployment/{STORAGE}", "--", "cat", f"{MOUNT_PATH}/{path}") as process:
        if process.stdout is None:
            raise CommandError("kubectl has no output")
        with target.open("wb") if target is not None else open(sys.stdout.fileno(), "wb", closefd=False) as out:
            while chunk := process.stdout.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
        complaint = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if process.wait():
            raise CommandError(f"{path} cannot be read from the storage pod: {complaint}")
    return digest.hexdigest()
