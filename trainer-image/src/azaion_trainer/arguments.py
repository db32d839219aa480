"""The ultralytics arguments a run may set, and how `training.parameters` becomes them.

`python -m azaion_trainer.arguments --write` generates azaion_api.ultralytics_arguments from the installed ultralytics,
`--check` says whether that file is up to date. An argument is let in when it changes how a detector learns and nothing
else; every other one is named below with the reason, so that a new version's additions have to be judged by a person.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import azaion_api
from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS, ArgumentKind
from azaion_trainer.failures import BadSpecError

GENERATED = Path(azaion_api.__file__).with_name("ultralytics_arguments.py")

#: Arguments a run may set, in the order of ultralytics' own list, with the kind of value.
ALLOWED: dict[str, ArgumentKind] = {
    "optimizer": "str",
    "seed": "int",
    "deterministic": "bool",
    "single_cls": "bool",
    "rect": "bool",
    "cos_lr": "bool",
    "close_mosaic": "int",
    "amp": "bool",
    "cache": "str",
    "fraction": "float",
    "freeze": "int",
    "multi_scale": "float",
    "compile": "bool",
    "channels_last": "bool",
    "dropout": "float",
    "iou": "float",
    "max_det": "int",
    "lr0": "float",
    "lrf": "float",
    "momentum": "float",
    "weight_decay": "float",
    "warmup_epochs": "float",
    "warmup_momentum": "float",
    "warmup_bias_lr": "float",
    "box": "float",
    "cls": "float",
    "cls_pw": "float",
    "dfl": "float",
    "nbs": "int",
    "hsv_h": "float",
    "hsv_s": "float",
    "hsv_v": "float",
    "degrees": "float",
    "translate": "float",
    "scale": "float",
    "shear": "float",
    "perspective": "float",
    "flipud": "float",
    "fliplr": "float",
    "bgr": "float",
    "mosaic": "float",
    "mixup": "float",
    "cutmix": "float",
}

#: Why every other argument of ultralytics is refused.
REFUSED: dict[str, tuple[str, ...]] = {
    "has a field of its own": (
        "model", "data", "epochs", "patience", "batch", "imgsz", "save_period", "device", "workers", "resume",
        "pretrained",
    ),
    "is the stage's to choose": (
        "task", "mode", "time", "save", "exist_ok", "verbose", "plots", "val", "split", "profile", "cls_remap",
        "quantize",
    ),
    "chooses paths, or files that are read or run": (
        "project", "name", "cfg", "tracker", "distill_model", "dis", "source", "visualize", "save_json", "save_txt",
        "save_conf", "save_crop", "save_frames",
    ),
    "belongs to other tasks than detection": (
        "overlap_mask", "mask_ratio", "pose", "kobj", "rle", "angle", "dlog", "dgrad", "dlam", "copy_paste",
        "copy_paste_mode", "auto_augment", "erasing", "retina_masks",
    ),
    "belongs to prediction or export": (
        "conf", "dnn", "nms", "vid_stride", "stream_buffer", "augment", "agnostic_nms", "classes", "embed", "show",
        "show_labels", "show_conf", "show_boxes", "line_width", "format", "optimize", "dynamic", "simplify", "opset",
        "workspace",
    ),
}  # fmt: skip

_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
_CHOICES: dict[str, frozenset[str]] = {
    "cache": frozenset({"ram", "disk", "false"}),
    "optimizer": frozenset({"auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop"}),
}
_EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def parse_parameters(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Typed values of `training.parameters`.

    Raises BadSpecError with the name, the value and what was expected.
    """
    return {name: _parse(name, value) for name, value in sorted(parameters.items())}


def _parse(name: str, value: str) -> Any:
    kind = ALLOWED_PARAMETERS.get(name)
    if kind is None:
        reason = next((reason for reason, names in REFUSED.items() if name in names), "is not known to ultralytics")
        raise BadSpecError(f"training.parameters.{name} cannot be set: it {reason}")
    parsed = _PARSERS[kind](name, value.strip())
    if parsed is None:
        expected = _EXPECTED.get(kind) or f"one of {', '.join(sorted(_CHOICES[name]))}"
        raise BadSpecError(f"training.parameters.{name} is {value!r}; expected {expected}")
    return parsed


def _parse_int(_name: str, value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _parse_float(_name: str, value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse_bool(_name: str, value: str) -> bool | None:
    lower = value.lower()
    return True if lower in _TRUE else False if lower in _FALSE else None


def _parse_str(name: str, value: str) -> str | bool | None:
    found = next((choice for choice in _CHOICES[name] if choice.lower() == value.lower()), None)
    return False if found == "false" else found


_PARSERS = {"int": _parse_int, "float": _parse_float, "bool": _parse_bool, "str": _parse_str}


def generated() -> str:
    """The text of azaion_api.ultralytics_arguments for the installed ultralytics.

    Raises RuntimeError naming arguments that are neither allowed nor refused, or that ultralytics no longer has.
    """
    known = _known_arguments()
    judged = set(ALLOWED).union(*REFUSED.values())
    if known - judged:
        raise RuntimeError(f"new ultralytics arguments to judge in {__file__}: {', '.join(sorted(known - judged))}")
    if judged - known:
        raise RuntimeError(f"ultralytics no longer has: {', '.join(sorted(judged - known))}; remove from {__file__}")
    rows = "".join(f'    "{name}": "{kind}",\n' for name, kind in ALLOWED.items())
    return f'''"""ultralytics training arguments that `training.parameters` may set, with the kind of value each takes.

Generated from ultralytics {importlib.metadata.version("ultralytics")} by `make generate`; arguments with a field of their own, that run code, choose
paths or belong to other tasks than detection are left out (see azaion_trainer.arguments).
"""

from __future__ import annotations

from typing import Literal

ArgumentKind = Literal["int", "float", "bool", "str"]

ALLOWED_PARAMETERS: dict[str, ArgumentKind] = {{
{rows}}}
'''  # noqa: E501 - the line is the generated file's


def _known_arguments() -> set[str]:
    """Argument names of the installed ultralytics, read without importing it (that takes seconds)."""
    import yaml

    located = importlib.metadata.distribution("ultralytics").locate_file("ultralytics/cfg/default.yaml")
    return set(yaml.safe_load(Path(str(located)).read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the allow-list of ultralytics arguments")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write azaion_api/ultralytics_arguments.py")
    what.add_argument("--check", action="store_true", help="fail when it is not up to date")
    if parser.parse_args().write:
        GENERATED.write_text(generated())
        return 0
    if GENERATED.read_text() != generated():
        sys.stderr.write(f"{GENERATED} is not up to date: run make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
