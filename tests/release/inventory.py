"""What is in an image: Debian's packages and Python's, with their licences, read from the image itself.

Written as CycloneDX 1.6. An image is read as the archive that `images.py save` writes (an OCI or a docker archive),
layer by layer, without starting it.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

_DPKG = "var/lib/dpkg/status"
_METADATA = re.compile(r"(^|/)[^/]+\.dist-info/METADATA$")
_COPYRIGHT = re.compile(r"^usr/share/doc/([^/]+)/copyright$")
_WHITEOUT = ".wh."
#: Python classifiers say licences in words; the SPDX names of those that occur.
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "The Unlicense (Unlicense)": "Unlicense",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
}
_MAX_LICENCE = 80
_SPDX_ID = re.compile(r"^[A-Za-z0-9.+-]+$")


class InventoryError(Exception):
    """An archive cannot be read as an image."""


@dataclass(frozen=True, order=True)
class Component:
    """One package."""

    kind: str
    name: str
    version: str
    #: SPDX expression or words; empty when nothing says.
    licence: str = ""

    @property
    def purl(self) -> str:
        """Its package URL."""
        if self.kind == "deb":
            return f"pkg:deb/debian/{quote(self.name)}@{quote(self.version, safe='')}?distro=bookworm"
        return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{quote(self.version, safe='')}"


def components(archive: Path) -> list[Component]:
    """Every package in the image. Raises InventoryError."""
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as outer:
        for layer in _layers(outer):
            _apply(layer, files)
    if _DPKG not in files:
        raise InventoryError(f"{archive} holds no {_DPKG}: is it an image made from Debian?")
    copyrights = {found[1]: files[path] for path in files if (found := _COPYRIGHT.match(path))}
    found = {
        *_debian(files[_DPKG], copyrights),
        *(_python(text) for path, text in files.items() if _METADATA.search(path)),
    }
    return sorted(found)


def _layers(outer: tarfile.TarFile) -> Iterator[tarfile.TarFile]:
    names = set(outer.getnames())
    if "manifest.json" in names:
        paths = json.loads(_content(outer, "manifest.json"))[0]["Layers"]
    elif "index.json" in names:
        index = json.loads(_content(outer, "index.json"))
        manifest = json.loads(_content(outer, _blob(index["manifests"][0]["digest"])))
        paths = [_blob(layer["digest"]) for layer in manifest["layers"]]
    else:
        raise InventoryError("neither index.json nor manifest.json: this is no archive of an image")
    for path in paths:
        stream = _stream(outer, path)
        head = stream.read(2)
        stream.seek(0)
        unpacked: IO[bytes] = gzip.GzipFile(fileobj=stream) if head == b"\x1f\x8b" else stream
        with tarfile.open(fileobj=unpacked, mode="r|") as layer:
            yield layer


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _stream(outer: tarfile.TarFile, path: str) -> IO[bytes]:
    found = outer.extractfile(path)
    if found is None:
        raise InventoryError(f"the image's archive lacks {path}")
    return found


def _content(outer: tarfile.TarFile, path: str) -> bytes:
    return _stream(outer, path).read()


def _apply(layer: tarfile.TarFile, files: dict[str, bytes]) -> None:
    """Later layers replace and remove what earlier ones hold."""
    for member in layer:
        path = member.name.removeprefix("./").lstrip("/")
        directory, _, name = path.rpartition("/")
        if name.startswith(_WHITEOUT):
            gone = f"{directory}/{name.removeprefix(_WHITEOUT)}" if directory else name.removeprefix(_WHITEOUT)
            for known in [known for known in files if known == gone or known.startswith(f"{gone}/")]:
                del files[known]
        elif member.isfile() and (path == _DPKG or _METADATA.search(path) or _COPYRIGHT.match(path)):
            content = layer.extractfile(member)
            files[path] = content.read() if content else b""


def _debian(status: bytes, copyrights: dict[str, bytes]) -> Iterator[Component]:
    for paragraph in status.decode(errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields.get("Status", "").endswith(" installed") and fields.get("Package"):
            text = copyrights.get(fields["Package"], b"").decode(errors="replace")
            # Machine-readable, or in prose that points to Debian's common licences.
            named = dict.fromkeys(
                re.findall(r"^License: *(\S[^\n]*)$", text, re.MULTILINE)
                or re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])", text)
            )
            yield Component("deb", fields["Package"], fields.get("Version", ""), " AND ".join(list(named)[:6]))


def _python(text: bytes) -> Component:
    fields = HeaderParser().parsestr(text.decode(errors="replace"))
    licence = fields.get("License-Expression") or ""
    if not licence:
        classified = [
            _CLASSIFIED.get(words, words)
            for line in fields.get_all("Classifier", [])
            if (words := line.rpartition("::")[2].strip()) and line.startswith("License ::") and words != "OSI Approved"
        ]
        stated = (fields.get("License") or "").strip().splitlines()
        licence = " AND ".join(dict.fromkeys(classified)) or (stated[0] if stated else "")
    return Component("pypi", fields["Name"], fields["Version"], licence[:_MAX_LICENCE])


def cyclonedx(image: str, version: str, found: list[Component]) -> dict[str, Any]:
    """The software bill of materials; the same contents give the same document."""
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([image, version, [c.purl for c in found]]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{digest}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"pkg:oci/{image}@{version}",
                "name": f"azaion/{image}",
                "version": version,
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": component.purl,
                "name": component.name,
                "version": component.version,
                "purl": component.purl,
                **({"licenses": [_licence(component.licence)]} if component.licence else {}),
            }
            for component in found
        ],
    }


def _licence(words: str) -> dict[str, Any]:
    return {"license": {"name": words}}


def write(archive: Path, image: str, version: str, target: Path) -> list[Component]:
    """Write the bill of materials of the image in the archive; returns its components. Raises InventoryError."""
    found = components(archive)
    text = io.StringIO()
    json.dump(cyclonedx(image, version, found), text, indent=1, sort_keys=False)
    target.write_text(text.getvalue() + "\n")
    return found
