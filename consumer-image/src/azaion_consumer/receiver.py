"""What arrives on a socket, put straight where the reader wants it.

asyncio's StreamReader copies every byte twice on its way to the reader, who puts pieces of it together a third time:
with images of 200 kB that took a third of the consumer's time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

#: Taken from the socket before anybody asks for it; more stays there, which is how the sender learns to wait.
_AHEAD_BYTES = 64 * 1024


class Receiver(asyncio.BufferedProtocol):
    """The receiving side of a connection. One reader at a time; belongs to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        #: Arrived and not asked for yet lies in _ahead between _begin and _end.
        self._ahead = memoryview(bytearray(_AHEAD_BYTES))
        self._begin = self._end = 0
        #: The rest of what the reader waits for.
        self._target: memoryview | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._ended: Exception | None = None
        self._paused = False
        #: When something arrived last, by the loop's clock.
        self.active_s = self._loop.time()

    async def read(self, size: int) -> bytes:
        """That many bytes; for a few, larger ones go to `read_into`. Raises like it."""
        found = bytearray(size)
        await self.read_into(memoryview(found))
        return bytes(found)

    async def read_into(self, target: memoryview) -> None:
        """Fill all of it. Raises OSError or EOFError when the connection ends before."""
        size = min(len(target), self._end - self._begin)
        target[:size] = self._ahead[self._begin : self._begin + size]
        self._begin += size
        if size == len(target):
            return
        if self._ended is not None:
            raise self._ended
        self._target = target[size:]
        self._arrived = self._loop.create_future()
        self._resume()
        try:
            await self._arrived
        finally:
            # Whoever stops waiting gets nothing written any more.
            self._target = self._arrived = None

    async def skip(self, size: int) -> None:
        """Let that many bytes go by."""
        scratch = memoryview(bytearray(min(size, _AHEAD_BYTES)))
        while size:
            part = scratch[:size]
            await self.read_into(part)
            size -= len(part)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        if self._target:
            return self._target
        if self._begin == self._end:
            self._begin = self._end = 0
        return self._ahead[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self.active_s = self._loop.time()
        if not self._target:
            self._end += nbytes
            if self._end == _AHEAD_BYTES:
                self._pause()
            return
        self._target = self._target[nbytes:]
        if not self._target and self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = exc or EOFError("the connection was closed")
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(self._ended)

    def _pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            # A transport that is closing says so by itself.
            with suppress(RuntimeError):
                self._transport.resume_reading()
