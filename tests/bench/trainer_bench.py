"""`make bench-trainer`: an epoch of the trainer against one of bare ultralytics, on the same images, epochs and seed.

Each run trains both, one after the other, each in a process of its own; which goes first alternates. Compared are the
medians of the epochs' processor time, which other work on the machine disturbs less than the clock, and of their time
by the clock. The first epoch warms up and is left out. What writing verified checkpoints takes is shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
for _directory in (_HERE, _HERE.parent / "unit" / "azaion_trainer"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

from figures import Figure, judged, table  # noqa: E402

RECORDED = _HERE / "recorded.json"
IMAGES = 120
SIZE = 160
EPOCHS = 6
BATCH = 8
ARGUMENTS = {"optimizer": "SGD", "lr0": "0.01", "warmup_epochs": "1", "close_mosaic": "0", "seed": "0"}
#: An epoch may take this much longer than bare ultralytics', checkpoints apart.
BOUND = 1.01


class Stopwatch:
    """Time by the clock and of the processors from lap to lap."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None

    def lap(self) -> None:
        now = time.monotonic(), time.process_time()
        if self._last is not None:
            self.laps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def train_ours(root: Path) -> dict[str, Any]:
    """The stage `train`; the time its checkpoints take is measured apart."""
    import trainer_make as make

    from azaion_api.layout import Layout
    from azaion_api.names import JobStage
    from azaion_trainer import train
    from azaion_trainer.checkpoints import CheckpointStore
    from azaion_trainer.forming import form, status_of

    layout = Layout(root)
    formed = form(layout, make.request(), make.no_progress)
    wanted = make.spec(epochs=EPOCHS, batch=BATCH, image_size=SIZE, parameters=ARGUMENTS)
    context = make.stage_context(layout, make.task(JobStage.TRAIN, wanted, dataset=status_of(layout, formed)))
    watch, saves = Stopwatch(), Stopwatch()
    save, done = CheckpointStore.save, train.ReportingListener.epoch_done

    def timed_save(self: CheckpointStore, state: Any) -> Any:
        saves._last = None
        saves.lap()
        try:
            return save(self, state)
        finally:
            saves.lap()

    def counted(self: train.ReportingListener, result: Any) -> None:
        done(self, result)
        watch.lap()

    CheckpointStore.save, train.ReportingListener.epoch_done = timed_save, counted  # type: ignore[method-assign]
    train.train(context)
    # The checkpoint after an epoch is written in the lap of the next one.
    laps = [(lap[0] - saved[0], lap[1] - saved[1]) for lap, saved in zip(watch.laps, saves.laps, strict=False)]
    return {"laps": laps, "saves": saves.laps}


def train_bare(root: Path) -> dict[str, Any]:
    """ultralytics' own trainer with its own loader, quiet and offline as ours."""
    import trainer_make as make

    from azaion_api.layout import Layout
    from azaion_trainer import engine
    from azaion_trainer.arguments import parse_parameters
    from azaion_trainer.cores import available_cores
    from azaion_trainer.dataset import open_data_set
    from azaion_trainer.forming import form

    engine.start(available_cores(), lambda *_: None)
    from ultralytics.models.yolo.detect import DetectionTrainer

    layout = Layout(root)
    formed = form(layout, make.request(), make.no_progress)
    data = root / "data.yaml"
    data.write_bytes(open_data_set(layout, str(formed.path.relative_to(root))).training_yaml())
    watch = Stopwatch()
    trainer = DetectionTrainer(
        overrides={
            **parse_parameters(ARGUMENTS),
            "model": "yolo26n.yaml",
            "data": str(data),
            "epochs": EPOCHS,
            "batch": BATCH,
            "imgsz": SIZE,
            "device": "cpu",
            "workers": 0,
            "save_dir": str(root / "bare"),
            "plots": False,
            "verbose": False,
        }
    )
    trainer.add_callback("on_fit_epoch_end", lambda trainer: watch.lap() if trainer.epoch < EPOCHS else None)
    trainer.train()
    # The last call is the final evaluation of best.pt.
    return {"laps": watch.laps[: EPOCHS - 1]}


def child(kind: str, root: Path) -> None:
    from azaion_trainer.cores import available_cores
    from azaion_trainer.engine import environment

    os.environ.update(environment(available_cores()))
    print(json.dumps({"ours": train_ours, "bare": train_bare}[kind](root)))


def measure(kind: str, directory: Path) -> dict[str, Any]:
    """One training in a process of its own, on images that are always the same."""
    import trainer_make as make

    layout = make.storage_tree(directory / kind / "azaion")
    make.draw_scenes(layout, IMAGES, SIZE)
    command = [sys.executable, str(Path(__file__)), "--child", kind, str(layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the {kind} training failed: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(found: dict[str, Any]) -> tuple[float, float]:
    """Seconds by the clock and of the processors of the middle epoch."""
    return statistics.median(lap[0] for lap in found["laps"]), statistics.median(lap[1] for lap in found["laps"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="keep the ratios as what later ones are compared with")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child[0], Path(chosen.child[1]))
        return 0
    rows = []
    for number in range(chosen.runs):
        with tempfile.TemporaryDirectory() as directory:
            order = ("ours", "bare") if number % 2 else ("bare", "ours")
            found = {kind: measure(kind, Path(directory)) for kind in order}
        (ours_s, ours_cpu_s), (bare_s, bare_cpu_s) = medians(found["ours"]), medians(found["bare"])
        save_s = statistics.median(save[0] for save in found["ours"]["saves"])
        rows.append((ours_cpu_s / bare_cpu_s, ours_s / bare_s, ours_cpu_s, bare_cpu_s, save_s))
        print(f"run {number + 1}: {ours_cpu_s:.2f} s of the processors against {bare_cpu_s:.2f} s", flush=True)
    columns = list(zip(*rows, strict=True))
    figures = [
        Figure("epoch against bare ultralytics, processor time", "x", columns[0], BOUND, is_ratio=True),
        Figure("epoch against bare ultralytics, by the clock", "x", columns[1], is_ratio=True),
        Figure("epoch, processor time", "s", columns[2]),
        Figure("epoch of bare ultralytics, processor time", "s", columns[3]),
        Figure("writing and verifying a checkpoint", "s", columns[4]),
    ]
    print(f"\n{len(rows)} runs of {EPOCHS} epochs, {IMAGES} images of {SIZE} px, {os.cpu_count()} cores\n")
    print(table(figures))
    return judged(RECORDED, figures, keep=chosen.record)


if __name__ == "__main__":
    sys.exit(main())
