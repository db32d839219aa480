"""What is written down of a model: the evaluation in the run's directory, the card beside a published model."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from azaion_api.training_run import DatasetStatus, EvaluationStatus

CARD_FILE = "model.json"
EVALUATION_FILE = "evaluation.json"
#: Beside the card: stems of the images the model was trained on, so that it stays known when the data set is gone.
TRAINED_ON_FILE = "trained-on.txt.gz"
CARD_VERSION = 1


class ExportRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One exported file."""

    format: str
    #: Relative to the run's directory; in a card, relative to the card.
    path: str
    sha256: str
    image_size: int
    max_batch: int
    #: How it compares with the .pt, for people.
    agreement: str


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What evaluate leaves for publish and for people: evaluation/evaluation.json."""

    #: The weights that were judged.
    sha256: str
    evaluation: EvaluationStatus
    #: mAP50-95 per class the split holds.
    per_class: dict[str, float]
    split: str
    exports: tuple[ExportRecord, ...] = ()
    #: The line it was judged for, and when.
    line: str = ""
    time: datetime | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a published model comes from: model.json beside its files."""

    version: int = CARD_VERSION
    name: str
    line: str
    run: str
    run_uid: str
    published: datetime
    #: The .pt beside the card.
    model: str
    sha256: str
    dataset: DatasetStatus | None
    evaluation: EvaluationStatus | None
    per_class: dict[str, float]
    exports: tuple[ExportRecord, ...]
    #: Why it was published.
    reason: str
    ultralytics: str


def read_evaluation(directory: Path) -> EvaluationRecord | None:
    """The evaluation of a run, None when there is none or it is not readable."""
    try:
        return msgspec.json.decode((directory / EVALUATION_FILE).read_bytes(), type=EvaluationRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def read_card(directory: Path) -> ModelCard | None:
    """The card of a directory of models/, None when there is none or it is another version's or somebody else's."""
    try:
        card = msgspec.json.decode((directory / CARD_FILE).read_bytes(), type=ModelCard)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return card if card.version == CARD_VERSION else None


def write_trained_on(stems: Iterable[str]) -> bytes:
    """The contents of TRAINED_ON_FILE."""
    text = "".join(f"{stem}\n" for stem in sorted(stems))
    return gzip.compress(text.encode(errors="surrogateescape"), compresslevel=6, mtime=0)


def read_trained_on(directory: Path) -> frozenset[str] | None:
    """Stems of the images a published model was trained on, None when nobody wrote them down."""
    try:
        text = gzip.decompress((directory / TRAINED_ON_FILE).read_bytes()).decode(errors="surrogateescape")
    except (OSError, EOFError, zlib.error):
        return None
    return frozenset(text.splitlines())
