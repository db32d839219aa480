"""Tests of the trainer share their object factories (`trainer_make`)."""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from trainer_make import storage_tree

from azaion_api.layout import Layout
from azaion_trainer.engine import environment

# Read when torch and ultralytics are imported, by whichever test does so first.
os.environ.update(environment(1))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty storage with classes.json."""
    return storage_tree(tmp_path / "azaion")


@pytest.fixture(autouse=True, scope="session")
def _room_on_the_volume() -> Iterator[None]:
    """The machine's own disk may be so full that no training would start; tests of that say what is free themselves."""
    with pytest.MonkeyPatch.context() as patched:
        volume = shutil.disk_usage("/")._replace(total=1 << 40, free=1 << 39)
        patched.setattr(shutil, "disk_usage", lambda _path: volume)
        yield


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Stages take over SIGTERM, the umask and the root logger, as a pod's only program may."""
    handler = signal.getsignal(signal.SIGTERM)
    mask = os.umask(0o022)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    signal.signal(signal.SIGTERM, handler)
    os.umask(mask)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
