"""A disk that really loses what was not flushed when its power is cut.

A process of our own serves one file through FUSE, and the kernel's loop device makes a block device of it, with ext4
on top. Writes are kept apart until the file system flushes its device. A cut fails every request from then on, and
leaves an image of what a disk may hold at that moment: all that was flushed, and of the rest some blocks in any order,
the last of them perhaps torn in two.

    python power_device.py MOUNT_POINT SIZE_BYTES [IMAGE]

On its standard input it takes one line, `cut SEED PATH`: cut now, write the image to PATH and print how many blocks
were lost. It ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import struct
import sys
from typing import Final

BLOCK: Final = 4096
SECTOR: Final = 512
_MAX_WRITE: Final = 1024 * 1024
_ROOT, _DISK = 1, 2
_NAME: Final = b"disk"

# Of the kernel's include/uapi/linux/fuse.h.
_IN_HEADER = struct.Struct("<IIQQIIII")
_OUT_HEADER = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_OPEN_OUT = struct.Struct("<QIi")
_READ_WRITE_IN = struct.Struct("<QQIIQII")
_STATFS_OUT = struct.Struct("<QQQQQIIII6I")
_LOOKUP, _FORGET, _GETATTR, _SETATTR = 1, 2, 3, 4
_OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC = 14, 15, 16, 17, 18, 20
_FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _ACCESS, _DESTROY, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 29, 34, 38, 36, 42
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22


class Disk:
    """The bytes: as the kernel sees them, and as they would be after a cut."""

    def __init__(self, size_bytes: int, image: str | None) -> None:
        self.size_bytes = size_bytes
        self._now = bytearray(size_bytes)
        if image is not None:
            with open(image, "rb") as file:
                file.readinto(self._now)
        self._flushed = bytearray(self._now)
        #: Since the last flush, in order.
        self._pending: list[tuple[int, bytes]] = []
        self.flushes = 0
        self.is_cut = False

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self._now)[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        self._now[offset : offset + len(data)] = data
        self._pending.append((offset, data))

    def flush(self) -> None:
        self.flushes += 1
        for offset, data in self._pending:
            self._flushed[offset : offset + len(data)] = data
        self._pending.clear()

    def cut(self, choose: random.Random, path: str) -> tuple[int, int]:
        """Write down what is left; returns how many pending blocks there were and how many of them are lost."""
        self.is_cut = True
        blocks = [
            (offset + start, data[start : start + BLOCK])
            for offset, data in self._pending
            for start in range(0, len(data), BLOCK)
        ]
        # A disk keeps all, none, a beginning or any of what it was sent since the last flush.
        kept = choose.choice(
            [
                blocks,
                [],
                blocks[: choose.randrange(len(blocks) + 1)],
                [block for block in blocks if choose.random() < choose.random()],
            ]
        )
        for number, (offset, data) in enumerate(kept):
            whole = number < len(kept) - 1 or choose.random() < 0.5
            part = data if whole else data[: SECTOR * choose.randrange(BLOCK // SECTOR)]
            self._flushed[offset : offset + len(part)] = part
        with open(path, "wb") as file:
            file.write(self._flushed)
        return len(blocks), len(blocks) - len(kept)


class Server:
    """Answers the kernel."""

    def __init__(self, device: int, disk: Disk) -> None:
        self._device = device
        self._disk = disk

    def serve(self) -> None:
        """Until the file system is unmounted or the standard input closed."""
        while True:
            ready, _, _ = select.select([self._device, 0], [], [])
            if 0 in ready and not self._command():
                return
            if self._device in ready and not self._answer():
                return

    def _command(self) -> bool:
        line = sys.stdin.readline().split(maxsplit=2)
        if not line:
            return False
        pending, lost = self._disk.cut(random.Random(line[1]), line[2].rstrip("\n"))
        print(pending, lost, self._disk.flushes, flush=True)
        return True

    def _answer(self) -> bool:
        try:
            request = os.read(self._device, _MAX_WRITE + 4096 + _IN_HEADER.size)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                return True
            raise
        _, operation, unique, node, *_ = _IN_HEADER.unpack_from(request)
        body = memoryview(request)[_IN_HEADER.size :]
        if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return True
        code, answer = self._do(operation, node, body)
        head = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), -code, unique)
        os.writev(self._device, [head, answer])
        return operation != _DESTROY

    def _do(self, operation: int, node: int, body: memoryview) -> tuple[int, bytes | memoryview]:
        disk = self._disk
        if operation == _INIT:
            _, minor, read_ahead, flags = struct.unpack_from("<IIII", body)
            wanted = flags & (_BIG_WRITES | _MAX_PAGES)
            return 0, _INIT_OUT.pack(
                7, min(minor, 31), read_ahead, wanted, 16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0, 0, *([0] * 7)
            )
        if operation == _LOOKUP:
            if bytes(body).rstrip(b"\0") != _NAME:
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", _DISK, 0, 3600, 3600, 0, 0) + self._attributes(_DISK)
        if operation in (_GETATTR, _SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if operation in (_OPEN, _OPENDIR):
            return 0, _OPEN_OUT.pack(0, 0, 0)
        if operation == _STATFS:
            return 0, _STATFS_OUT.pack(1 << 20, 1 << 20, 1 << 20, 9, 9, 4096, 255, 4096, 0, *([0] * 6))
        if operation in (_RELEASE, _RELEASEDIR, _ACCESS, _DESTROY):
            return 0, b""
        if operation in (_READ, _WRITE, _FSYNC, _FLUSH) and disk.is_cut:
            return errno.EIO, b""
        if operation == _READ:
            _, offset, size, *_ = _READ_WRITE_IN.unpack_from(body)
            return 0, disk.read(offset, size)
        if operation == _WRITE:
            _, offset, size, *_ = _READ_WRITE_IN.unpack_from(body)
            disk.write(offset, bytes(body[_READ_WRITE_IN.size : _READ_WRITE_IN.size + size]))
            return 0, struct.pack("<II", size, 0)
        if operation in (_FSYNC, _FLUSH):
            if operation == _FSYNC:
                disk.flush()
            return 0, b""
        return errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o40755, 4096) if node == _ROOT else (0o100600, self._disk.size_bytes)
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main() -> None:
    target, size = sys.argv[1], int(sys.argv[2])
    disk = Disk(size, sys.argv[3] if len(sys.argv) > 3 else None)
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"power", target.encode(), b"fuse", 0, options.encode()) != 0:
        sys.exit(f"cannot mount FUSE: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    Server(device, disk).serve()


if __name__ == "__main__":
    main()
