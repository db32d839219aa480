"""Kills at every file operation: the n-th call that changes the file system ends the work, as SIGKILL would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: What changes names or makes things durable. Reading changes nothing, and a half-written file has a temporary name.
CALLS = {os: ("rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir", "fsync")}


class KilledError(BaseException):
    """The process is gone: nothing after this runs."""


@contextmanager
def killed_at(number: int | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Within, the operation of that number, from 1, does not happen, and no other after it: clean-up does not run."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if number is not None and len(done) + 1 >= number:
                raise KilledError(name)
            done.append(name)
            return original(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for module, names in CALLS.items():
            for name in names:
                patch.setattr(module, name, counted(name, getattr(module, name)))
        yield done


def at_every_crash_point(
    template: Path, work: Callable[[Path], None], check: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Kill `work` at each of its file operations, then let it run again and `check` the tree; the number of kills."""
    for number in range(1, 1000):
        root = template.with_name(f"{template.name}-{number}")
        shutil.copytree(template, root, symlinks=True)
        survived = True
        with killed_at(number, monkeypatch):
            try:
                work(root)
            except KilledError:
                survived = False
        if survived:
            return number - 1
        work(root)
        check(root)
        shutil.rmtree(root)
    raise AssertionError("the work never came to its end")
