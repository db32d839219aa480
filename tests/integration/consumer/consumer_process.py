"""A consumer as a process of its own, the way it runs in its pod, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rstream.constants import OffsetType
from tests.broker import producer
from tests.broker.local_broker import LocalBroker

from azaion_api.annotation_ingest import AnnotationIngestSpec, StartFrom, Stream
from azaion_api.report import IngestReport, parse_ingest_report
from azaion_api.task import IngestTask, encode_task
from azaion_consumer.chunks import Piece
from azaion_consumer.connection import Credentials, Endpoint, Position, connect
from azaion_consumer.lock import LOCK_FILE
from azaion_consumer.messages import Annotation, Detection, Role

T = TypeVar("T")

TIMEOUT_S = 60.0
INGEST = "annotations"
JPEG = b"\xff\xd8\xff\xe0" + b"a picture" + b"\xff\xd9"


def annotation(name: str, **changes: Any) -> Annotation:
    """A validator's annotation with one box."""
    found = Annotation(
        name=name,
        extension=".jpg",
        detections=(Detection(3, 0.5, 0.25, 0.125, 0.1),),
        image=JPEG,
        role=Role.VALIDATOR,
        media="clip.mp4",
    )
    return msgspec.structs.replace(found, **changes)


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float = TIMEOUT_S, interval_s: float = 0.02) -> T:
    """The first answer that is neither None nor False; fails with `what` when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(interval_s)  # another process cannot be waited for otherwise


class Consumer:
    """One process; its reports are read from its log, where they go outside a cluster."""

    def __init__(
        self,
        task: IngestTask,
        root: Path,
        credentials: Path,
        log: Path,
        prefix: Sequence[str] = (),
        level: str = "DEBUG",
    ) -> None:
        self._log = log
        environment = os.environ | {
            "AZAION_TASK": encode_task(task),
            "AZAION_POD_UID": f"pod-{time.monotonic_ns()}",
            "AZAION_NAMESPACE": "tests",
            "AZAION_LOG_LEVEL": level,
            "AZAION_HTTP_PORT": "0",
        }
        environment.pop("KUBERNETES_SERVICE_HOST", None)
        command = [*prefix, sys.executable, "-m", "azaion_consumer.cli", "run"]
        command += ["--root", str(root), "--credentials", str(credentials), "--ca", str(credentials)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def reports(self) -> list[IngestReport]:
        """Everything reported so far."""
        found = []
        for line in self.log.splitlines():
            if line.startswith("{") and '"report"' in line and line.endswith("}"):
                report = parse_ingest_report(json.loads(line)["context"].get("report", ""))
                if report is not None:
                    found.append(report)
        return found

    def wait_for_report(
        self, what: str, fits: Callable[[IngestReport], bool], timeout_s: float = TIMEOUT_S
    ) -> IngestReport:
        """The newest report, once it fits."""

        def look() -> IngestReport | None:
            newest = self.reports()[-1:]
            if self._process.poll() is not None:
                raise AssertionError(f"the consumer ended with {self._process.returncode}:\n{self.log[-3000:]}")
            return newest[0] if newest and fits(newest[0]) else None

        try:
            return wait_for(f"a report with {what}", look, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; the newest is {self.reports()[-1:]}") from error

    def terminate(self) -> int:
        """SIGTERM; the exit code. A consumer that takes longer than its 30 s of grace fails."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def peak_memory_bytes(self) -> int:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the process has no VmHWM")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None


class Bench:
    """A stream, a tree, a login and consumers."""

    def __init__(self, broker: LocalBroker, stream: str, directory: Path) -> None:
        self.broker = broker
        self.stream = stream
        self.root = directory / "tree"
        self.root.mkdir()
        self.credentials = directory / "credentials"
        self.credentials.mkdir()
        self.write_credentials()
        self.spec = AnnotationIngestSpec(
            stream=Stream(host=broker.host, port=broker.stream_port, name=stream, start_from=StartFrom())
        )
        self._directory = directory
        self._consumers: list[Consumer] = []
        self._made = False

    def write_credentials(self, username: str | None = None, password: str | None = None) -> None:
        (self.credentials / "username").write_text(username or self.broker.username)
        (self.credentials / "password").write_text(password or self.broker.password)

    def change_stream(self, **changes: Any) -> None:
        stream = msgspec.structs.replace(self.spec.stream, **changes)
        self.spec = msgspec.structs.replace(self.spec, stream=stream)

    def start(self, root: Path | None = None, prefix: Sequence[str] = (), *, quiet: bool = False) -> Consumer:
        task = IngestTask(ingest=INGEST, uid="uid", spec=self.spec, report="report")
        log = self._directory / f"consumer-{len(self._consumers)}.log"
        level = "INFO" if quiet else "DEBUG"
        consumer = Consumer(task, root or self.root, self.credentials, log, prefix, level)
        self._consumers.append(consumer)
        return consumer

    def create_stream(self, **arguments: str | int) -> None:
        if not self._made:
            asyncio.run(producer.create_stream(self.broker, self.stream, **arguments))
            self._made = True

    def delete_stream(self) -> None:
        self._made = False
        asyncio.run(producer.delete_stream(self.broker, self.stream))

    def first_offset(self) -> int:
        """Offset of the oldest message the stream still holds."""
        endpoint = Endpoint(self.broker.host, self.broker.stream_port, "/", self.stream)

        async def no_piece(_piece: Piece) -> None:
            """Only the chunk's head is wanted."""

        async def ask() -> int:
            connection = await connect(
                endpoint, Credentials(self.broker.username, self.broker.password), "test", no_piece
            )
            try:
                head = await connection.bounds(Position(OffsetType.FIRST))
            finally:
                await connection.close()
            return head.first_offset if head is not None else 0

        return asyncio.run(ask())

    def publish(self, entries: Iterable[bytes]) -> int:
        """Publish to the stream, which is made if need be; returns how many were confirmed."""
        self.create_stream()
        return asyncio.run(producer.publish(self.broker, self.stream, entries))

    def committed(self, root: Path | None = None) -> dict[str, Any]:
        """The offset file, empty before there is one."""
        try:
            found: dict[str, Any] = json.loads(((root or self.root) / ".ingest" / INGEST / "offset.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def wait_until_filed(self, messages: int, consumer: Consumer, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until that many messages, rejected ones included, are committed."""

        def filed() -> int:
            found = self.committed()
            return sum(found.get("processed", {}).values()) + sum(found.get("rejected", {}).values())

        def look() -> bool:
            if not consumer.is_running:
                raise AssertionError(f"the consumer has ended:\n{consumer.log[-3000:]}")
            return filed() >= messages

        wait_for(f"{messages} messages to be filed", look, timeout_s)
        assert filed() == messages, "more was filed than was published"

    def tree(self, root: Path | None = None) -> dict[str, bytes]:
        """Every annotation file and what is in it."""
        root = root or self.root
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
            and path.name != LOCK_FILE
            and not str(path.relative_to(root)).startswith((".ingest", "data-rejected"))
        }

    def rejected(self) -> list[dict[str, Any]]:
        """The records in data-rejected, by offset."""
        return [json.loads(path.read_bytes()) for path in sorted((self.root / "data-rejected" / INGEST).glob("*.json"))]

    def close(self) -> None:
        for consumer in self._consumers:
            if consumer.is_running:
                consumer.kill()
