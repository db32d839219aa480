"""Bringing images to a node, only what it lacks, and saving them for one that cannot be reached from here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from testcluster.layout import ClusterError
from testcluster.layout import Node as ClusterNode
from testcluster.lifecycle import Cluster

from containerimages.archive import Counter, OciImage, layers_of_docker_archive, layers_of_layout, pipe, write_oci
from containerimages.catalogue import CHUNK_BYTES, GIB, ImageError, Request, version
from containerimages.engines import Buildah, Engine
from containerimages.machine import output_of, run, say

_PIN_LABEL = "io.cri-containerd.pinned=pinned"


class Node(Protocol):
    """Where images are loaded."""

    name: str

    def ctr(self, arguments: Sequence[str]) -> str | None:
        """What containerd's client prints there; None where it cannot be asked."""

    def take(self, stream: IO[bytes]) -> None:
        """Import an archive. Raises ImageError."""

    def link(self, image: OciImage, directories: Mapping[str, Path]) -> None:
        """Take unpacked layers that lie on the same disk by hard links, as far as that goes; the rest is imported."""


class TestClusterNode:
    """A node of a test cluster."""

    def __init__(self, cluster: Cluster, node: ClusterNode) -> None:
        self.name = f"{node.name} of cluster {cluster.name}"
        self._cluster = cluster
        self._node = node

    def ctr(self, arguments: Sequence[str]) -> str | None:
        result = self._cluster.run(["ctr", *arguments], self._node, capture_output=True, text=True)
        return str(result.stdout) if result.returncode == 0 else None

    def take(self, stream: IO[bytes]) -> None:
        try:
            self._cluster.import_image(stream, self._node)
        except ClusterError as error:
            raise ImageError(str(error)) from error

    def link(self, image: OciImage, directories: Mapping[str, Path]) -> None:
        """Gigabytes in seconds, and on disk once: both sides only ever read the files of a layer, or unlink them.

        A snapshot of the layer's ChainID is what importing the layer would leave behind.
        """
        snapshots = _snapshots(self)
        parent: list[str] = []
        for layer, chain in image.chain_ids().items():
            if chain not in snapshots and not self._link_layer(directories.get(layer), parent, chain):
                return
            parent = [chain]

    def _link_layer(self, source: Path | None, parent: Sequence[str], chain: str) -> bool:
        key = f"linking-{chain[7:19]}-{os.getpid()}"
        if source is None or self.ctr(["snapshots", "prepare", key, *parent]) is None:
            return False
        mounts = self.ctr(["snapshots", "mounts", "/target", key]) or ""
        place = re.search(r"(?:upperdir=|-t bind )/var/lib/containerd/([^, ]+)", mounts)
        if place is not None:
            target = self._cluster.layout.on(self._node).node_data / "containerd" / place[1]
            # While buildah works, its directory is a mount of its own, and no link leads out of a mount: look below it.
            script = 'umount --lazy "$1"; exec cp --archive --link --no-target-directory "$2" "$3"'
            command = [
                "unshare",
                "--mount",
                "sh",
                "-c",
                script,
                "link",
                str(source.parents[1]),
                str(source),
                str(target),
            ]
            copied = subprocess.run(command, capture_output=True, check=False).returncode == 0
            if copied and self.ctr(["snapshots", "commit", chain, key]) is not None:
                return True
        self.ctr(["snapshots", "remove", key])
        return False


class K3sNode:
    """This machine's own k3s."""

    name = "k3s"

    def ctr(self, arguments: Sequence[str]) -> str | None:
        command = ["k3s", "ctr", "--namespace", "k8s.io", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.stdout if result.returncode == 0 else None

    def take(self, stream: IO[bytes]) -> None:
        _feed(
            ["k3s", "ctr", "--namespace", "k8s.io", "images", "import", "--local", "--label", _PIN_LABEL, "-"], stream
        )

    def link(self, image: OciImage, directories: Mapping[str, Path]) -> None:
        """A production node keeps its own copies."""


class KindNode:
    """Every node of a kind cluster."""

    def __init__(self, name: str) -> None:
        self.name = f"kind {name}"
        self._cluster = name

    def ctr(self, arguments: Sequence[str]) -> str | None:
        return None

    def take(self, stream: IO[bytes]) -> None:
        _feed(["kind", "load", "image-archive", "--name", self._cluster, "/dev/stdin"], stream)

    def link(self, image: OciImage, directories: Mapping[str, Path]) -> None:
        """The nodes are containers with disks of their own."""


def _feed(command: Sequence[str], stream: IO[bytes]) -> None:
    if shutil.which(command[0]) is None:
        raise ImageError(f"{command[0]} is not on the PATH")
    result = subprocess.run(command, stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        raise ImageError(f"{' '.join(command)} failed: {result.stdout.decode(errors='replace').strip()[-1000:]}")


def load(engine: Engine, node: Node, request: Request) -> list[str]:
    """Bring images to a node, only what it lacks; returns the references it got. Raises ImageError."""
    loaded = []
    for image in request.images():
        ref = request.reference(image)
        if engine.identity(ref) is None:
            if not request.names and image.stand_in:
                continue
            raise ImageError(f"{ref} is not built: run `tests/cluster/images.py build {image.name}`")
        started_s = time.monotonic()
        known = engine.manifest(ref) if isinstance(engine, Buildah) else None
        if known is not None and _has(node, known):
            say(f"{ref} is in {node.name} already")
            continue
        sent_bytes = _stream(engine, node, ref, known)
        loaded.append(ref)
        say(f"{ref} is in {node.name}: {sent_bytes / 1e6:.0f} MB in {time.monotonic() - started_s:.0f} s")
    return loaded


def _has(node: Node, image: OciImage) -> bool:
    listed = node.ctr(["images", "list", f"name=={image.ref}"]) or ""
    return any(line.split()[0] == image.ref and image.digest in line.split() for line in listed.splitlines() if line)


def _snapshots(node: Node) -> frozenset[str]:
    """Names of the unpacked layers on the node."""
    return frozenset((node.ctr(["snapshots", "list"]) or "").split())


def _stream(engine: Engine, node: Node, ref: str, known: OciImage | None) -> int:
    """Send the image; returns the bytes sent. Layers whose snapshot the node has are left out."""
    counter = Counter()
    write: Callable[[IO[bytes]], None] = partial(_write_all, engine, ref)
    if known is not None and isinstance(engine, Buildah):
        node.link(known, engine.layer_directories())
        snapshots = _snapshots(node)
        write = partial(_write_missing, engine, known, [known.chain_ids()[x.digest] in snapshots for x in known.layers])
    with pipe(write, counter) as stream:
        node.take(stream)
    return counter.sent_bytes


def _write_all(engine: Engine, ref: str, out: IO[bytes]) -> None:
    with output_of(engine.archive_command(ref), f"packing {ref}") as packed:
        shutil.copyfileobj(packed, out, CHUNK_BYTES)


def _write_missing(engine: Buildah, image: OciImage, present: Sequence[bool], out: IO[bytes]) -> None:
    """Write the layers that are not present. Packing few of many takes seconds, packing all of them minutes."""
    wanted = [layer for layer, there in zip(image.layers, present, strict=True) if not there]
    missing_bytes, all_bytes = (sum(layer.size_bytes for layer in layers) for layers in (wanted, image.layers))
    if not wanted:
        write_oci(image, [], out)
    elif missing_bytes * 10 < all_bytes:
        with engine.layout(image, wanted) as directory:
            write_oci(image, layers_of_layout(image, wanted, directory), out)
    else:
        with output_of(engine.archive_command(image.ref), f"packing {image.ref}") as packed:
            write_oci(image, layers_of_docker_archive(wanted, packed), out)


def save(engine: Engine, directory: Path, request: Request) -> list[Path]:
    """An OCI archive of each image; returns their paths. Raises ImageError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for image in request.images():
        ref = request.reference(image)
        if engine.identity(ref) is None:
            raise ImageError(f"{ref} is not built: run `tests/cluster/images.py build {image.name}`")
        needed, free = engine.size_bytes(ref), shutil.disk_usage(directory).free
        if free < needed + GIB:
            raise ImageError(f"{ref} needs {needed / GIB:.1f} GiB, {directory} has {free / GIB:.1f} GiB free")
        path = directory / f"{image.name}-{request.tag or version()}.tar"
        temporary = path.with_suffix(".part")
        try:
            # One that a save that was killed left would be added to.
            temporary.unlink(missing_ok=True)
            run(engine.save_command(ref, temporary), f"packing {ref}", quiet=True)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(path)
    return written
