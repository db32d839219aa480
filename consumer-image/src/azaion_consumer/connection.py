"""One connection to the broker's stream port, on rstream's client.

rstream's client does the requests (login, subscribe, credit, offsets). Receiving is ours, because what rstream does
there does not fit: it reads 256 bytes at a time, holds whole chunks of up to 100 MB and copies them four times, asks
for the next one before the last is worked off, swallows the end of a connection, and only warns when the broker falls
silent. We also talk to the address we were given and not to the one the broker advertises, which is often not reachable
from a pod.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstream import exceptions, schema
from rstream.client import Client
from rstream.connection import Connection
from rstream.constants import Key, OffsetType
from rstream.encoding import decode_frame

from azaion_consumer.chunks import DELIVER_HEAD, ChunkError, ChunkHead, Cutter, Piece, parse_head
from azaion_consumer.errors import BrokerError, BrokerReason
from azaion_consumer.receiver import Receiver

log = logging.getLogger(__name__)

#: Asked for; the broker may answer with less.
HEARTBEAT_S = 10
#: Silence after which the connection is given up, in heartbeats.
_SILENT_HEARTBEATS = 2.5
_CONNECT_TIMEOUT_S = 10.0
#: A broker answers "last chunk" at once unless the stream is empty.
_BOUNDS_TIMEOUT_S = 3.0
_CLOSE_TIMEOUT_S = 1.0
_PIECE_BYTES = 2 * 1024 * 1024
#: Of a frame that is held as a whole. A chunk is a frame as well, and has no limit: it may hold thousands of images.
_MAX_FRAME_BYTES = 16 * 1024 * 1024
_FRAME_MAX_BYTES = 1024 * 1024
_BOUNDS_SUBSCRIPTION = 255


@dataclass(frozen=True)
class Endpoint:
    """Where the stream is. `ca_file` holds a private authority; None means the system's."""

    host: str
    port: int
    virtual_host: str
    stream: str
    tls: bool = False
    ca_file: Path | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """Login of the broker; never shown."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True)
class Position:
    """Where a subscription begins: an OffsetType with its offset, or its time in ms since the epoch."""

    type: OffsetType
    value: int | None = None


class _Socket(Connection):  # type: ignore[misc]
    """rstream's connection, opened with a timeout and with our receiving side."""

    async def open(self) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            self._transport, self.receiver = await asyncio.get_running_loop().create_connection(
                Receiver, self.host, self.port, ssl=self._ssl_context
            )

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()

    async def _write_frame_raw(self, data: bytes) -> None:
        # Requests are a few bytes each: what a dead peer does not take is little.
        self._transport.write(data)


class _Client(Client):  # type: ignore[misc]
    """rstream's client with our receiving side."""

    def __init__(self, *arguments: Any, on_piece: Callable[[Piece], Awaitable[None]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_piece = on_piece
        self._socket: _Socket | None = None
        #: True while it is us who do not read on.
        self.paused = False
        self.subscription: int | None = None
        self.bounds: asyncio.Future[ChunkHead] | None = None
        self.gone: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()

    @property
    def silence_limit_s(self) -> float | None:
        """Seconds of silence that mean the connection is dead; None when no heartbeats were agreed on."""
        return self._heartbeat * _SILENT_HEARTBEATS if self._heartbeat else None

    async def start(self) -> None:
        connection = _Socket(self.host, self.port, self._ssl_context)
        await connection.open()
        self._conn = self._socket = connection
        self.start_task("listener", self._listener(connection.receiver))

    async def watch_silence(self) -> None:
        """Give the connection up when not a byte came for some heartbeats: a dead peer never says so."""
        loop, limit_s = asyncio.get_running_loop(), self.silence_limit_s
        while limit_s is not None and self._socket is not None:
            receiver = self._socket.receiver
            if self.paused:
                receiver.active_s = loop.time()
            left_s = receiver.active_s + limit_s - loop.time()
            if left_s <= 0:
                message = f"the broker {self.host}:{self.port} has been silent for {limit_s:.0f} s"
                self.fail(BrokerError(BrokerReason.BROKER_UNREACHABLE, message))
                return
            await asyncio.sleep(left_s)

    async def _listener(self, receiver: Receiver) -> None:
        try:
            while True:
                await self._receive(receiver)
        except (EOFError, OSError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it was closed"
            message = f"the connection to the broker {self.host}:{self.port} is lost: {why}"
            self.fail(BrokerError(BrokerReason.DISCONNECTED, message))
        except (ChunkError, ValueError, KeyError) as error:
            # A frame that cannot be understood: what follows it cannot either.
            message = f"the broker {self.host}:{self.port} sent something not understood: {error}"
            self.fail(BrokerError(BrokerReason.DISCONNECTED, message))
        except BrokerError as error:
            self.fail(error)

    def fail(self, error: BrokerError) -> None:
        """End the connection: everybody who waits for it gets `error`."""
        self._is_not_closed = False
        if not self.gone.done():
            self.gone.set_result(error)
        waiting = [*self._waiters.values(), *([self.bounds] if self.bounds is not None else [])]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # somebody may have stopped waiting for it
        self.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._is_not_closed = False
        if self._socket is not None:
            self._socket.abort()

    async def _receive(self, receiver: Receiver) -> None:
        """Take one frame."""
        size = int.from_bytes(await receiver.read(4), "big")
        head = await receiver.read(4)
        is_chunk = int.from_bytes(head[:2], "big") == Key.Deliver.value
        if size < 4 or (size > _MAX_FRAME_BYTES and not is_chunk):
            raise ValueError(f"a frame of {size} bytes; is this the broker's stream port?")
        # rstream's heartbeat sender looks at its own mark and would warn.
        self._last_heartbeat = asyncio.get_running_loop().time()
        if is_chunk:
            await self._receive_chunk(receiver, size - 4)
            return
        frame = decode_frame(head + await receiver.read(size - 4))
        if isinstance(frame, schema.Close):
            raise BrokerError(
                BrokerReason.DISCONNECTED, f"the broker {self.host}:{self.port} closed the connection: {frame.reason}"
            )
        if isinstance(frame, schema.MetadataUpdate):
            raise BrokerError(
                BrokerReason.DISCONNECTED,
                f"the broker withdrew the stream {frame.metadata_info.stream} (deleted or moved)",
            )
        future = self._waiters.get((frame.key, frame.corr_id))
        if future is not None and not future.done():
            future.set_result(frame)

    async def _receive_chunk(self, receiver: Receiver, size: int) -> None:
        """Take one chunk, piece by piece, or let it go by when nobody wants it (any more)."""
        head = parse_head(await receiver.read(DELIVER_HEAD.size))
        if head.data_bytes != size - DELIVER_HEAD.size:
            raise ChunkError(f"the chunk at offset {head.first_offset} has not the size it says")
        if head.subscription == _BOUNDS_SUBSCRIPTION and self.bounds is not None and not self.bounds.done():
            self.bounds.set_result(head)
        cutter = Cutter(head, _PIECE_BYTES)
        complete = False
        while not complete and head.subscription == self.subscription:
            await receiver.read_into(cutter.room())
            piece = cutter.take()
            if piece is not None and head.subscription == self.subscription:
                # Waiting here lets the socket fill up, which is how the broker learns to wait.
                self.paused = True
                await self._on_piece(piece)
                self.paused = False
            complete = cutter.missing_bytes == 0
        await receiver.skip(cutter.missing_bytes)


class StreamConnection:
    """A logged-in connection. Every method raises BrokerError when the connection is or gets lost."""

    def __init__(self, endpoint: Endpoint, client: _Client) -> None:
        self._endpoint = endpoint
        self._client = client
        self._subscriptions = itertools.cycle(range(_BOUNDS_SUBSCRIPTION))
        self._watch = asyncio.create_task(client.watch_silence())

    @property
    def gone(self) -> asyncio.Future[BrokerError]:
        """Done once the connection is lost; its result says why."""
        return self._client.gone

    async def subscribe(self, position: Position) -> None:
        """Begin to read there, with credit for one chunk; what comes goes to the `on_piece` of `connect`."""
        number = next(self._subscriptions)
        self._client.subscription = number
        await self._subscribe(number, position)

    async def unsubscribe(self) -> None:
        """Stop reading; chunks under way are let go by."""
        number, self._client.subscription = self._client.subscription, None
        if number is not None:
            with _mapped(self._endpoint):
                await self._client.unsubscribe(number)

    async def credit(self, chunks: int) -> None:
        """Ask for that many more chunks."""
        if self._client.subscription is not None:
            with _mapped(self._endpoint):
                await self._client.credit(self._client.subscription, chunks)

    async def bounds(self, position: Position) -> ChunkHead | None:
        """The head of the chunk a reader would get first there, None when the stream is empty or ends before it.

        By a subscription of its own that is ended at once: brokers before 3.11 have no request for it, and the client
        none for those that have.
        """
        self._client.bounds = asyncio.get_running_loop().create_future()
        await self._subscribe(_BOUNDS_SUBSCRIPTION, position)
        try:
            async with asyncio.timeout(_BOUNDS_TIMEOUT_S):
                return await self._client.bounds
        except TimeoutError:
            return None
        finally:
            self._client.bounds = None
            if not self._client.gone.done():
                with _mapped(self._endpoint):
                    await self._client.unsubscribe(_BOUNDS_SUBSCRIPTION)

    async def store_offset(self, reference: str, offset: int) -> None:
        """Tell the broker how far we are, for others to see; it does not answer."""
        with _mapped(self._endpoint):
            await self._client.store_offset(self._endpoint.stream, reference, offset)

    async def close(self) -> None:
        """Take leave, shortly."""
        self._watch.cancel()
        await _close(self._client)

    async def _subscribe(self, number: int, position: Position) -> None:
        with _mapped(self._endpoint):
            await self._client.subscribe(
                self._endpoint.stream,
                number,
                offset_spec=schema.OffsetSpec.from_params(position.type, position.value),
                initial_credit=1,
            )


async def connect(
    endpoint: Endpoint, credentials: Credentials, name: str, on_piece: Callable[[Piece], Awaitable[None]]
) -> StreamConnection:
    """Connect and log in. Raises BrokerError with the reason.

    `on_piece` gets every chunk of the present subscription, piece by piece; nothing more is read until it returns. It
    never raises.
    """
    with _mapped(endpoint):
        client = _Client(
            endpoint.host,
            endpoint.port,
            ssl_context=_tls(endpoint) if endpoint.tls else None,
            frame_max=_FRAME_MAX_BYTES,
            heartbeat=HEARTBEAT_S,
            connection_name=name,
            # Without one it logs the trace of every lost connection.
            connection_closed_handler=lambda _information: None,
            on_piece=on_piece,
        )
        try:
            await client.start()
            await client.authenticate(endpoint.virtual_host, credentials.username, credentials.password)
        except BrokerError as error:
            await _close(client)
            # Lost before we were in: nothing that speaks our protocol is there.
            raise BrokerError(BrokerReason.BROKER_UNREACHABLE, str(error)) from error
        except BaseException:
            await _close(client)
            raise
    return StreamConnection(endpoint, client)


async def _close(client: _Client) -> None:
    """rstream's own close waits for a dead broker; ours is short."""
    await client.stop_task("heartbeat_sender")
    if client._conn is not None and client.is_started and not client.gone.done():
        farewell: Awaitable[Any] = client.sync_request(
            schema.Close(client._corr_id_seq.next(), code=1, reason="OK"), resp_schema=schema.CloseResponse
        )
        with suppress(BrokerError, OSError, exceptions.ServerError, TimeoutError):
            await asyncio.wait_for(farewell, _CLOSE_TIMEOUT_S)
    client.abort()
    await client.stop_task("listener")


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    if endpoint.ca_file is not None and not endpoint.ca_file.is_file():
        raise BrokerError(
            BrokerReason.TLS_FAILED,
            f"the Secret of spec.stream.tls.caSecretName has no key ca.crt ({endpoint.ca_file} is missing)",
        )
    return ssl.create_default_context(cafile=str(endpoint.ca_file) if endpoint.ca_file is not None else None)


@contextmanager
def _mapped(endpoint: Endpoint) -> Iterator[None]:
    """Turns what rstream, asyncio and ssl raise into a BrokerError with a sentence."""
    try:
        yield
    except BrokerError:
        raise
    except socket.gaierror as error:
        raise BrokerError(
            BrokerReason.BROKER_UNREACHABLE,
            f"the broker's host {endpoint.host} is not known ({error.strerror}); check spec.stream.host",
        ) from error
    except ssl.SSLError as error:
        raise BrokerError(
            BrokerReason.TLS_FAILED,
            f"no TLS with the broker {endpoint.address}: {error.reason or error}; check spec.stream.port and .tls",
        ) from error
    except TimeoutError as error:
        raise BrokerError(
            BrokerReason.BROKER_UNREACHABLE, f"the broker {endpoint.address} does not answer; check host and port"
        ) from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        hint = "; does this port speak TLS?" if endpoint.tls else ""
        raise BrokerError(
            BrokerReason.BROKER_UNREACHABLE, f"the broker {endpoint.address} cannot be reached: {why}{hint}"
        ) from error
    except exceptions.ServerError as error:
        raise _refused(error, endpoint) from error
    except AssertionError as error:
        # rstream asserts that the broker offers the login we use.
        raise BrokerError(
            BrokerReason.AUTHENTICATION_FAILED, f"the broker {endpoint.address} offers no PLAIN login"
        ) from error


def _refused(error: exceptions.ServerError, endpoint: Endpoint) -> BrokerError:
    """What the broker's answer means."""
    stream, host = endpoint.stream, endpoint.virtual_host
    known: dict[type[exceptions.ServerError], tuple[BrokerReason, str]] = {
        exceptions.AuthenticationFailure: (
            BrokerReason.AUTHENTICATION_FAILED,
            f"the broker {endpoint.address} refuses the user name or password of the Secret",
        ),
        exceptions.SASLAuthenticationFailureLoopback: (
            BrokerReason.AUTHENTICATION_FAILED,
            f"the broker {endpoint.address} lets this user log in from its own host only; make another user",
        ),
        exceptions.VirtualHostAccessFailure: (
            BrokerReason.VIRTUAL_HOST_REFUSED,
            f"the virtual host {host!r} does not exist on {endpoint.address}, or the user may not enter it",
        ),
        exceptions.StreamDoesNotExist: (
            BrokerReason.STREAM_MISSING,
            f"there is no stream {stream!r} in the virtual host {host!r} of {endpoint.address}; its producer makes it",
        ),
        exceptions.StreamNotAvailable: (
            BrokerReason.STREAM_MISSING,
            f"the stream {stream!r} is not available on {endpoint.address} at present",
        ),
        exceptions.AccessRefused: (
            BrokerReason.STREAM_REFUSED,
            f"the user may not read the stream {stream!r} in the virtual host {host!r}; give it the read permission",
        ),
    }
    for type_, (reason, message) in known.items():
        if isinstance(error, type_):
            return BrokerError(reason, message)
    return BrokerError(
        BrokerReason.DISCONNECTED,
        f"the broker {endpoint.address} answered with an error: {type(error).__name__} {error}",
    )
