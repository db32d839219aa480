"""`make bench-trainer`: an epoch of the trainer against one of bare ultralytics, on the same images, epochs and seed.

Each run has both train in turns, a batch each, on the same core: what slows the machine down for a second slows both.
ultralytics is given the batches the trainer reads, as an epoch's work depends on what is in the pictures (with its own
order, two epochs differ by up to a tenth); what loading costs beside its own is measured apart. Compared is each epoch
with the other's, by the processor's time and by the clock without the other's turns. The first epoch warms up and is
left out. What writing verified checkpoints takes is shown apart.

Two processes that do the very same differ by up to 2 % all the same, each by where its memory happens to lie. So a run
is several such pairs, as many begun by either, and what the trainer does besides the work of ultralytics (seeds, looks
at loss and clock, heartbeat, whole files) is timed in the place itself, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
for _directory in (_HERE, _HERE.parent / "unit" / "azaion_trainer"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

from figures import Figure, judged, table  # noqa: E402

RECORDED = _HERE / "recorded.json"
IMAGES = 240
SIZE = 160
EPOCHS = 4
BATCH = 8
THREADS = 1
#: Pairs of processes of a run; of two, the median of five runs still lay on either side of the bound by chance.
ORDERS = (("ours", "bare"), ("bare", "ours")) * 2
#: How often all images are loaded to compare loading.
LOADED_EPOCHS = 9
ARGUMENTS = {"optimizer": "SGD", "lr0": "0.01", "warmup_epochs": "1", "close_mosaic": "0", "seed": "0"}
#: An epoch may take this much longer than bare ultralytics', checkpoints apart.
BOUND = 1.01


class Turns:
    """Two processes that take turns: whoever has read a byte may work, and hands one on to the other."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self.waited_s = 0.0

    def take(self) -> None:
        """Wait for a turn; once the other has ended every turn is ours."""
        began = time.monotonic()
        os.read(self._reading, 1)
        self.waited_s += time.monotonic() - began

    def hand_on(self) -> None:
        """End this turn and wait for the next."""
        with suppress(BrokenPipeError):
            os.write(self._writing, b"t")
        self.take()


class Stopwatch:
    """Time by the clock, other's turns apart, and of the processor from lap to lap."""

    def __init__(self, turns: Turns) -> None:
        self.laps: list[tuple[float, float]] = []
        self._turns = turns
        self._last: tuple[float, float] | None = None

    def start(self) -> None:
        self._last = time.monotonic() - self._turns.waited_s, time.process_time()

    def lap(self) -> None:
        last = self._last
        self.start()
        if last is not None and self._last is not None:
            self.laps.append((self._last[0] - last[0], self._last[1] - last[1]))


class Besides:
    """Processor time of one thread in some calls, without what they call of others."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def count(self, owner: type, name: str, sign: int = 1) -> None:
        """Count the method from now on; with a `sign` of -1 it counts as theirs."""
        method = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += sign * (time.thread_time() - began)

        setattr(owner, name, timed)


def train_ours(root: Path, turns: Turns) -> dict[str, Any]:
    """The stage `train`; the time its checkpoints take is measured apart."""
    import trainer_make as make
    from ultralytics.engine.trainer import BaseTrainer

    from azaion_api.layout import Layout
    from azaion_api.names import JobStage
    from azaion_trainer import train, trainer
    from azaion_trainer.forming import form, status_of

    layout = Layout(root)
    formed = form(layout, make.request(), make.no_progress)
    wanted = make.spec(epochs=EPOCHS, batch=BATCH, image_size=SIZE, parameters=ARGUMENTS)
    context = make.stage_context(layout, make.task(JobStage.TRAIN, wanted, dataset=status_of(layout, formed)))
    context = dataclasses.replace(context, cores=THREADS)
    watch, saves = Stopwatch(turns), Stopwatch(turns)
    listener = train.ReportingListener
    besides = Besides()
    for name in ("_seed_batch", "_after_batch", "save_model", "_on_validation_start", "_on_validation_batch"):
        besides.count(trainer.RunTrainer, name)
    besides.count(BaseTrainer, "save_model", -1)
    besides.count(listener, "epoch_done")
    batch_done, epoch_done, checkpoint_saved = listener.batch_done, listener.epoch_done, listener.checkpoint_saved

    def in_turn(self: train.ReportingListener, trainer: Any) -> None:
        batch_done(self, trainer)
        turns.hand_on()

    def ended(self: train.ReportingListener, result: Any) -> None:
        epoch_done(self, result)
        watch.lap()
        saves.start()

    def saved(self: train.ReportingListener, checkpoint: Any, position: Any) -> None:
        checkpoint_saved(self, checkpoint, position)
        saves.lap()
        watch.start()

    for name, method in {"batch_done": in_turn, "epoch_done": ended, "checkpoint_saved": saved}.items():
        setattr(listener, name, method)
    train.train(context)
    return {"laps": watch.laps, "saves": saves.laps, "besides": besides.seconds / EPOCHS}


def train_bare(root: Path, turns: Turns) -> dict[str, Any]:
    """ultralytics' own trainer and loop on the batches the trainer reads, quiet and offline as ours."""
    import trainer_make as make

    from azaion_api.layout import Layout
    from azaion_trainer import engine
    from azaion_trainer.arguments import parse_parameters
    from azaion_trainer.dataset import open_data_set
    from azaion_trainer.forming import form

    engine.start(THREADS, lambda *_: None)
    from ultralytics.models.yolo.detect import DetectionTrainer

    from azaion_trainer.trainer import RunTrainer

    class OnOurBatches(DetectionTrainer):  # type: ignore[misc]
        def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> Any:
            if mode == "train":
                return RunTrainer.build_dataset(self, img_path, mode, batch)
            return super().build_dataset(img_path, mode, batch)

        def get_dataloader(self, dataset_path: Any, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
            if mode == "train":
                return RunTrainer.get_dataloader(self, dataset_path, batch_size, rank, mode)
            return super().get_dataloader(dataset_path, batch_size, rank, mode)

    layout = Layout(root)
    formed = form(layout, make.request(), make.no_progress)
    data = root / "data.yaml"
    data.write_bytes(open_data_set(layout, str(formed.path.relative_to(root))).training_yaml())
    watch = Stopwatch(turns)
    trainer = OnOurBatches(
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
    trainer.add_callback("on_train_batch_end", lambda _trainer: turns.hand_on())
    trainer.add_callback("on_fit_epoch_end", lambda trainer: watch.lap() if trainer.epoch < EPOCHS else None)
    trainer.train()
    own = DetectionTrainer.build_dataset(trainer, trainer.data["train"], "train", BATCH)
    # The last call is the final evaluation of best.pt.
    return {"laps": watch.laps[: EPOCHS - 1], "loading": loading_ratio(trainer.train_loader, own)}


def loading_ratio(ours: Any, own: Any) -> float:
    """What loading and augmenting all images costs against ultralytics' own data set: median of rounds in turns."""

    def seconds(images: Any, wanted: list[Any]) -> float:
        began = time.process_time()
        for one in wanted:
            images[one]
        return time.process_time() - began

    from azaion_trainer.order import ImageOrder

    reading = ours.order.reading
    batches = ImageOrder(reading).batches(0, 0)
    ratios = []
    for _epoch in range(LOADED_EPOCHS):
        samples = [sample for batch in islice(batches, reading.batches) for sample in batch]
        ratios.append(seconds(ours.dataset, samples) / seconds(own, [sample.image for sample in samples]))
    # The first fills ultralytics' buffer.
    return statistics.median(ratios[1:])


def child(kind: str, root: Path, turns: Turns) -> None:
    from azaion_trainer.engine import environment

    os.environ.update(environment(THREADS))
    turns.take()
    print(json.dumps({"ours": train_ours, "bare": train_bare}[kind](root, turns)))


def begin(kind: str, directory: Path, core: int, reading: int, writing: int) -> subprocess.Popen[str]:
    """A training in a process of its own, on images that are always the same."""
    import trainer_make as make

    layout = make.storage_tree(directory / kind / "azaion")
    make.draw_scenes(layout, IMAGES, SIZE)
    return subprocess.Popen(
        [
            *("taskset", "--cpu-list", str(core)),
            *(sys.executable, str(Path(__file__)), "--child", kind, str(layout.root), str(reading), str(writing)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(reading, writing),
    )


def measure(core: int, first: str, second: str) -> dict[str, dict[str, Any]]:
    """Both trainings in turns on one core: what each found, by its kind."""
    pipes = {first: os.pipe(), second: os.pipe()}
    other = {first: second, second: first}
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor() as readers:
        children = {
            kind: begin(kind, Path(directory), core, pipes[kind][0], pipes[other[kind]][1]) for kind in (first, second)
        }
        os.write(pipes[first][1], b"t")
        for end in (*pipes[first], *pipes[second]):
            os.close(end)  # whoever ends closes the last end of a pipe, and the other waits no more
        said = {kind: readers.submit(process.communicate) for kind, process in children.items()}
        found = {}
        for kind, process in children.items():
            output, errors = said[kind].result()
            if process.returncode != 0:
                raise RuntimeError(f"the {kind} training failed: {errors[-3000:]}")
            found[kind] = json.loads(output.splitlines()[-1])
    return found


def compared(found: dict[str, dict[str, Any]], which: int) -> float:
    """The middle epoch's ratio: by the clock (0) or of the processor's time (1)."""
    pairs = zip(found["ours"]["laps"], found["bare"]["laps"], strict=True)
    return statistics.median(ours[which] / bare[which] for ours, bare in pairs)


def median_of(pairs: list[dict[str, dict[str, Any]]], kind: str, laps: str, which: int) -> float:
    """Seconds of the middle lap, by the clock (0) or of the processor (1)."""
    return statistics.median(lap[which] for pair in pairs for lap in pair[kind][laps])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="keep the ratios as what later ones are compared with")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        kind, root, reading, writing = chosen.child
        child(kind, Path(root), Turns(int(reading), int(writing)))
        return 0
    core = max(os.sched_getaffinity(0))
    rows = []
    for number in range(chosen.runs):
        pairs = [measure(core, *order) for order in ORDERS]
        ratio, clock_ratio = (statistics.geometric_mean(compared(pair, which) for pair in pairs) for which in (1, 0))
        ours_s, bare_s = (median_of(pairs, kind, "laps", 1) for kind in ("ours", "bare"))
        besides = statistics.mean(pair["ours"]["besides"] for pair in pairs) / ours_s * 100
        loading = statistics.mean(pair["bare"]["loading"] for pair in pairs)
        rows.append((ratio, clock_ratio, besides, loading, ours_s, bare_s, median_of(pairs, "ours", "saves", 0)))
        print(f"run {number + 1}: {ratio:.3f} x, {clock_ratio:.3f} x by the clock, {besides:.2f} % besides", flush=True)
    columns = list(zip(*rows, strict=True))
    figures = [
        Figure("epoch against bare ultralytics, processor time", "x", columns[0], BOUND, is_ratio=True),
        Figure("epoch against bare ultralytics, by the clock", "x", columns[1], is_ratio=True),
        Figure("what the trainer does besides, of an epoch", "%", columns[2], (BOUND - 1) * 100),
        Figure("loading an image against ultralytics' own loading", "x", columns[3], is_ratio=True),
        Figure("epoch, processor time", "s", columns[4]),
        Figure("epoch of bare ultralytics, processor time", "s", columns[5]),
        Figure("writing and verifying a checkpoint", "s", columns[6]),
    ]
    pairs_of = f"{len(ORDERS)} pairs of {EPOCHS} epochs, {IMAGES} images of {SIZE} px"
    print(f"\n{len(rows)} runs of {pairs_of}, in turns on one core\n")
    print(table(figures))
    return judged(RECORDED, figures, keep=chosen.record)


if __name__ == "__main__":
    sys.exit(main())
