"""ultralytics made fit for a pod: offline, silent but for JSON, on the cores the container has, loading only weights.

`environment` has to be set before torch is imported, `start` has to run before anything else imports ultralytics.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azaion_api.training_run import Device
from azaion_trainer.failures import BadSpecError

if TYPE_CHECKING:
    import torch

_CONFIG_DIRECTORY = Path("/tmp/azaion")  # noqa: S108 - the pod's own emptyDir; the root file system is read-only
#: Integrations that would talk to somebody. MLflow and TensorBoard are driven by `tracking` and `event_file`.
_INTEGRATIONS = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb")
#: Plots ask for these fonts, which cannot be downloaded; matplotlib brings one that serves.
_FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

#: Called with what ultralytics scans, caches or validates, steps done, and steps in all where known.
Observer = Callable[[str, int, int | None], None]


def environment(cores: int, directory: Path = _CONFIG_DIRECTORY) -> dict[str, str]:
    """The variables ultralytics, torch and matplotlib read when they are imported."""
    return {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(directory),
        "MPLCONFIGDIR": str(directory / "matplotlib"),
        "MPLBACKEND": "Agg",
        # .pt files are pickles: only weights and ultralytics' own model classes are let in.
        "ULTRALYTICS_SAFE_LOAD": "true",
        "OMP_NUM_THREADS": str(cores),
        # Threads that wait for each other sleep. By default they spin, and where other pods want the same cores that
        # was measured to cost ten times the step's own time.
        "OMP_WAIT_POLICY": "PASSIVE",
        # It writes what it thinks of a damaged file to standard error; the checks here say it in their own words.
        "OPENCV_LOG_LEVEL": "OFF",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        # MLflow's client speaks to its own server and to nobody else, and gives up early: a thread tries again.
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def start(cores: int, observe: Observer) -> None:
    """Import ultralytics and keep it from printing, downloading and counting cores itself.

    `observe` hears every step of its progress bars, which are drawn nowhere.
    """
    directory = Path(os.environ["YOLO_CONFIG_DIR"])
    directory.mkdir(parents=True, exist_ok=True)
    # While it is imported its logger prints as it likes; nothing it says then is news.
    with contextlib.redirect_stdout(io.StringIO()):
        import torch
        import ultralytics.utils
        from ultralytics.data import base, dataset
        from ultralytics.utils import SETTINGS, torch_utils

    quiet = {name: False for name in _INTEGRATIONS if name in SETTINGS}
    # What it would download goes, and is looked for, where a pod may write; the working directory is read-only.
    places = {f"{name}_dir": str(directory / name) for name in ("weights", "datasets", "runs")}
    wanted = {"sync": False, **quiet, **places}
    if any(SETTINGS[name] != value for name, value in wanted.items()):
        SETTINGS.update(wanted)
    ultralytics.utils.WEIGHTS_DIR = directory / "weights"
    # Imported by value from one constant, which counts the node's cores less one and stops at eight.
    for module in (ultralytics.utils, torch_utils, base, dataset):
        module.NUM_THREADS = cores
    torch.set_num_threads(cores)
    _provide_fonts()
    _log_as_json()
    _observe_progress(observe)


def _provide_fonts() -> None:
    import matplotlib
    from ultralytics.utils import USER_CONFIG_DIR

    ours = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in _FONTS:
        link = Path(USER_CONFIG_DIR) / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(ours)


class _Plain(logging.Filter):
    """Colours and blank lines are for terminals."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _ANSI.sub("", record.getMessage()).strip()
        record.args = None
        return bool(record.msg)


def _log_as_json() -> None:
    """Hand ultralytics' records to the root logger, whose handler writes JSON."""
    logger = logging.getLogger("ultralytics")
    logger.handlers[:] = []
    logger.propagate = True
    logger.filters[:] = [_Plain()]


def _observe_progress(observe: Observer) -> None:
    from ultralytics.utils.tqdm import TQDM

    def update(bar: Any, n: int = 1) -> None:
        bar.n += n
        observe(bar.desc, bar.n, bar.total)

    def close(bar: Any) -> None:
        bar.closed = True

    def display(_bar: Any, final: bool = False) -> None:
        """Nothing is drawn."""

    TQDM.update, TQDM.close, TQDM._display = update, close, display


def activity_of(description: str) -> str:
    """What a progress bar of ultralytics is about, in words for people; empty when it is none worth saying."""
    text = _ANSI.sub("", description).lower()
    if "scanning" in text:
        return "reading the labels"
    if "caching" in text:
        return "caching the images"
    return ""


def device_argument(device: Device) -> str:
    """ultralytics' device: `0` or `cpu`. Raises BadSpecError when a GPU is asked for and none can be used."""
    if device is Device.CPU:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "0"
    raise BadSpecError(
        "training.device is GPU, but this pod sees none. Look whether the node has the NVIDIA driver and container "
        "toolkit (nvidia-smi on the node), whether the RuntimeClass is there (kubectl get runtimeclass nvidia) and "
        "set in runtimeClassName or the chart's values, and whether the node offers nvidia.com/gpu (kubectl describe "
        "node); or set training.device to CPU"
    )


def torch_device(device: Device) -> torch.device:
    """The same as torch takes it; raises what `device_argument` raises."""
    import torch

    return torch.device("cpu" if device_argument(device) == "cpu" else "cuda:0")
