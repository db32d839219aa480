"""Resolve every dependency anew into hash-pinned requirement files: one for development, one per image,
one to bootstrap the environment, one that builds the wheels.

The images' files are constrained by development's, so that what is tested is what is shipped. No registry's address
is written.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMON = [
    "--universal",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
    "--no-header",
    "--no-annotate",
    "--python-version",
    "3.11",
    "--no-emit-package",
    "azaion-api",
    "--no-emit-package",
    "azaion-operator",
    "--no-emit-package",
    "azaion-trainer",
    "--no-emit-package",
    "azaion-consumer",
    "--no-emit-package",
    "kubectl-azaion",
]
DEVELOPMENT = "tests/requirements.txt"


def compile_requirements(*arguments: str) -> None:
    """One `uv pip compile`; raises CalledProcessError with uv's own words on the terminal."""
    print("resolving", arguments[-1], flush=True)
    subprocess.run([Path(sys.executable).parent / "uv", "pip", "compile", *COMMON, *arguments], cwd=ROOT, check=True)


def main() -> int:
    compile_requirements("--group", "pyproject.toml:dev", "pyproject.toml", "-o", DEVELOPMENT)
    for part in ("operator", "consumer-image", "trainer-image"):
        compile_requirements("-c", DEVELOPMENT, f"{part}/pyproject.toml", "-o", f"{part}/requirements.txt")
    for given, wanted in (
        ("tests/bootstrap.in", "tests/bootstrap-requirements.txt"),
        ("crds/build.in", "crds/build-requirements.txt"),
    ):
        compile_requirements("-c", DEVELOPMENT, given, "-o", wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
