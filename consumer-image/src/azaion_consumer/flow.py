"""How many chunks to ask the broker for, and how much of what comes may wait for the disk.

The broker sends one chunk for each credit, whatever its size: a hundred small messages, or a hundred images in 100 MB.
"""

from __future__ import annotations

import asyncio

#: Received and not yet written; more stays in the socket.
BUDGET_BYTES = 16 * 1024 * 1024
#: Asked for and not yet received, by the size of the largest chunk seen lately; one is always asked for.
_AHEAD_BYTES = 4 * 1024 * 1024
_MAX_CREDIT = 10


class Flow:
    """Counts what is asked for and what waits. Belongs to the event loop."""

    def __init__(self) -> None:
        self._outstanding = 1
        self._waiting_bytes = 0
        self._largest_bytes = 0
        self._closed = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_empty(self) -> bool:
        """Nothing waits for the disk."""
        return self._waiting_bytes == 0

    async def add(self, size_bytes: int) -> bool:
        """Wait for room and count a piece that waits from now on; False when closed meanwhile."""
        await self._room.wait()
        if self._closed:
            return False
        self._waiting_bytes += size_bytes
        if self._waiting_bytes > BUDGET_BYTES:
            self._room.clear()
        return True

    def worked_off(self, size_bytes: int) -> None:
        self._waiting_bytes -= size_bytes
        if self._waiting_bytes <= BUDGET_BYTES:
            self._room.set()

    def close(self) -> None:
        """Let those who wait for room go."""
        self._closed = True
        self._room.set()

    def credit_after(self, chunk_bytes: int) -> int:
        """Chunks to ask for when one of that size has come; they count as asked for from here on."""
        self._outstanding = max(0, self._outstanding - 1)
        # Forget a large chunk slowly when smaller ones follow.
        self._largest_bytes = max(chunk_bytes, self._largest_bytes * 7 // 8)
        wanted = max(1, min(_MAX_CREDIT, _AHEAD_BYTES // max(1, self._largest_bytes)))
        credit = max(0, wanted - self._outstanding)
        self._outstanding += credit
        return credit
