"""Power cuts: what was not flushed to the disk is really gone, and still every message is applied once and in order."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumer_process import INGEST, Bench, wait_for
from workload import filed, uninterrupted, workload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_DEVICE = Path(__file__).with_name("power_device.py")
_SIZE_BYTES = 192 * 1024 * 1024
_MESSAGES_PER_CUT = 250


class Machine:
    """A disk with an ext4 on it, whose power can be cut; the next start finds what the disk held."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bus, self.root = directory / "bus", directory / "root"
        self._image: Path | None = None
        self._device: subprocess.Popen[str] | None = None
        self._loop = ""
        self._number = 0
        for path in (self._bus, self.root):
            path.mkdir(parents=True)

    def power_on(self) -> None:
        """Bring the disk up and mount it; its journal is replayed."""
        command = [sys.executable, str(_DEVICE), str(self._bus), str(_SIZE_BYTES)]
        command += [str(self._image)] if self._image else []
        self._device = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._device.stdout is not None
        assert self._device.stdout.readline() == "mounted\n"
        disk = str(self._bus / "disk")
        if self._image is None:
            made = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk]
            subprocess.run(made, check=True)
        else:
            self._image.unlink()
        self._loop = subprocess.run(
            ["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True
        ).stdout.strip()
        # Without the flush that ext4 slips in for those who forget their own.
        mount = ["mount", "-t", "ext4", "-o", "noauto_da_alloc,nodiscard", self._loop, str(self.root)]
        subprocess.run(mount, check=True)

    def cut_power(self, seed: int) -> tuple[int, int]:
        """Returns how many blocks were not flushed, and how many of them are lost."""
        assert self._device is not None
        assert self._device.stdin is not None
        assert self._device.stdout is not None
        self._number += 1
        self._image = self._directory / f"image-{self._number}"
        self._device.stdin.write(f"cut {seed} {self._image}\n")
        self._device.stdin.flush()
        pending, lost, _ = self._device.stdout.readline().split()
        return int(pending), int(lost)

    def take_down(self) -> None:
        """Everything of it in the kernel goes."""
        if self._device is None:
            return
        subprocess.run(["umount", "--lazy", str(self.root)], check=False, capture_output=True)
        if self._loop:
            subprocess.run(["losetup", "--detach", self._loop], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", str(self._bus)], check=False, capture_output=True)
        assert self._device.stdin is not None
        self._device.stdin.close()
        self._device.wait(30)
        self._device = None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Needs root, FUSE and a loop device."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("a disk of our own needs root, /dev/fuse and /dev/loop-control")
    found = Machine(tmp_path / "machine")
    yield found
    found.take_down()


@pytest.mark.parametrize("cuts", [4, pytest.param(60, marks=pytest.mark.faults)])
def test_a_power_cut_at_any_moment_leaves_what_the_next_start_makes_whole(
    bench: Bench, machine: Machine, cuts: int
) -> None:
    entries = workload(_MESSAGES_PER_CUT * (cuts + 1))
    choose = random.Random(cuts)
    tree = machine.root / "tree"
    pending = lost = unfinished = 0
    for cut in range(cuts):
        bench.publish(entries[_MESSAGES_PER_CUT * cut : _MESSAGES_PER_CUT * (cut + 1)])
        machine.power_on()
        tree.mkdir(exist_ok=True)
        consumer = bench.start(tree)
        before = bench.committed(tree).get("offset", -1)
        staging = tree / ".ingest" / INGEST / "staging"
        staged = choose.randrange(1, 150)

        def begun(staged: int = staged, before: int = before, staging: Path = staging) -> bool:
            return staged_files(staging) >= staged or bench.committed(tree).get("offset", -1) > before

        wait_for("some work to be interrupted", begun, interval_s=0.0005)
        unfinished += staged_files(staging) > 0
        of_these, gone = machine.cut_power(choose.randrange(2**31))
        consumer.kill()
        pending, lost = pending + of_these, lost + gone
        machine.take_down()
    bench.publish(entries[_MESSAGES_PER_CUT * cuts :])
    machine.power_on()
    last = bench.start(tree)
    wait_for("everything to be filed", lambda: filed(bench, tree) >= len(entries), 120)
    assert last.terminate() == 0
    assert unfinished > 0, "no cut hit a batch"
    print(
        f"{cuts} power cuts: {pending} blocks not flushed, {lost} of them lost, {unfinished} in the middle of a batch"
    )
    assert filed(bench, tree) == len(entries), "a message was applied twice, or not at all"
    assert bench.tree(tree) == uninterrupted(bench, len(entries))


def staged_files(path: Path) -> int:
    try:
        return len(os.listdir(path))
    except FileNotFoundError:
        return 0
