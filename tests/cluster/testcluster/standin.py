"""Images made without a registry: one static binary from scratch, as an OCI archive."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StandIn:
    """An image with a single layer: files by path, symbolic links by path, empty directories."""

    reference: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, int] = field(default_factory=dict)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(content))


def _layer(image: StandIn) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in sorted(image.directories.items()):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            entry.mode = mode
            archive.addfile(entry)
        for name, path in sorted(image.files.items()):
            _add(archive, name, path.read_bytes(), mode=0o755)
        for name, text in sorted(image.texts.items()):
            _add(archive, name, text.encode())
        for name, target in sorted(image.links.items()):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.SYMTYPE
            entry.linkname = target
            archive.addfile(entry)
    return buffer.getvalue()


def write_oci_archive(image: StandIn, path: Path) -> None:
    """Write the image as an OCI archive; the same files give the same bytes, for times and owners are left at zero."""
    layer = _layer(image)
    blobs: dict[str, bytes] = {}

    def descriptor(media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def as_json(document: object) -> bytes:
        return json.dumps(document, sort_keys=True).encode()

    config = as_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(image.entrypoint), "Cmd": list(image.command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    )
    manifest = as_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    listed = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    listed["annotations"] = {
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
    }
    with tarfile.open(path, mode="w") as archive:
        _add(archive, "oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", as_json({"schemaVersion": 2, "manifests": [listed]}))
        for digest, content in sorted(blobs.items()):
            _add(archive, f"blobs/sha256/{digest}", content)
