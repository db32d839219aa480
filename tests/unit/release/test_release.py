"""A release: one version, the notes of it, what is in its images, and what is known of their vulnerabilities."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.loopback import serving
from tests.release import inventory, previous, release, vulnerabilities
from tests.release.inventory import Component

DPKG = """Package: libc6
Status: install ok installed
Version: 2.36-9+deb12u13

Package: prose
Status: install ok installed
Version: 3

Package: removed
Status: deinstall ok config-files
Version: 1
"""
COPYRIGHT = (
    "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: LGPL-2.1+\n"
)
KOPF = "Metadata-Version: 2.4\nName: kopf\nVersion: 1.45.2\nLicense-Expression: MIT\n\nText\n"
OLD_STYLE = (
    "Metadata-Version: 2.1\nName: Old_Style\nVersion: 1.0\nLicense: see the file\n"
    "Classifier: License :: OSI Approved :: Apache Software License\n"
)


def layer(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def image(path: Path, layers: list[bytes]) -> Path:
    """An OCI archive of these layers."""
    blobs: dict[str, bytes] = {}

    def blob(content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[f"blobs/{digest.replace(':', '/')}"] = content
        return {"digest": digest, "size": len(content)}

    manifest = blob(json.dumps({"layers": [blob(content) for content in layers]}).encode())
    blobs["index.json"] = json.dumps({"manifests": [manifest]}).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    site = "opt/azaion/lib/python3.11/site-packages"
    base = {
        "var/lib/dpkg/status": DPKG,
        "usr/share/doc/libc6/copyright": COPYRIGHT,
        "usr/share/doc/prose/copyright": "The text is in /usr/share/common-licenses/GPL-3.\n",
        f"{site}/gone-1.dist-info/METADATA": "Name: gone\nVersion: 1\n",
    }
    ours = {
        f"{site}/kopf-1.45.2.dist-info/METADATA": KOPF,
        f"{site}/old.dist-info/METADATA": OLD_STYLE,
        f"{site}/.wh.gone-1.dist-info": "",
    }
    return image(tmp_path / "operator.tar", [layer(base), layer(ours)])


@contextmanager
def database(answer: dict[str, Any] | bytes) -> Iterator[tuple[str, list[Any]]]:
    """A server that speaks the database's protocol and answers this."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield url, asked


# The version


def test_the_version_stands_in_one_form_everywhere() -> None:
    assert release.stray_versions() == []


def test_a_new_version_is_written_to_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, _ in release.PLACES:
        copy = tmp_path / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((release.ROOT / path).read_text())
    monkeypatch.setattr(release, "ROOT", tmp_path)
    release.set_version("7.8.9")
    assert release.current_version() == "7.8.9"
    assert release.stray_versions() == []
    release.set_version("7.9.0-rc.1")
    assert release.current_version() == "7.9.0-rc.1"
    (tmp_path / "charts/azaion/Chart.yaml").write_text("version: 7.9.0-rc.1\nappVersion: 7.8.9\n")
    assert release.stray_versions() == ["charts/azaion/Chart.yaml: 7.8.9"]


@pytest.mark.parametrize("version", ["1", "v1.2.3", "1.2.x", "1.2.3 "])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(release.ReleaseError, match="is no version"):
        release.set_version(version)


def test_the_release_before_is_older_and_has_its_notes() -> None:
    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.partition("-")[0].split("."))

    assert number(previous.PREVIOUS.version) < number(release.current_version())
    assert "- " in release.notes(previous.PREVIOUS.version)


def test_notes_that_are_not_written_are_asked_for() -> None:
    with pytest.raises(release.ReleaseError, match=r"has no section `## 99\.0\.0`"):
        release.notes("99.0.0")


# What is in an image


def test_an_image_s_packages_are_read_with_their_licences_and_without_what_a_layer_removed(archive: Path) -> None:
    assert inventory.components(archive) == [
        Component("deb", "libc6", "2.36-9+deb12u13", "LGPL-2.1+"),
        Component("deb", "prose", "3", "GPL-3"),
        Component("pypi", "Old_Style", "1.0", "Apache-2.0"),
        Component("pypi", "kopf", "1.45.2", "MIT"),
    ]


def test_a_bill_of_materials_names_each_package_once_by_its_purl(archive: Path, tmp_path: Path) -> None:
    inventory.write(archive, "operator", "0.2.0", tmp_path / "operator.cdx.json")
    bill = json.loads((tmp_path / "operator.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    purls = [component["purl"] for component in bill["components"]]
    assert purls == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?distro=bookworm",
        "pkg:deb/debian/prose@3?distro=bookworm",
        "pkg:pypi/old-style@1.0",
        "pkg:pypi/kopf@1.45.2",
    ]
    again = inventory.cyclonedx("operator", "0.2.0", inventory.components(archive))
    assert again["serialNumber"] == bill["serialNumber"]


def test_licences_are_listed_and_a_missing_one_is_said() -> None:
    text = release.licences(
        {"operator": [Component("pypi", "a", "1", "MIT")], "trainer": [Component("pypi", "b", "2")]}
    )
    assert "| a | 1 | MIT | operator |" in text
    assert "| b | 2 | not stated | trainer |" in text


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(layer({"a": "b"}))
    with pytest.raises(inventory.InventoryError, match="no archive of an image"):
        inventory.components(path)


# Vulnerabilities


def test_advisories_are_reported_by_package() -> None:
    found = {"operator": [Component("deb", "libc6", "1"), Component("pypi", "kopf", "2")]}
    with database({"results": [{"vulns": [{"id": "DSA-1"}]}, {}]}) as (address, asked):
        done, text = release.vulnerability_report(found, address)
    assert done
    assert "# 1 advisories for 2 packages" in text
    assert "- libc6 1: DSA-1" in text
    assert [query["package"]["ecosystem"] for query in asked[0]["queries"]] == ["Debian:12", "PyPI"]


@pytest.mark.parametrize("answer", [b"<html>", {"results": []}, {"error": "no"}])
def test_an_answer_that_cannot_be_understood_is_no_clean_bill(answer: dict[str, Any] | bytes) -> None:
    with database(answer) as (address, _), pytest.raises(vulnerabilities.DatabaseError):
        vulnerabilities.check([Component("pypi", "a", "1")], address)


def test_a_database_that_cannot_be_had_is_said_first() -> None:
    done, text = release.vulnerability_report({"operator": [Component("pypi", "a", "1")]}, "http://127.0.0.1:1")
    assert not done
    assert text.startswith("# NOT CHECKED\n")


# The files


def test_checksums_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"wheel")
    release.write_checksums(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'wheel').hexdigest()}  a.whl\n"


@pytest.mark.slow
def test_wheels_and_the_chart_are_built_the_same_twice(tmp_path: Path) -> None:
    sums = []
    for attempt in ("one", "two"):
        target = tmp_path / attempt
        target.mkdir()
        release.build_wheels(target, "1700000000")
        release.package_chart(target)
        names = sorted(path.name for path in target.iterdir())
        assert len(names) == len(release.PACKAGES) + 1
        assert all(release.current_version() in name for name in names)
        sums.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in target.glob("*.whl")})
    assert sums[0] == sums[1]
