"""A training on a GPU that gets hot, its temperature read by pynvml from a driver library of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.nvml.library import RTX_4090, NvmlLibrary
from trainer_make import UID as RUN_UID
from trainer_make import draw_scenes, no_progress, request, spec, storage_tree, task, wait_until

from azaion_api.names import JobStage
from azaion_api.outcome import AttemptReason, ExitCode, parse_termination
from azaion_api.task import encode_task
from azaion_trainer.forming import form, status_of

UUID = RTX_4090["uuid"]
#: A guard whose clock moves only while it waits, before a GPU whose temperature follows a list: one after each wait.
LOOKS = """
import json, os, sys
from azaion_api.training_run import GpuGuard
from azaion_trainer.failures import OverheatedError
from azaion_trainer.gpu_guard import Guard, NvmlThermometer
from azaion_trainer.watch import Heartbeat, StopSignal

temperatures, uuid = json.loads(sys.argv[1]), sys.argv[2]
now, said = [100.0], []

def wait(seconds):
    now[0] += seconds
    if temperatures:
        heat(temperatures.pop(0))

def heat(celsius):
    with open(os.environ["AZAION_TEST_NVML"], "w") as file:
        file.write(f"count 1\\nuuid GPU-5d4b6c2e\\ntemperature {'lost' if celsius is None else celsius}\\n")

heat(temperatures.pop(0))
guard = Guard(GpuGuard(), NvmlThermometer(uuid), Heartbeat(), StopSignal(), said.append, lambda: now[0], wait)
try:
    result = guard.look()
except OverheatedError as error:
    result = str(error)
print(json.dumps([result, said, now[0] - 100.0]))
"""


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> NvmlLibrary:
    made = NvmlLibrary(tmp_path_factory.mktemp("nvml"))
    made.build()
    return made


def look(gpu: NvmlLibrary, *temperatures: int | None, uuid: str = UUID) -> tuple[Any, list[str], float]:
    """What one look at GPUs of these temperatures came to, what was said, and the seconds it took."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, json.dumps(temperatures), uuid],
        env={**os.environ, **gpu.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result, said, took_s = json.loads(done.stdout.splitlines()[-1])
    return result, said, took_s


def test_a_gpu_within_its_limit_costs_no_time(gpu: NvmlLibrary) -> None:
    assert look(gpu, 90) == (0.0, [], 0.0)


def test_training_pauses_above_the_limit_until_the_gpu_is_below_the_lower_one(gpu: NvmlLibrary) -> None:
    paused_s, said, took_s = look(gpu, 91, 92, 80, 75, 74)
    assert said == ["paused: the GPU is at 91 °C, training goes on below 75 °C"]
    assert paused_s == took_s == 4.0


def test_a_gpu_that_stays_hot_is_given_up_after_five_minutes(gpu: NvmlLibrary) -> None:
    message, _, took_s = look(gpu, 91, 96, *[93] * 400)
    assert took_s == 300.0
    assert message.startswith("the GPU was at up to 96 °C and still at 93 °C after a pause of 5 minutes")


def test_a_driver_that_does_not_answer_stops_nothing(gpu: NvmlLibrary) -> None:
    assert look(gpu, None) == (0.0, [], 0.0)
    paused_s, _, _ = look(gpu, 95, None)
    assert paused_s == 1.0, "it goes on when the temperature is no longer known"
    assert look(gpu, 99, uuid="GPU-another") == (0.0, [], 0.0)


#: The stage `train` on a CPU with the guard a GPU would have.
TRAIN = """
import os, sys
from pathlib import Path
from azaion_trainer.cores import available_cores
from azaion_trainer.engine import environment
os.environ.update(environment(available_cores()))
from azaion_api import logs
from azaion_api.names import JobStage
from azaion_api.task import decode_run_task
from azaion_trainer import gpu_guard, train
from azaion_trainer.stage import run_stage

gpu_guard.LOOK_INTERVAL_S, gpu_guard.PATIENCE_S, gpu_guard._PAUSE_STEP_S = 0.0, 3.0, 0.05

def guard(context):
    limits = context.task.spec.recovery.gpu_guard
    thermometer = gpu_guard.NvmlThermometer(sys.argv[2])
    return gpu_guard.Guard(limits, thermometer, context.heart, context.stop, context.report.activity)

train._guard = guard
logs.configure("azaion-trainer", "INFO")
sys.exit(run_stage(decode_run_task(os.environ["AZAION_TASK"]), JobStage.TRAIN, train.train, Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_hot_training_pauses_goes_on_and_saves_before_it_leaves_the_gpu(gpu: NvmlLibrary, tmp_path: Path) -> None:
    layout = storage_tree(tmp_path / "azaion")
    draw_scenes(layout, 40)
    run_task = task(
        JobStage.TRAIN,
        spec(epochs=500, parameters={"close_mosaic": "0"}),
        dataset=status_of(layout, form(layout, request(), no_progress)),
    )
    gpu.set(temperature="60")
    log, word = tmp_path / "log", tmp_path / "termination"
    environment = {
        **os.environ,
        **gpu.environment(),
        "AZAION_TASK": encode_task(run_task),
        "AZAION_POD_UID": "pod",
        "AZAION_TERMINATION_LOG": str(word),
    }
    command = [sys.executable, "-c", TRAIN, str(layout.root), UUID]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:

        def told(text: str, times: int = 1) -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return log.read_text().count(text) >= times

        wait_until(lambda: told('"epoch done"'), "an epoch", 240)
        gpu.set(temperature="95")
        wait_until(lambda: told("training pauses: the GPU is hot"), "the pause", 60)
        epochs = log.read_text().count('"epoch done"')
        gpu.set(temperature="70")
        wait_until(lambda: told("training goes on"), "the end of the pause", 60)
        wait_until(lambda: told('"epoch done"', epochs + 1), "the next epoch", 240)
        gpu.set(temperature="95")
        assert process.wait(60) == ExitCode.OVERHEATED
    finally:
        process.kill()
        process.wait(30)
    last = parse_termination(word.read_text())
    assert last is not None
    assert last.reason is AttemptReason.OVERHEATED
    assert last.message.startswith("the GPU was at up to 95 °C")
    from azaion_trainer.checkpoints import CheckpointStore

    found = CheckpointStore(layout.run(f"runs/run-{RUN_UID[:8]}").checkpoints).newest().found
    assert found is not None
    assert found.state["epoch"] >= epochs + 1
