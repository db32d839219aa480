#!/usr/bin/env python3
"""Programs that check the chart against what the test cluster does not run: the other major version of helm, and the
types of the oldest and the newest Kubernetes it is for.

    charttools.py build        build them from their Go modules; minutes once, then nothing
    charttools.py path         print the directory they are in

They are kept beside the test cluster's programs, each set by the hash of what it is built from.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
if str(SOURCE.parent / "cluster") not in sys.path:
    sys.path.insert(0, str(SOURCE.parent / "cluster"))

from testcluster.layout import cache_directory, locked  # noqa: E402

#: Program -> the module file its versions come from, and the package it is.
PROGRAMS = {
    "helm-3": ("helm-3.mod", "helm.sh/helm/v3/cmd/helm"),
    "manifestcheck-1.30": ("kube-1.30.mod", "."),
    "manifestcheck-1.37": ("go.mod", "."),
}
#: The same as the test cluster's, so that what both need is compiled once.
_FLAGS = ("-trimpath", "-buildvcs=false", "-tags", "no_btrfs,no_zfs,no_devmapper")
#: As helm's own releases are linked: the Kubernetes it renders for when no cluster is asked. Unset, that is 1.20.
_LINKED = " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={value}"
    for package in ("chartutil", "lint/rules")
    for part, value in (("Major", "1"), ("Minor", "37"))
)


class BuildError(Exception):
    """A program cannot be built; the text holds the compiler's words."""


def directory() -> Path:
    """Where the programs for the sources as they are lie, built or not."""
    digest = hashlib.sha256(repr((PROGRAMS, _FLAGS, _LINKED)).encode())
    for path in sorted([*SOURCE.glob("*.mod"), *SOURCE.glob("*.sum"), SOURCE / "main.go"]):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return cache_directory() / f"charttools-{digest.hexdigest()[:16]}"


def built() -> Path | None:
    """The directory of the programs, or None when they must be built first."""
    found = directory()
    return found if found.is_dir() else None


def build() -> Path:
    """The programs' directory, built now unless it is there. Raises BuildError."""
    if (found := built()) is not None:
        return found
    if shutil.which("go") is None:
        raise BuildError("building helm 3 and the checks of the manifests needs Go 1.26 or newer on the PATH")
    final = directory()
    with locked(final.parent):
        if (found := built()) is not None:
            return found
        temporary = final.with_name(f".{final.name}-{os.getpid()}")
        temporary.mkdir()
        try:
            for name, (module, package) in PROGRAMS.items():
                print(f"building {name}", file=sys.stderr, flush=True)
                done = subprocess.run(
                    [
                        "go",
                        "build",
                        *_FLAGS,
                        f"-ldflags={_LINKED}",
                        f"-modfile={module}",
                        "-o",
                        str(temporary / name),
                        package,
                    ],
                    cwd=SOURCE,
                    env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode != 0:
                    raise BuildError(f"{name} cannot be built from {SOURCE / module}:\n{done.stderr.strip()[-3000:]}")
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("build", "path"))
    if parser.parse_args().command == "path":
        print(directory())
        return 0
    try:
        print(f"helm 3 and the checks of the manifests are in {build()}")
    except BuildError as error:
        print(f"charttools.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
