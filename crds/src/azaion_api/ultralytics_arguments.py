"""ultralytics training arguments that `training.parameters` may set, with the kind of value each takes.

Generated from ultralytics 8.4.190 by `make generate`; arguments with a field of their own, that run code, choose
paths or belong to other tasks than detection are left out (see azaion_trainer.arguments).
"""

from __future__ import annotations

from typing import Literal

ArgumentKind = Literal["int", "float", "bool", "str"]

ALLOWED_PARAMETERS: dict[str, ArgumentKind] = {
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
