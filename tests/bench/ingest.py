"""How fast the consumer makes annotations durable, beside yardsticks of the same run (`make bench-ingest`).

| figure | what is measured |
|---|---|
| raw | a reader on rstream that decodes AMQP and drops, from the first message to the last |
| disk | a plain loop that writes the same files, with one sync per batch |
| each | a reader on rstream that makes each message's files and then an offset file durable |
| ours | the consumer, from its subscription to the offset file that covers the last message |
| latency | at 200 messages/s: from before a message is sent to the offset file that covers it |
| memory | the consumer's peak with 800 kB images and 100,000 messages waiting |

The ratios are ours * (1/raw + 1/disk) and ours / each. Times depend on the machine, ratios hardly: a median below its
goal, or 20 % worse than the recorded one, fails. Every part runs in a process of its own, on one broker and one file
system, in directories of its own: nothing is removed before the end. ext4 does not give out an inode that was freed
lately, and looks at each of them first; after 20,000 removals making a file took 500 us instead of 30.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
for _path in (ROOT, ROOT / "tests" / "integration" / "consumer"):
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))

import msgspec  # noqa: E402 - found by the path above
from consumer_process import JPEG, Bench, annotation, wait_for  # noqa: E402
from rstream import Consumer as Reader  # noqa: E402
from rstream import ConsumerOffsetSpecification, OffsetType, Producer, amqp_decoder  # noqa: E402
from tests.broker.local_broker import LocalBroker  # noqa: E402

from azaion_consumer.messages import (  # noqa: E402
    Annotation,
    Decoder,
    Detection,
    Edited,
    encode_created,
    encode_edited,
    label_content,
)

RECORDED: Final = Path(__file__).with_name("ingest.json")
#: A median may be this much worse than the recorded one.
TOLERANCE: Final = 0.2
#: A median below this is a failure whatever is recorded.
GOALS: Final = {"of the yardstick": 0.8, "of one by one": 10.0}
LIVE_PER_S: Final = 200
WAITING: Final = 100_000


@dataclass(frozen=True)
class Workload:
    """Messages of one kind; `batch` of them share a sync of the yardstick `disk`."""

    name: str
    messages: int
    image_bytes: int
    batch: int
    #: Messages of the yardstick that syncs for each of them.
    each: int

    def entries(self) -> Iterator[bytes]:
        boxes = tuple(Detection(3, 0.5, 0.25, 0.125, 0.1, 0.9, "x") for _ in range(8))
        found = annotation("x", detections=boxes, email="e" * 300)
        image = JPEG + random.Random(1).randbytes(self.image_bytes) if self.image_bytes else b""
        for number in range(self.messages):
            one = msgspec.structs.replace(found, name=f"x{number:06d}", image=image or JPEG)
            yield encode_created(one) if image else encode_edited(one)


WORKLOADS: Final = (
    Workload("1 kB", 20_000, 0, 500, 300),
    Workload("200 kB", 1_500, 200_000, 100, 150),
)


# ---- the parts that run as processes of their own; each prints one number or a list ----


def raw(broker: dict[str, Any], stream: str, messages: int) -> float:
    """Seconds."""
    return _read(broker, stream, messages, lambda _body, _properties: None)


def each(broker: dict[str, Any], stream: str, messages: int, root: Path) -> float:
    """Seconds; every message's files are durable before its offset file, and that before the next message."""
    decoder = Decoder(80)
    directories = _directories(root)
    done = 0

    def file(body: bytes, properties: dict[Any, Any]) -> None:
        nonlocal done
        message = decoder.decode_body(body, properties)
        found: Annotation = message.annotation  # type: ignore[union-attr]
        files = [(directories[1] / f"{found.name}.txt", label_content(found.detections))]
        if not isinstance(message, Edited):
            files.append((directories[0] / f"{found.name}{found.extension}", bytes(found.image)))
        for path, content in files:
            _write_durably(path, content)
        for directory in directories if len(files) == 2 else directories[1:]:
            _sync_directory(directory)
        _write_durably(root / "offset.new", str(done).encode())
        os.rename(root / "offset.new", root / "offset")
        _sync_directory(root)
        done += 1

    return _read(broker, stream, messages, file)


def disk(workload: Workload, root: Path) -> float:
    """Seconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    images, labels = _directories(root)
    descriptor = os.open(root, os.O_RDONLY)
    decoder = Decoder(80)
    message = decoder.decode(next(workload.entries()))
    found: Annotation = message.annotation  # type: ignore[union-attr]
    label, image = label_content(found.detections), bytes(found.image)
    began_s = time.perf_counter()
    for number in range(workload.messages):
        with open(labels / f"x{number:06d}.txt", "wb") as file:
            file.write(label)
        if workload.image_bytes:
            with open(images / f"x{number:06d}.jpg", "wb") as file:
                file.write(image)
        if number % workload.batch == workload.batch - 1:
            libc.syncfs(descriptor)
    libc.syncfs(descriptor)
    took_s = time.perf_counter() - began_s
    os.close(descriptor)
    return took_s


def live(broker: dict[str, Any], stream: str, messages: int, image_bytes: int) -> list[float]:
    """Publish at LIVE_PER_S; the time of each message in seconds of the system's monotonic clock."""
    picture = JPEG + random.Random(2).randbytes(image_bytes)

    async def go() -> list[float]:
        sent = []
        async with Producer(**broker) as producer:
            began_s = time.monotonic()
            for number in range(messages):
                await asyncio.sleep(max(0.0, began_s + number / LIVE_PER_S - time.monotonic()))
                entry = encode_created(annotation(f"live{number:06d}", image=picture))
                sent.append(time.monotonic())
                await producer.send_batch(stream, [entry])
            await asyncio.sleep(1.0)
        return sent

    return asyncio.run(go())


def _read(broker: dict[str, Any], stream: str, messages: int, take: Callable[[bytes, dict[Any, Any]], None]) -> float:
    async def go() -> float:
        got, done = 0, asyncio.Event()

        def on_message(message: Any, _context: Any) -> None:
            nonlocal got
            if got < messages:
                take(message.body, message.application_properties)
            got += 1
            if got == messages:
                done.set()

        reader = Reader(**broker)
        began_s = time.perf_counter()
        first = ConsumerOffsetSpecification(OffsetType.FIRST, None)
        await reader.subscribe(stream, on_message, decoder=amqp_decoder, offset_specification=first, initial_credit=10)
        await done.wait()
        took_s = time.perf_counter() - began_s
        await reader.close()
        return took_s

    return asyncio.run(go())


def _directories(root: Path) -> tuple[Path, Path]:
    found = root / "images", root / "labels"
    for path in found:
        path.mkdir(parents=True)
    return found


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# ---- the bench ----


def part(name: str, **arguments: Any) -> Any:
    """What the part prints, from a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--arguments", json.dumps(arguments, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the part {name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def run_part(name: str, arguments: dict[str, Any]) -> Any:
    """What `--part` does."""
    workload = next((w for w in WORKLOADS if w.name == arguments.get("workload")), WORKLOADS[0])
    if name == "raw":
        return raw(arguments["broker"], arguments["stream"], arguments["messages"])
    if name == "each":
        return each(arguments["broker"], arguments["stream"], arguments["messages"], Path(arguments["root"]))
    if name == "disk":
        return disk(workload, Path(arguments["root"]))
    return live(arguments["broker"], arguments["stream"], arguments["messages"], arguments["image_bytes"])


def login(broker: LocalBroker) -> dict[str, Any]:
    return {
        "host": broker.host,
        "port": broker.stream_port,
        "username": broker.username,
        "password": broker.password,
    }


def durable_s(bench: Bench, messages: int) -> float:
    """Seconds from the consumer's subscription to the offset that covers the last of that many messages."""
    consumer = bench.start(quiet=True)
    began_s = wait_for(
        "the subscription",
        lambda: time.perf_counter() if "reading the stream" in consumer.log else None,
        interval_s=0.001,
    )

    def end() -> float | None:
        found = sum(bench.committed().get("processed", {}).values())
        return time.perf_counter() if found >= messages else None

    took_s = wait_for(f"{messages} messages", end, 600.0, 0.01) - began_s
    code = consumer.terminate()
    if code != 0:
        raise RuntimeError(f"the consumer ended with {code}")
    return took_s


def measure_throughput(broker: LocalBroker, workload: Workload, directory: Path, runs: int) -> list[dict[str, float]]:
    bench = _bench(broker, workload.name.replace(" ", "-"), directory)
    bench.publish(workload.entries())
    address = login(broker)
    rows = []
    for number in range(runs):
        os.sync()
        raw_s = part("raw", broker=address, stream=bench.stream, messages=workload.messages)
        os.sync()
        disk_s = part("disk", workload=workload.name, root=directory / f"disk-{number}")
        os.sync()
        each_s = part(
            "each", broker=address, stream=bench.stream, messages=workload.each, root=directory / f"each-{number}"
        )
        bench.root = directory / f"tree-{number}"
        bench.root.mkdir()
        os.sync()
        ours_s = durable_s(bench, workload.messages)
        ours = workload.messages / ours_s
        row = {
            "raw": workload.messages / raw_s,
            "disk": workload.messages / disk_s,
            "each": workload.each / each_s,
            "ours": ours,
            "of the yardstick": (raw_s + disk_s) / ours_s,
            "of one by one": ours * each_s / workload.each,
        }
        rows.append(row)
        print(f"  {workload.name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return rows


def measure_latency(
    broker: LocalBroker, directory: Path, seconds: int, image_bytes: int, number: int
) -> dict[str, float]:
    """Milliseconds from publish to durable, with nothing else going on; each run has a stream of its own."""
    bench = _bench(broker, f"live-{image_bytes}-{number}", directory)
    bench.create_stream()
    consumer = bench.start(quiet=True)
    wait_for("the subscription", lambda: "reading the stream" in consumer.log or None)
    messages = seconds * LIVE_PER_S
    arguments = {"broker": login(broker), "stream": bench.stream, "messages": messages, "image_bytes": image_bytes}
    command = [sys.executable, __file__, "--part", "live", "--arguments", json.dumps(arguments)]
    durable: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as publishing:
        deadline_s = time.monotonic() + seconds + 60
        while len(durable) < messages:
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise RuntimeError(f"only {len(durable)} of {messages} messages were durable in time")
            filed = sum(bench.committed().get("processed", {}).values())
            durable += [now_s] * (filed - len(durable))
            time.sleep(0.001)
        output, _ = publishing.communicate(timeout=60)
    delays = sorted((end - begin) * 1000 for begin, end in zip(json.loads(output), durable, strict=True))
    consumer.terminate()
    return {"p50": delays[len(delays) // 2], "p99": delays[len(delays) * 99 // 100], "max": delays[-1]}


def measure_memory(broker: LocalBroker, directory: Path, seconds: float) -> dict[str, float]:
    """Peak resident MiB while 100,000 messages of 800 kB images wait: 2,000 as they are, the rest with gzip bodies."""
    bench = _bench(broker, "memory", directory)
    picture = JPEG + random.Random(3).randbytes(800_000)
    flat = JPEG + bytes(800_000)

    def entries() -> Iterator[bytes]:
        for number in range(2_000):
            yield encode_created(annotation(f"x{number % 500}", image=picture))
        packed = encode_created(annotation("y", image=flat), compress=True)
        for _ in range(WAITING - 2_000):
            yield packed

    bench.publish(entries())
    consumer = bench.start(quiet=True)
    wait_for("the plain ones and some packed ones", lambda: _filed(bench) > 2_500 or None, 600.0, 0.1)
    plain_mib = consumer.peak_memory_bytes() / 2**20
    deadline_s = time.monotonic() + seconds
    wait_for("the time to pass", lambda: time.monotonic() > deadline_s, seconds + 10, 0.2)
    found = {
        "peak MiB": consumer.peak_memory_bytes() / 2**20,
        "after the plain ones MiB": plain_mib,
        "filed": float(_filed(bench)),
    }
    consumer.terminate()
    return found


def _filed(bench: Bench) -> int:
    return sum(bench.committed().get("processed", {}).values())


def _bench(broker: LocalBroker, stream: str, directory: Path) -> Bench:
    directory.mkdir(parents=True)
    return Bench(broker, stream, directory)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def failures(found: dict[str, dict[str, float]], recorded: dict[str, dict[str, float]]) -> list[str]:
    """What is below its goal, or worse than recorded by more than the tolerance."""
    lines = []
    for name, values in found.items():
        median, goal = values["median"], GOALS[name.rpartition(", ")[2]]
        if median < goal:
            lines.append(f"{name}: {median:.3g} is below the goal of {goal:g}")
        if name in recorded and median < recorded[name]["median"] * (1 - TOLERANCE):
            lines.append(f"{name}: {median:.3g}, and {recorded[name]['median']:.3g} is recorded")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=("throughput", "latency", "memory"))
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "build" / "bench-ingest", help="on the disk to measure"
    )
    parser.add_argument("--record", action="store_true", help="write the medians down instead of comparing with them")
    parser.add_argument("--part")
    parser.add_argument("--arguments", type=json.loads, default={})
    given = parser.parse_args()
    if given.part:
        print(json.dumps(run_part(given.part, given.arguments)))
        return 0
    ratios: dict[str, dict[str, float]] = {}
    directory: Path = given.directory
    shutil.rmtree(directory, ignore_errors=True)
    try:
        with LocalBroker(directory / "broker") as broker:
            if given.only in (None, "throughput"):
                for workload in WORKLOADS:
                    rows = measure_throughput(broker, workload, directory / workload.name.replace(" ", "-"), given.runs)
                    for key in rows[0]:
                        values = spread([row[key] for row in rows])
                        if key.startswith("of "):
                            ratios[f"{workload.name}, {key}"] = values
                        print(
                            f"{workload.name}, {key}: median {values['median']:.4g}, "
                            f"{values['lowest']:.4g} to {values['highest']:.4g}"
                        )
            if given.only in (None, "latency"):
                for image_bytes in (1_000, 50_000):
                    rows = [
                        measure_latency(broker, directory / f"live-{image_bytes}-{number}", 20, image_bytes, number)
                        for number in range(given.runs)
                    ]
                    for key in rows[0]:
                        values = spread([row[key] for row in rows])
                        print(
                            f"live {image_bytes} B, {key}: median {values['median']:.1f} ms, "
                            f"{values['lowest']:.1f} to {values['highest']:.1f}"
                        )
            if given.only in (None, "memory"):
                print(
                    "memory:", {key: round(value) for key, value in measure_memory(broker, directory / "m", 30).items()}
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    if given.record:
        RECORDED.write_text(json.dumps(ratios, indent=2) + "\n")
        return 0
    worse = failures(ratios, json.loads(RECORDED.read_text()) if RECORDED.exists() else {})
    for line in worse:
        print(line, file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
