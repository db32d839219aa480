#!/usr/bin/env python3
"""Makes a release from what stands here.

    release.py version X.Y.Z      write the version everywhere it has to stand (pyproject.toml is where it is read from)
    release.py notes X.Y.Z        print what CHANGELOG.md says of that version
    release.py build X.Y.Z        everything into dist/X.Y.Z/ (`make release VERSION=X.Y.Z`)
    release.py vulnerabilities    ask the database about what is in the images that dist/ holds

A build holds the wheels, the images as OCI archives, the packaged chart, a bill of materials of each image, the
licences of everything in them, what is known of their vulnerabilities, the notes, and the checksums of all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _directory in (ROOT, ROOT / "tests" / "cluster"):
    if str(_directory) not in sys.path:
        sys.path.insert(0, str(_directory))

from testcluster import binaries  # noqa: E402
from tests.release import inventory, vulnerabilities  # noqa: E402

IMAGES = ("operator", "consumer", "trainer")
PACKAGES = ("crds", "operator", "operator/kubectl", "consumer-image", "trainer-image")
_VERSION = re.compile(r"^[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)[.0-9]*[0-9])?$")
#: Every place the version stands in: the file, and what stands before it on its line.
PLACES: tuple[tuple[str, str], ...] = (
    ("pyproject.toml", 'version = "'),
    *((f"{package}/pyproject.toml", 'version = "') for package in PACKAGES),
    ("charts/azaion/Chart.yaml", "version: "),
    ("charts/azaion/Chart.yaml", "appVersion: "),
    ("samples/add-model.yaml", "image: docker.io/azaion/trainer:"),
    ("tests/broker/broker.yaml", "image: docker.io/azaion/broker:"),
    ("docs/install-k3s.md", "--label io.cri-containerd.pinned=pinned operator-"),
)
_NUMBER = r"([0-9]+\.[0-9]+\.[0-9]+(?:-(?:alpha|beta|rc)[.0-9]*[0-9])?)"


class ReleaseError(Exception):
    """A release cannot be made of what stands here; the text says why and what to do."""


def current_version() -> str:
    """The version in pyproject.toml, where it is read from."""
    return _found("pyproject.toml", 'version = "')[0]


def _found(path: str, before: str) -> list[str]:
    text = (ROOT / path).read_text()
    found = re.findall(rf"^(?:.*[ ])?{re.escape(before)}{_NUMBER}", text, re.MULTILINE)
    if not found:
        raise ReleaseError(f"{path} has no line with {before!r} and a version")
    return [str(version) for version in found]


def stray_versions() -> list[str]:
    """Places whose version is another one than pyproject.toml's."""
    version = current_version()
    return [f"{path}: {found}" for path, before in PLACES for found in _found(path, before) if found != version]


def set_version(version: str) -> None:
    """Write the version everywhere. Raises ReleaseError."""
    if not _VERSION.match(version):
        raise ReleaseError(f"{version} is no version; give one such as 1.4.0")
    for path, before in PLACES:
        file = ROOT / path
        pattern = rf"^((?:.*[ ])?{re.escape(before)}){_NUMBER}"
        file.write_text(re.sub(pattern, rf"\g<1>{version}", file.read_text(), flags=re.MULTILINE))


def notes(version: str) -> str:
    """The section of the CHANGELOG for the version. Raises ReleaseError when there is none, or nothing in it."""
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ReleaseError(f"CHANGELOG.md has no section `## {version}`: rename `## Unreleased` and say what changes")
    return f"# Azaion Training {version}\n\n{found[1].strip()}\n"


def _check(version: str) -> None:
    if version != current_version():
        raise ReleaseError(
            f"pyproject.toml says {current_version()}: run `tests/release/release.py version {version}` and commit it"
        )
    if stray := stray_versions():
        raise ReleaseError(
            f"the version differs in {'; '.join(stray)}: run `tests/release/release.py version {version}`"
        )
    changed = _output("git", "status", "--porcelain").strip()
    if changed:
        raise ReleaseError(f"there are changes that are not committed:\n{changed}")


def _run(command: Sequence[str | Path], **environment: str) -> None:
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env={**os.environ, **environment}, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(str(c) for c in command[:5])} ended with {done.returncode}")


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def build(version: str) -> Path:
    """The release in dist/VERSION. Raises ReleaseError."""
    _check(version)
    text = notes(version)
    target = ROOT / "dist" / version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    # The commit's time in every file, so that the same commit gives the same wheels.
    epoch = _output("git", "log", "-1", "--format=%ct").strip()
    build_wheels(target, epoch)
    package_chart(target)
    images = ROOT / "tests" / "cluster" / "images.py"
    _run([sys.executable, images, "build", *IMAGES])
    _run([sys.executable, images, "save", target, *IMAGES])
    describe_images(target, version)
    (target / "NOTES.md").write_text(text)
    write_checksums(target)
    return target


def build_wheels(target: Path, epoch: str) -> None:
    """A wheel of each of our packages."""
    uv = Path(sys.executable).parent / "uv"
    for package in PACKAGES:
        command = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", target, ROOT / package]
        _run(command, SOURCE_DATE_EPOCH=epoch, VIRTUAL_ENV=str(Path(sys.executable).parents[1]))
    (target / ".gitignore").unlink(missing_ok=True)


def package_chart(target: Path) -> None:
    """The chart as one file."""
    built = binaries.built()
    helm = str(built.bin / "helm") if built else shutil.which("helm")
    if helm is None:
        raise ReleaseError("there is no helm: run `make cluster-build`, or install it")
    _run([helm, "package", ROOT / "charts" / "azaion", "--destination", target])


def describe_images(target: Path, version: str) -> None:
    """Bills of materials, licences, and what is known of vulnerabilities."""
    by_image = {}
    for image in IMAGES:
        archive = target / f"{image}-{version}.tar"
        by_image[image] = inventory.write(archive, image, version, target / f"{image}-{version}.cdx.json")
    (target / "LICENCES.md").write_text(licences(by_image))
    (target / "VULNERABILITIES.md").write_text(vulnerability_report(by_image)[1])


def licences(by_image: dict[str, list[inventory.Component]]) -> str:
    """A table of every package and its licence, with the images it is in."""
    where: dict[inventory.Component, list[str]] = {}
    for image, found in by_image.items():
        for component in found:
            where.setdefault(component, []).append(image)
    lines = ["# Licences of what the images hold", "", "| Package | Version | Licence | Images |", "|---|---|---|---|"]
    for component, images in sorted(where.items()):
        licence = component.licence.replace("|", "/") or "not stated"
        lines.append(f"| {component.name} | {component.version} | {licence} | {', '.join(images)} |")
    return "\n".join(lines) + "\n"


def vulnerability_report(
    by_image: dict[str, list[inventory.Component]], database: str = vulnerabilities.DATABASE
) -> tuple[bool, str]:
    """Whether the database was asked, and what it said; that it could not be asked is said in the first line."""
    every = sorted({component for found in by_image.values() for component in found})
    try:
        findings = vulnerabilities.check(every, database)
    except vulnerabilities.DatabaseError as error:
        return False, (
            f"# NOT CHECKED\n\n{error}.\n\nNothing is known about vulnerabilities of these images. On a machine that "
            "reaches the database: `python3 tests/release/release.py vulnerabilities`.\n"
        )
    lines = [f"# {len(findings)} advisories for {len(every)} packages", "", f"From {database}.", ""]
    lines += [f"- {finding.package} {finding.version}: {finding.advisory}" for finding in findings]
    return True, "\n".join(lines) + "\n"


def write_checksums(target: Path) -> None:
    """SHA256SUMS, as sha256sum --check reads it."""
    lines = []
    for path in sorted(target.iterdir()):
        if path.name != "SHA256SUMS":
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (target / "SHA256SUMS").write_text("".join(lines))


def _ask_again() -> int:
    by_image = {}
    for path in sorted((ROOT / "dist" / current_version()).glob("*.cdx.json")):
        parts = json.loads(path.read_text())["components"]
        by_image[path.name] = [
            inventory.Component("deb" if part["purl"].startswith("pkg:deb") else "pypi", part["name"], part["version"])
            for part in parts
        ]
    if not by_image:
        raise ReleaseError(f"dist/{current_version()} holds no bill of materials: run `make release` first")
    asked, text = vulnerability_report(by_image)
    print(text)
    return 0 if asked else 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("version", "notes", "build", "vulnerabilities"))
    parser.add_argument("version", nargs="?", metavar="X.Y.Z")
    arguments = parser.parse_args()
    try:
        if arguments.command == "vulnerabilities":
            return _ask_again()
        if arguments.version is None:
            raise ReleaseError(f"say which version: release.py {arguments.command} X.Y.Z")
        if arguments.command == "version":
            set_version(arguments.version)
        elif arguments.command == "notes":
            print(notes(arguments.version), end="")
        else:
            print(f"the release is in {build(arguments.version)}")
    except (ReleaseError, inventory.InventoryError) as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
