"""What is written down of a model beside its card: how it was judged, and the images it was trained on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from azaion_api.model_card import ExportRecord
from azaion_api.training_run import EvaluationStatus

EVALUATION_FILE = "evaluation.json"
#: Beside the card: stems of the images the model was trained on, so that it stays known when the data set is gone.
TRAINED_ON_FILE = "trained-on.txt.gz"


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


def read_evaluation(directory: Path) -> EvaluationRecord | None:
    """The evaluation of a run, None when there is none or it is not readable."""
    try:
        return msgspec.json.decode((directory / EVALUATION_FILE).read_bytes(), type=EvaluationRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


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
