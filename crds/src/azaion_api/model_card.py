"""The card beside a published model, which says where it comes from; written into models/, read by every part."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from azaion_api.model_line import ModelRecord
from azaion_api.training_run import DatasetStatus, EvaluationStatus

CARD_FILE = "model.json"
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


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a published model comes from: model.json beside its files."""

    version: int = CARD_VERSION
    name: str
    line: str
    #: Empty when no run of the platform made it.
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

    def record(self, directory: str) -> ModelRecord:
        """What a line's history says of it; `directory` is the name of the one in models/ that holds the card."""
        scores = self.evaluation.new if self.evaluation else None
        return ModelRecord(
            name=directory,
            path=f"models/{directory}/{self.model}",
            sha256=self.sha256,
            run=self.run,
            run_uid=self.run_uid,
            time=self.published,
            map50=scores.map50 if scores else None,
            map50to95=scores.map50to95 if scores else None,
        )


def read_card(directory: Path) -> ModelCard | None:
    """The card of a directory of models/, None when there is none or it is another version's or somebody else's."""
    try:
        card = msgspec.json.decode((directory / CARD_FILE).read_bytes(), type=ModelCard)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return card if card.version == CARD_VERSION else None


def write_card(card: ModelCard) -> bytes:
    """The contents of CARD_FILE."""
    return msgspec.json.format(msgspec.json.encode(card), indent=1)


def foreign_uid(directory: str) -> str:
    """What stands for the run of a model that no run of the platform made."""
    return f"models/{directory}"
