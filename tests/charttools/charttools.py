#!/usr/bin/env python3
"""Programs that check the chart against what the test cluster does not run.

    charttools.py build            build the other major version of helm, and the types of the oldest and the newest
                                   Kubernetes the chart is for, from their Go modules; minutes once, then nothing
    charttools.py build logs       build Loki
    charttools.py path [logs]      print the directory they are in

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

#: Set -> program -> the module file its versions come from, and the package it is.
PROGRAMS = {
    "chart": {
        "helm-3": ("helm-3.mod", "helm.sh/helm/v3/cmd/helm"),
        "manifestcheck-1.30": ("kube-1.30.mod", "."),
        "manifestcheck-1.37": ("go.mod", "."),
    },
    "logs": {"loki": ("loki.mod", "github.com/grafana/loki/v3/cmd/loki")},
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


def directory(chosen: str = "chart") -> Path:
    """Where the programs of a set lie for the sources as they are, built or not."""
    programs = PROGRAMS[chosen]
    digest = hashlib.sha256(repr((programs, _FLAGS, _LINKED)).encode())
    modules = [Path(module) for module, _ in programs.values()]
    own = ["main.go"] if any(package == "." for _, package in programs.values()) else []
    for name in sorted([*map(str, modules), *(str(module.with_suffix(".sum")) for module in modules), *own]):
        digest.update(f"{name}\0".encode() + (SOURCE / name).read_bytes())
    return cache_directory() / f"charttools-{digest.hexdigest()[:16]}"


def built(chosen: str = "chart") -> Path | None:
    """The directory of the programs, or None when they must be built first."""
    found = directory(chosen)
    return found if found.is_dir() else None


def build(chosen: str = "chart") -> Path:
    """The programs' directory, built now unless it is there. Raises BuildError."""
    if (found := built(chosen)) is not None:
        return found
    if shutil.which("go") is None:
        raise BuildError(f"building {', '.join(PROGRAMS[chosen])} needs Go 1.26 or newer on the PATH")
    final = directory(chosen)
    with locked(final.parent):
        if (found := built(chosen)) is not None:
            return found
        temporary = final.with_name(f".{final.name}-{os.getpid()}")
        temporary.mkdir()
        try:
            for name, (module, package) in PROGRAMS[chosen].items():
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
    parser.add_argument("programs", nargs="?", choices=tuple(PROGRAMS), default="chart")
    given = parser.parse_args()
    if given.command == "path":
        print(directory(given.programs))
        return 0
    try:
        print(f"{', '.join(PROGRAMS[given.programs])}: in {build(given.programs)}")
    except BuildError as error:
        print(f"charttools.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
