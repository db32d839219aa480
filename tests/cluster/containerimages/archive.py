"""Images as archives: what an OCI archive holds, and layers on their way from one stream into another."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

from containerimages.catalogue import CHUNK_BYTES, ImageError


@dataclass(frozen=True)
class OciLayer:
    """An uncompressed layer: its digest is its diff id."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class OciImage:
    """An image whose registry form is known before its layers are packed."""

    ref: str
    manifest: bytes
    config: bytes
    layers: tuple[OciLayer, ...]

    @property
    def digest(self) -> str:
        return content_digest(self.manifest)

    def chain_ids(self) -> dict[str, str]:
        """The snapshot each layer ends up in, by the layer's digest: the OCI image specification's ChainID."""
        found: dict[str, str] = {}
        chain = ""
        for layer in self.layers:
            chain = content_digest(f"{chain} {layer.digest}".encode()) if chain else layer.digest
            found[layer.digest] = chain
        return found

    def index(self) -> bytes:
        """index.json, naming the image the way containerd reads it."""
        described = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.digest,
            "size": len(self.manifest),
            "annotations": {
                "io.containerd.image.name": self.ref,
                "org.opencontainers.image.ref.name": self.ref.rpartition(":")[2],
            },
        }
        return json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()


def content_digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _add(out: IO[bytes], name: str, size_bytes: int, stream: IO[bytes]) -> None:
    """One member of a tar archive, in large pieces: tarfile's own writer copies every byte several times.

    Raises ImageError when the stream holds more or less than it should.
    """
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    out.write(member.tobuf(tarfile.GNU_FORMAT))
    copied_bytes = 0
    while chunk := stream.read(CHUNK_BYTES):
        out.write(chunk)
        copied_bytes += len(chunk)
    if copied_bytes != size_bytes:
        raise ImageError(f"{name} holds {copied_bytes} bytes and should hold {size_bytes}")
    out.write(bytes(-size_bytes % tarfile.BLOCKSIZE))


def write_oci(image: OciImage, layers: Iterable[tuple[OciLayer, IO[bytes]]], out: IO[bytes]) -> None:
    """Write an OCI archive with these layers, maybe fewer than the image has; they pass through and are not kept.

    Raises ImageError when a layer is not what the manifest says.
    """
    layout, index = b'{"imageLayoutVersion": "1.0.0"}', image.index()
    _add(out, "oci-layout", len(layout), BytesIO(layout))
    _add(out, "index.json", len(index), BytesIO(index))
    for content in (image.manifest, image.config):
        _add(out, f"blobs/sha256/{content_digest(content)[7:]}", len(content), BytesIO(content))
    for layer, stream in layers:
        _add(out, f"blobs/sha256/{layer.digest[7:]}", layer.size_bytes, stream)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def layers_of_docker_archive(wanted: Sequence[OciLayer], archive: IO[bytes]) -> Iterator[tuple[OciLayer, IO[bytes]]]:
    """These layers out of what `docker save` writes. Raises ImageError when one is not in it."""
    missing = {layer.digest: layer for layer in wanted}
    with tarfile.open(fileobj=archive, mode="r|", bufsize=CHUNK_BYTES) as members:
        for member in members:
            digest = f"sha256:{member.name.removesuffix('.tar')}"
            stream = members.extractfile(member) if member.isfile() and digest in missing else None
            if stream is not None:
                yield missing.pop(digest), stream
    if missing:
        raise ImageError(f"the engine did not hand out the layers {', '.join(missing)}")


def layers_of_layout(
    image: OciImage, wanted: Sequence[OciLayer], directory: Path
) -> Iterator[tuple[OciLayer, IO[bytes]]]:
    """These layers out of an OCI layout of the image, in which they may be compressed."""
    index = json.loads((directory / "index.json").read_text())
    blobs = directory / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    for layer, written in zip(image.layers, manifest["layers"], strict=True):
        if layer in wanted:
            path = blobs / written["digest"][7:]
            with path.open("rb") as plain:
                compressed = plain.read(2) == b"\x1f\x8b"
                plain.seek(0)
                yield layer, cast("IO[bytes]", gzip.GzipFile(fileobj=plain)) if compressed else plain


class Counter:
    """Counts what passes through a pipe."""

    def __init__(self) -> None:
        self.sent_bytes = 0


class _Counting(BytesIO):
    """Writes on to a stream and counts."""

    def __init__(self, out: IO[bytes], counter: Counter) -> None:
        super().__init__()
        self._out = out
        self._counter = counter

    def write(self, content: Any) -> int:
        self._counter.sent_bytes += len(content)
        return self._out.write(content)


@contextmanager
def pipe(write: Callable[[IO[bytes]], None], counter: Counter) -> Iterator[IO[bytes]]:
    """What `write` writes in a thread of its own, to be read here. The writer's error wins over the reader's."""
    read_end, write_end = os.pipe()
    failed: list[ImageError | OSError] = []

    def work() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as out:
            try:
                write(_Counting(out, counter))
            except (ImageError, OSError, tarfile.TarError) as error:
                failed.append(error if isinstance(error, ImageError | OSError) else ImageError(str(error)))

    thread = threading.Thread(target=work, name="archive")
    thread.start()
    try:
        with os.fdopen(read_end, "rb") as stream:
            yield stream
    except ImageError as error:
        thread.join()
        # A reader that gave up breaks the pipe; then its own words say more.
        if failed and not isinstance(failed[0], BrokenPipeError):
            raise ImageError(f"{failed[0]} ({error})") from error
        raise
    thread.join()
    if failed:
        raise ImageError(f"the archive broke off: {failed[0]}") from failed[0]
