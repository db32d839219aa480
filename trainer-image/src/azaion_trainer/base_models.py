"""`azaion-trainer add-model`: base models that an offline pod cannot download, checked and put into models/."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from azaion_api.layout import Layout
from azaion_trainer import files

#: As TrainingRun's model.base allows it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}\.pt")
STANDARD_INPUT = "-"


class RefusedError(Exception):
    """The model is not taken; the message says why and what to do."""


def add_model(layout: Layout, file: str, name: str | None, replace: bool) -> int:
    """Check `file` (`-` is standard input) and copy it to models/; print what came of it. 0, or 1 when refused."""
    try:
        print(_add(layout, file, name, replace))
    except (RefusedError, OSError) as error:
        print(f"azaion-trainer add-model: {error}", file=sys.stderr)
        return 1
    return 0


def _add(layout: Layout, file: str, name: str | None, replace: bool) -> str:
    target = layout.models / _target_name(file, name)
    if not layout.models.is_dir():
        raise RefusedError(
            f"{layout.models} is not there; is the storage mounted at {layout.root}? (--root names another)"
        )
    if target.is_symlink():
        raise RefusedError(f"models/{target.name} is a line's current model; choose another --name")
    os.umask(0o002)
    received = layout.models / f".adding-{os.getpid()}-{target.name}"
    try:
        _receive(file, received)
        classes = _check(received)
        digest = files.sha256_of(received)
        if target.exists() and files.sha256_of(target) == digest:
            return f"models/{target.name} is there already, with the same contents"
        if target.exists() and not replace:
            raise RefusedError(
                f"models/{target.name} is another model; --replace replaces it, or choose another --name"
            )
        received.replace(target)
        files.sync_directory(layout.models)
    finally:
        received.unlink(missing_ok=True)
    size_mb = target.stat().st_size / 1e6
    return (
        f"models/{target.name}: {size_mb:.1f} MB, {classes} classes, sha256 {digest}\n"
        f"Runs with `model: {{base: {target.name}}}` can start now; one that waited for it starts by itself."
    )


def _target_name(file: str, name: str | None) -> str:
    if name is None:
        if file == STANDARD_INPUT:
            raise RefusedError("a model from standard input needs --name, for example --name yolo26m.pt")
        name = Path(file).name
    if not _NAME.fullmatch(name):
        raise RefusedError(
            f"{name!r} is no name for models/: letters, digits, . _ - and .pt at the end, such as yolo26m.pt"
        )
    return name


def _receive(file: str, target: Path) -> None:
    """The bytes, durably, on the storage but not yet under a name a run could find."""
    if file == STANDARD_INPUT:
        with files.replacing(target) as writer:
            shutil.copyfileobj(sys.stdin.buffer, writer, 1 << 20)
        if target.stat().st_size == 0:
            raise RefusedError("nothing came from standard input; is it redirected from the file (< yolo26m.pt)?")
        return
    source = Path(file)
    if not source.is_file():
        raise RefusedError(f"{file} is not there")
    files.copy_file(source, target)


def _check(path: Path) -> int:
    """Classes of the detection model in the file, read without running any code of it. Raises RefusedError."""
    from azaion_trainer import engine
    from azaion_trainer.cores import available_cores

    cores = available_cores()
    os.environ.update(engine.environment(cores))
    engine.start(cores, lambda *_: None)
    from azaion_trainer.judging import UnloadableError, class_names, load_model

    try:
        return len(class_names(load_model(path)))
    except UnloadableError as error:
        raise RefusedError(f"this is no YOLO detection model that can be used: {error}") from error
