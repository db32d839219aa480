"""`azaion-consumer verify` and `replay` beside a running consumer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from consumer_process import INGEST, JPEG, Bench, annotation, wait_for

from azaion_consumer.messages import AnnotationStatus, Role, encode_bulk, encode_created

pytestmark = pytest.mark.slow


def command(bench: Bench, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "azaion_consumer.cli", *arguments, "--root", str(bench.root)]


def ran(bench: Bench, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command that ends by itself."""
    done = subprocess.run(
        [*command(bench, *arguments), "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def entries(count: int, prefix: str = "x") -> list[bytes]:
    row = [
        encode_created(annotation(f"{prefix}{i}", role=Role.OPERATOR, image=JPEG + i.to_bytes(4, "big") * 500))
        for i in range(count)
    ]
    validated = encode_bulk(AnnotationStatus.VALIDATED, [f"{prefix}{i}" for i in range(0, count, 2)])
    deleted = encode_bulk(AnnotationStatus.DELETED, [f"{prefix}{i}" for i in range(0, count, 5)])
    return [*row, validated, deleted]


def test_a_replay_repairs_what_was_damaged_while_messages_keep_coming(bench: Bench) -> None:
    row = entries(300)
    bench.publish(row)
    consumer = bench.start()
    bench.wait_until_filed(len(row), consumer)
    whole = bench.tree()
    assert ran(bench, "verify") == (0, ran(bench, "verify")[1])
    for path in [*bench.root.glob("data/images/x1*"), *bench.root.glob("data-seed/labels/x2*")]:
        path.unlink()
    code, found = ran(bench, "verify")
    assert (code, set(found["counts"])) == (1, {"ImageWithoutLabel", "LabelWithoutImage"})

    code, would = ran(bench, "replay", "--ingest", INGEST, "--from", "0", "--dry-run")
    assert (code, would["message"]) == (0, f"{sum(would['repaired'].values())} files to be put right")
    assert len(bench.tree()) < len(whole)

    replaying = subprocess.Popen(
        [*command(bench, "replay", "--ingest", INGEST, "--from", "0"), "--json"], stdout=subprocess.PIPE, text=True
    )
    later = entries(100, "y")
    bench.publish(later)
    output, _ = replaying.communicate(timeout=120)
    assert replaying.returncode == 0
    assert json.loads(output)["repaired"] == would["repaired"]
    bench.wait_until_filed(len(row) + len(later), consumer)
    assert {name: data for name, data in bench.tree().items() if "/x" in name} == whole
    assert ran(bench, "verify")[0] == 0
    consumer.wait_for_report("everything", lambda r: sum(r.images.values()) == 400)


def test_a_replay_asked_for_while_no_consumer_runs_or_killed_in_its_middle_is_done_at_the_next_start(
    bench: Bench,
) -> None:
    row = entries(400)
    bench.publish(row)
    first = bench.start()
    bench.wait_until_filed(len(row), first)
    whole = bench.tree()
    assert first.terminate() == 0
    for path in bench.root.glob("data*/images/*.jpg"):
        path.unlink()
    asked = subprocess.run(
        command(bench, "replay", "--ingest", INGEST, "--from", "0", "--no-wait"), timeout=60, check=False
    )
    assert asked.returncode == 0
    second = bench.start()
    result = bench.root / ".ingest" / INGEST / "replay-result.json"
    wait_for("the replay to begin", result.exists, interval_s=0.001)
    second.kill()
    third = bench.start()
    wait_for("the replay's end", lambda: '"Done"' in result.read_text())
    request = bench.root / ".ingest" / INGEST / "replay.json"
    # It goes after the result is written, so that a death between the two repeats the replay instead of losing it.
    wait_for("the request to be gone", lambda: not request.exists())
    assert bench.tree() == whole
    assert third.terminate() == 0


def test_an_ingest_that_was_never_there_and_an_offset_that_is_none_are_refused(bench: Bench) -> None:
    os.makedirs(bench.root, exist_ok=True)
    done = subprocess.run(
        command(bench, "replay", "--ingest", "nobody", "--from", "0"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no AnnotationIngest nobody has filed" in done.stderr) == (2, True)
    done = subprocess.run(
        command(bench, "replay", "--ingest", "nobody", "--from", "-3"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "offsets are whole numbers from 0" in done.stderr) == (2, True)
