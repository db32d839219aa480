"""One writer per directory: a second one is refused with the first one's name, a dead one's locks are free at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from azaion_consumer.errors import StorageError, StorageReason
from azaion_consumer.lock import LOCK_FILE, DirectoryLocks, LockHolder

HOLD = """
import sys, time
from pathlib import Path
from azaion_consumer.lock import DirectoryLocks, LockHolder
locks = DirectoryLocks([Path(path) for path in sys.argv[1:]], LockHolder("first", "123"))
locks.acquire()
locks.sign()
print("held", flush=True)
time.sleep(600)
"""


def locks(root: Path, *names: str, ingest: str = "second") -> DirectoryLocks:
    for name in names:
        (root / name).mkdir(exist_ok=True)
    return DirectoryLocks([root / name for name in names], LockHolder(ingest, "1"))


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_locks_free(tmp_path: Path) -> None:
    second = locks(tmp_path, "data", "seed")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "seed"), str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            StorageError, match=r"the AnnotationIngest first \(pod 123\) files into .*/data al"
        ) as caught:
            second.acquire()
        assert caught.value.reason is StorageReason.TREE_LOCKED
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    assert second.acquire() == {"first"}, "who filed there before is told"
    second.sign()
    assert second.acquire() == frozenset()
    second.release()


def test_one_directory_in_common_is_enough_to_be_refused_and_none_is_kept_then(tmp_path: Path) -> None:
    first = locks(tmp_path, "data", "b", "c", ingest="first")
    first.acquire()
    second = locks(tmp_path, "a", "data", "z")
    with pytest.raises(StorageError, match="/data already"):
        second.acquire()
    locks(tmp_path, "a", "z", ingest="third").acquire()


def test_directories_beside_each_other_have_a_writer_each(tmp_path: Path) -> None:
    locks(tmp_path, "data", "seed", ingest="first").acquire()
    locks(tmp_path, "other", "other-seed").acquire()


def test_the_same_directory_by_another_path_is_the_same_lock(tmp_path: Path) -> None:
    locks(tmp_path, "data", ingest="first").acquire()
    (tmp_path / "mount").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="already"):
        locks(tmp_path / "mount", "data").acquire()


def test_taking_them_again_is_nothing_to_do(tmp_path: Path) -> None:
    found = locks(tmp_path, "data", "seed")
    found.acquire()
    found.acquire()
    found.verify()


def test_a_lock_file_that_was_removed_or_replaced_is_no_lock(tmp_path: Path) -> None:
    found = locks(tmp_path, "data", "seed")
    found.acquire()
    (tmp_path / "seed" / LOCK_FILE).unlink()
    with pytest.raises(StorageError, match="was removed"):
        found.verify()
    found.acquire()
    found.verify()
    (tmp_path / "seed" / LOCK_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / "seed" / LOCK_FILE).touch()
    with pytest.raises(StorageError, match="was removed"):
        found.verify()


def test_a_lock_file_that_a_power_cut_emptied_names_nobody(tmp_path: Path) -> None:
    found = locks(tmp_path, "data")
    (tmp_path / "data" / LOCK_FILE).write_bytes(b'{"ingest":"fi')
    assert found.acquire() == frozenset()


def test_what_is_not_held_does_not_verify(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="are not held"):
        locks(tmp_path, "data").verify()
