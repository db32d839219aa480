"""The tree and the settings of a Docker Compose installation, as real files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from rich.console import Console

from azaion_kubectl.adopt import Request
from azaion_kubectl.screen import Screen

PASSWORDS = ("s3cr#t of the broker", "hunter2-of-the-api")
ENV = f"""\
# Production
export AZAION_API_URL=https://api.example.com
AZAION_API_EMAIL=uploader@example.com
AZAION_API_PASSWORD="{PASSWORDS[1]}"
RABBITMQ_HOST=broker.example.com   # the managed one
RABBITMQ_PORT=5552
RABBITMQ_USER=azaion_receiver
RABBITMQ_PASSWORD='{PASSWORDS[0]}'
RABBITMQ_QUEUE_NAME=azaion-annotations
AZAION_ROOT_DIR=/azaion
AZAION_DATA_DIR=data
AZAION_DATA_SEED_DIR=data-seed
AZAION_DATA_DELETED_DIR=data_deleted
TRAINING_MODEL=yolo26m.pt
TRAINING_EPOCHS=60
TRAINING_BATCH_SIZE=11
TRAINING_IMGSZ=1280
TRAINING_SAVE_PERIOD=1
TRAINING_WORKERS=24
EXPORT_ONNX_IMGSZ=1280
"""
CLASSES = [
    {"Id": 0, "Name": "Car", "ShortName": "C", "Color": "#E6194B", "Old": 1},
    {"Id": 16, "Name": "Вантажівка", "ShortName": "В", "Color": "red"},
]
OLD, MIDDLE, NEW = "azaion-2026-03-28", "azaion-2026-06-01", "azaion-2026-06-01-2"


class Compose:
    """Below `path`: azaion/, the tree, and opt/, where .env, config.yaml and offset.yaml are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "azaion"
        self.settings = path / "opt"
        self.output = path / "out"
        for name in ("data", "data-seed", "data_deleted"):
            for kind in ("images", "labels"):
                (self.root / name / kind).mkdir(parents=True)
        (self.root / "datasets" / "azaion-2026-05-20" / "train" / "images").mkdir(parents=True)
        for number in range(12):
            self.pair("data" if number % 3 else "data-seed", f"clip_{number:06}")
        (self.root / "classes.json").write_text(json.dumps(CLASSES))
        (self.root / "offset.yaml").write_text("# written by the annotation queue\noffset_queue: 4711\n")
        self.model(OLD, "weights/best.pt")
        (self.root / "models" / OLD / "results.csv").write_text("epoch\n1\n")
        self.model(MIDDLE, "best.pt")
        self.model(NEW, "best.pt")
        (self.root / "models" / "yolo26m.pt").write_bytes(b"base")
        self.settings.mkdir()
        (self.settings / ".env").write_text(ENV)

    def pair(self, directory: str, stem: str) -> None:
        (self.root / directory / "images" / f"{stem}.jpg").write_bytes(stem.encode() * 10)
        (self.root / directory / "labels" / f"{stem}.txt").write_text("0 0.5 0.5 0.1 0.1\n")

    def model(self, name: str, weights: str) -> Path:
        path = self.root / "models" / name / weights
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"weights of {name}".encode())
        return path

    @property
    def current(self) -> Path:
        return self.root / "models" / "azaion.pt"

    def copy_current(self, name: str = MIDDLE) -> None:
        """models/azaion.pt as the old training leaves it: a copy."""
        self.current.write_bytes(f"weights of {name}".encode())

    def own(self) -> None:
        """Owners and modes as an installation has them after years: mostly one user's, some of others."""
        for number, path in enumerate(sorted([self.root, *self.root.rglob("*")])):
            os.chown(path, 1000, 1001, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
            if number % 7 == 3:
                os.chown(path, 0, 0, follow_symlinks=False)
            if number % 5 == 4 and not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)

    def request(self, **changes: object) -> Request:
        fields = {
            "directory": self.root,
            "compose": self.settings,
            "output": self.output,
            "namespace": "azaion",
            "node": "gpu-1",
        }
        return Request(**(fields | changes))  # type: ignore[arg-type]


def everything(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Every path of a tree, the root too: kind and mode, owner, names it has, and its bytes or where it leads."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content: bytes | str | None = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        links = status.st_nlink if path.is_file() else 0
        found[os.fsencode(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, links, content)
    return found


def screen() -> tuple[Screen, io.StringIO]:
    """A screen without a terminal, and what was written on it."""
    out = io.StringIO()
    return Screen(Console(file=out, width=10000, highlight=False, color_system=None)), out
