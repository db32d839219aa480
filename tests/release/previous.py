#!/usr/bin/env python3
"""The release before this one, as it was: upgrades and rollbacks are tried between it and what stands here.

    previous.py DIRECTORY       unpack its sources there (an empty directory is left as it is on failure)

Its images are built by its own tests/cluster/images.py from those sources, under its own tag.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Release:
    """A released version and the commit it was made from; the tag vVERSION names the same one."""

    version: str
    commit: str


#: After a release: its version and commit go here (docs/operations.md, "A release").
PREVIOUS = Release("0.1.0", "4f4ac7d6fd20a841e0f6d6425443ffa6e089db92")


class PreviousError(Exception):
    """The sources of the release before cannot be had; the text says what to do."""


def unpack(target: Path, release: Release = PREVIOUS) -> Path:
    """The release's sources in `target`, which is made; an already unpacked one is taken as it is."""
    done = target / ".unpacked"
    if done.is_file() and done.read_text() == release.commit:
        return target
    try:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", release.commit], cwd=ROOT, capture_output=True, check=True
        ).stdout
    except subprocess.CalledProcessError as error:
        raise PreviousError(
            f"the sources of {release.version} (commit {release.commit}) are not in this clone: run `git fetch --tags "
            f"--unshallow`; git says: {error.stderr.decode(errors='replace').strip()}"
        ) from error
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        unpacked.extractall(target, filter="data")
    done.write_text(release.commit)
    return target


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(unpack(Path(sys.argv[1])))
    except PreviousError as error:
        print(f"previous.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
