"""Secrets as they are mounted, read anew wherever they are used: one that is rotated arrives without a restart."""

from __future__ import annotations

from pathlib import Path

from azaion_api.task import SECRETS_PATH
from azaion_api.training_run import SecretKeyRef, SecretRef


class MissingSecretError(Exception):
    """A Secret or keys of it are not there; the message names them and what to do."""


class SecretFiles:
    """The mounted Secrets. Remembers every value it handed out, so that none gets into a message."""

    def __init__(self, directory: Path = Path(SECRETS_PATH)) -> None:
        self._directory = directory
        self._values: set[str] = set()

    def key(self, ref: SecretKeyRef) -> str:
        """One value. Raises MissingSecretError."""
        return self.keys(ref, ref.key)[0]

    def keys(self, ref: SecretRef, *names: str) -> tuple[str, ...]:
        """Several values of one Secret; all that are missing are named at once. Raises MissingSecretError."""
        if ref.name is None:
            raise MissingSecretError("no Secret is named for this")
        directory = self._directory / ref.name
        found = {name: self._read(directory / name) for name in names}
        missing = [name for name, value in found.items() if not value]
        if missing:
            there = "is there without" if any(found.values()) or directory.is_dir() else "is not there; it needs"
            raise MissingSecretError(
                f"Secret {ref.name} {there} {' and '.join(missing)}; "
                f"kubectl create secret generic {ref.name} "
                + " ".join(f"--from-literal={name}=..." for name in names)
                + " (a mounted Secret takes a minute to arrive)"
            )
        values = tuple(value for value in found.values() if value)
        self._values.update(values)
        return values

    def remember(self, *values: str) -> None:
        """Values that came from elsewhere and are secret all the same."""
        self._values.update(value for value in values if value)

    @staticmethod
    def _read(path: Path) -> str | None:
        try:
            return path.read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError):
            return None

    def without(self, text: str) -> str:
        """The text with every secret value that was handed out left out."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "***")
        return text
