"""The directory tree on the volume. Every path the parts share is spelled here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

#: All images run as this user and group; hard links between the parts' files need equal owners.
UID = GID = 10001
#: Where the claim is mounted in every pod of ours.
MOUNT_PATH = "/azaion"

CLASSES_FILE = "classes.json"
DATA_DIRECTORIES = ("data", "data-seed", "data_deleted", "data-corrupted", "data-rejected")
#: File names of images end in one of these, in either case; everything else in an images/ directory is passed over.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
TOP_DIRECTORIES = (*DATA_DIRECTORIES, "datasets", "models", "runs")


_GIB = 1 << 30


def needed_free_bytes(capacity_bytes: int) -> int:
    """Free space below which no run starts: a tenth of the volume, but no more than 100 GiB of it.

    The tenth keeps clear of the 5 % at which the kubelet evicts pods. A training writes tens of gigabytes at most, so on
    a large disk a tenth would be a waste; above 2 TiB the kubelet's own percentage is the tighter bound, and has to be
    lowered there if the volume lies on the node's file system.
    """
    return min(capacity_bytes // 10, 100 * _GIB)


def pausing_free_bytes(capacity_bytes: int) -> int:
    """Free space below which a training stops at its next checkpoint and waits for space: seven tenths of the above."""
    return needed_free_bytes(capacity_bytes) * 7 // 10


@dataclass(frozen=True)
class Layout:
    """Paths below one storage root."""

    root: Path

    @property
    def classes(self) -> Path:
        return self.root / CLASSES_FILE

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def images(self, directory: str) -> Path:
        """Images of `data`, `data-seed`, ... ; one label of the same stem in `labels(directory)` belongs to each."""
        return self.root / directory / "images"

    def labels(self, directory: str) -> Path:
        return self.root / directory / "labels"

    def ingest_state(self, ingest: str) -> Path:
        """What one AnnotationIngest keeps between starts: its offset file and lock."""
        return self.root / ".ingest" / ingest

    def run(self, directory: str) -> RunLayout:
        """The directory of one run, `directory` being `runs/<name>-<uid8>` relative to the root."""
        return RunLayout(self.root / directory)

    def model_link(self, line: str) -> Path:
        """The symbolic link that says which model is current."""
        return self.models / f"{line}.pt"


@dataclass(frozen=True)
class RunLayout:
    """Paths of one training run."""

    root: Path

    @property
    def train(self) -> Path:
        """ultralytics' save_dir: results.csv, plots, weights/last.pt and weights/best.pt."""
        return self.root / "train"

    @property
    def checkpoints(self) -> Path:
        """Verified checkpoints, each with its sha256 beside it."""
        return self.root / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def export(self) -> Path:
        return self.root / "export"


def dated_name(prefix: str, day: date, taken: frozenset[str] | set[str]) -> str:
    """`prefix-YYYY-MM-DD`, with `-2`, `-3`, ... when that name is taken."""
    base = f"{prefix}-{day.isoformat()}"
    if base not in taken:
        return base
    n = 2
    while f"{base}-{n}" in taken:
        n += 1
    return f"{base}-{n}"
