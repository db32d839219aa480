"""One writer per tree: a second one is refused with the first one's name, a dead one's lock is free at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from azaion_consumer.errors import StorageError, StorageReason
from azaion_consumer.lock import LOCK_FILE, TreeLock

HOLD = """
import sys, time
from pathlib import Path
from azaion_consumer.lock import TreeLock
lock = TreeLock(Path(sys.argv[1]), "the AnnotationIngest first (pod 123)")
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_lock_free(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        second = TreeLock(tmp_path, "second")
        with pytest.raises(StorageError, match=r"the AnnotationIngest first \(pod 123\) files into") as caught:
            second.acquire()
        assert caught.value.reason is StorageReason.TREE_LOCKED
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    second.acquire()
    assert (tmp_path / LOCK_FILE).read_text() == "second\n"
    second.release()


def test_taking_it_again_is_nothing_to_do(tmp_path: Path) -> None:
    lock = TreeLock(tmp_path, "one")
    lock.acquire()
    lock.acquire()
    lock.verify()


def test_a_lock_file_that_was_removed_or_replaced_is_no_lock(tmp_path: Path) -> None:
    lock = TreeLock(tmp_path, "one")
    lock.acquire()
    (tmp_path / LOCK_FILE).unlink()
    with pytest.raises(StorageError, match="was removed"):
        lock.verify()
    lock.acquire()
    lock.verify()
    (tmp_path / LOCK_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / LOCK_FILE).touch()
    with pytest.raises(StorageError, match="was removed"):
        lock.verify()


def test_what_is_not_held_does_not_verify(tmp_path: Path) -> None:
    lock = TreeLock(tmp_path, "one")
    with pytest.raises(StorageError, match="is not held"):
        lock.verify()
