"""How fast a data set is formed, beside `cp -al` of the same tree in the same run (`make bench-dataset`).

Cold decodes every image, on all cores. Warm finds every pair among those checked before. Memory is the peak of a
process that does nothing else. Times depend on the machine, the ratio hardly: a median above LIMIT fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "azaion_trainer"))

from trainer_make import jpeg, no_progress, request, storage_tree  # noqa: E402 - found by the path above

from azaion_api.layout import Layout  # noqa: E402

#: Warm forming against `cp -al`, and the memory it may take.
LIMIT: Final = 2.0
LIMIT_MIB: Final = 300


def fill(root: Path, pairs: int) -> None:
    """Annotated images as ingest leaves them: one file each, many of the same few contents."""
    layout = storage_tree(root)
    contents = [jpeg(64, 64, colour) for colour in range(0, 256, 16)]
    for number in range(pairs):
        stem = f"video-{number // 100:05}_{number:07}"
        (layout.images("data") / f"{stem}.jpg").write_bytes(contents[number % len(contents)])
        (layout.labels("data") / f"{stem}.txt").write_text(f"{number % 17} 0.5 0.5 0.1 0.1\n")


def form_once(root: Path, uid: str) -> None:
    """What a process of its own does; prints seconds and MiB."""
    import resource

    from azaion_trainer.forming import form

    began = time.perf_counter()
    formed = form(Layout(root), request(f"{uid}-bench"), no_progress)
    took_s = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": took_s, "mib": peak_mib, "images": sum(formed.manifest.counts.values())}))


def formed(root: Path, uid: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--form", str(root), "--uid", uid]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def copied(root: Path) -> float:
    """`cp -al` of images and labels into a directory of its own, durable as a formed set is."""
    target = root / "copy"
    target.mkdir()
    began = time.perf_counter()
    subprocess.run(["cp", "-al", str(root / "data" / "images"), str(root / "data" / "labels"), str(target)], check=True)
    took_s = time.perf_counter() - began
    shutil.rmtree(target)
    return took_s


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--uid", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form:
        form_once(Path(given.form), given.uid)
        return 0
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIRECTORY")) as directory:
        root = Path(directory) / "azaion"
        fill(root, given.pairs)
        cold = formed(root, "cold0000")
        warm, copies, memory = [], [], [cold["mib"]]
        for number in range(given.runs):
            copies.append(copied(root))
            found = formed(root, f"warm{number:04}")
            if found["images"] != given.pairs:
                print(f"{found['images']:.0f} of {given.pairs} images were formed", file=sys.stderr)
                return 1
            warm.append(found["seconds"])
            memory.append(found["mib"])
            shutil.rmtree(next((root / "datasets").iterdir()))
    ratios = [ours / theirs for ours, theirs in zip(warm, copies, strict=True)]
    print(f"pairs            {given.pairs}, {given.runs} runs, median (least to most)")
    print(f"cold             {cold['seconds']:.1f} s, {given.pairs / cold['seconds']:.0f} pairs/s")
    print(f"cp -al           {spread(copies)} s")
    print(f"warm             {spread(warm)} s")
    print(f"warm / cp -al    {spread(ratios)}, at most {LIMIT}")
    print(f"memory           {max(memory):.0f} MiB, at most {LIMIT_MIB}")
    return int(statistics.median(ratios) > LIMIT or max(memory) > LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main())
