"""What builds and keeps images: buildah, docker, podman or nerdctl."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from testcluster.layout import cache_directory

from containerimages.archive import OciImage, OciLayer, content_digest
from containerimages.catalogue import ImageError
from containerimages.machine import answers, install, machine_settings, run


class Engine(Protocol):
    """What builds and keeps images."""

    name: str

    def storage(self) -> Path:
        """A directory on the disk that images go to."""

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None: ...

    def identity(self, ref: str) -> str | None:
        """The image's id, or None when it is not there."""

    def label(self, ref: str, name: str) -> str | None:
        """A label of the image, or None."""

    def size_bytes(self, ref: str) -> int: ...

    def pull(self, ref: str) -> None: ...

    def forget(self, identity: str) -> None:
        """Remove an image that no name points to any more; layers that others use stay."""

    def remove(self, refs: Sequence[str]) -> None: ...

    def archive_command(self, ref: str) -> list[str]:
        """A command that writes the image to standard output, as `docker save` does."""

    def save_command(self, ref: str, path: Path) -> list[str]:
        """A command that writes the image to that file as an OCI archive."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told besides its files."""

    arguments: Mapping[str, str]
    labels: Mapping[str, str]


def _build_arguments(options: BuildOptions) -> list[str]:
    found = []
    for name, value in options.arguments.items():
        found += ["--build-arg", f"{name}={value}"]
    for name, value in options.labels.items():
        found += ["--label", f"{name}={value}"]
    return found


class DockerLike:
    """docker, podman or nerdctl."""

    def __init__(self, name: str) -> None:
        self.name = name

    def storage(self) -> Path:
        roots = {"docker": "{{.DockerRootDir}}", "podman": "{{.Store.GraphRoot}}"}
        if self.name in roots:
            with contextlib.suppress(ImageError):
                return Path(run([self.name, "info", "--format", roots[self.name]], "info", quiet=True).strip())
        return Path("/var/lib")

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None:
        command = [self.name, "build", "--file", str(context / containerfile), "--tag", ref]
        run([*command, *_build_arguments(options), str(context)], f"building {ref}")

    def _inspect(self, ref: str) -> dict[str, Any] | None:
        command = [self.name, "image", "inspect", ref]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return None
        found: list[dict[str, Any]] = json.loads(result.stdout)
        return found[0] if found else None

    def identity(self, ref: str) -> str | None:
        found = self._inspect(ref)
        return str(found["Id"]) if found else None

    def label(self, ref: str, name: str) -> str | None:
        found = self._inspect(ref)
        labels = (found or {}).get("Config", {}).get("Labels") or {}
        value = labels.get(name)
        return str(value) if value else None

    def size_bytes(self, ref: str) -> int:
        return int((self._inspect(ref) or {}).get("Size", 0))

    def pull(self, ref: str) -> None:
        run([self.name, "pull", ref], f"pulling {ref}")

    def forget(self, identity: str) -> None:
        if (found := self._inspect(identity)) is not None and not found.get("RepoTags"):
            subprocess.run([self.name, "rmi", identity], capture_output=True, check=False)

    def remove(self, refs: Sequence[str]) -> None:
        run([self.name, "rmi", "--force", *refs], "removing images")

    def archive_command(self, ref: str) -> list[str]:
        return [self.name, "save", ref]

    def save_command(self, ref: str, path: Path) -> list[str]:
        # docker (from 25 on) and nerdctl write an OCI layout by themselves.
        kind = ["--format", "oci-archive"] if self.name == "podman" else []
        return [self.name, "save", *kind, "--output", str(path), ref]


class Buildah:
    """buildah, with a storage of its own in the cache, and no daemon."""

    name = "buildah"

    def __init__(self) -> None:
        root = cache_directory() / "buildah"
        run = Path("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/tmp"))
        place = run / f"azaion-buildah-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
        self._root = root
        self._command = ["buildah", "--root", str(root), "--runroot", str(place), "--storage-driver", "overlay"]
        if shutil.which("buildah") is None:
            install("buildah")
        if not answers([*self._command, "images"]):
            # Where the cache lies on an overlay itself; every layer is then a whole copy.
            self._command[-1] = "vfs"

    def storage(self) -> Path:
        return self._root

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None:
        # What a build that was killed left mounted. The caller holds the lock: no other build is under way.
        run([*self._command, "rm", "--all"], "removing build containers", quiet=True)
        with machine_settings(context.parent) as volumes:
            command = [*self._command, "build", "--isolation", "chroot", "--network", "host", "--layers"]
            command += ["--format", "oci", "--file", str(context / containerfile), "--tag", ref]
            for volume in volumes:
                command += ["--volume", volume]
            run([*command, *_build_arguments(options), str(context)], f"building {ref}")

    def _inspect(self, ref: str) -> dict[str, Any] | None:
        command = [*self._command, "inspect", "--type", "image", ref]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return None
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def identity(self, ref: str) -> str | None:
        found = self._inspect(ref)
        return str(found["FromImageID"]) if found else None

    def label(self, ref: str, name: str) -> str | None:
        found = self._inspect(ref)
        labels = (found or {}).get("OCIv1", {}).get("config", {}).get("Labels") or {}
        value = labels.get(name)
        return str(value) if value else None

    def size_bytes(self, ref: str) -> int:
        manifest = json.loads((self._inspect(ref) or {}).get("Manifest", "{}"))
        return sum(int(layer["size"]) for layer in manifest.get("layers", ()))

    def pull(self, ref: str) -> None:
        run([*self._command, "pull", "--policy", "missing", ref], f"pulling {ref}", quiet=True)

    def forget(self, identity: str) -> None:
        listed = json.loads(run([*self._command, "images", "--all", "--json"], "listing images", quiet=True))
        if any(image["id"] == identity and not image.get("names") for image in listed):
            subprocess.run([*self._command, "rmi", identity], capture_output=True, check=False)

    def remove(self, refs: Sequence[str]) -> None:
        if not self._root.exists():
            return
        run([*self._command, "rm", "--all"], "removing build containers", quiet=True)
        run([*self._command, "rmi", "--all", "--force"], "removing images", quiet=True)
        # The storage mounts itself; the mount goes before the directory.
        for mounted in ("overlay", "."):
            subprocess.run(["umount", str(self._root / mounted)], capture_output=True, check=False)
        shutil.rmtree(self._root)

    def archive_command(self, ref: str) -> list[str]:
        return [*self._command, "push", "--quiet", ref, f"docker-archive:/dev/stdout:{ref}"]

    def save_command(self, ref: str, path: Path) -> list[str]:
        return [*self._command, "push", "--quiet", ref, f"oci-archive:{path}:{ref}"]

    def layer_directories(self) -> dict[str, Path]:
        """The unpacked files of each layer, by the layer's digest; none where layers are not kept as overlays."""
        try:
            known = json.loads((self._root / "overlay-layers" / "layers.json").read_text())
        except FileNotFoundError:
            return {}
        found = {str(layer.get("diff-digest")): self._root / "overlay" / layer["id"] / "diff" for layer in known}
        return {digest: path for digest, path in found.items() if path.is_dir()}

    @contextmanager
    def layout(self, image: OciImage, wanted: Sequence[OciLayer]) -> Iterator[Path]:
        """An OCI layout that really holds the wanted layers only: in place of the others lie empty files of their size,
        which buildah takes for what it wrote before."""
        directory = cache_directory() / f"layout-{os.getpid()}"
        shutil.rmtree(directory, ignore_errors=True)
        try:
            blobs = directory / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            for layer in image.layers:
                if layer not in wanted:
                    with (blobs / layer.digest[7:]).open("wb") as file:
                        file.truncate(layer.size_bytes)
            command = [*self._command, "push", "--quiet", image.ref, f"oci:{directory}:image"]
            run(command, f"packing {image.ref}", quiet=True)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def manifest(self, ref: str) -> OciImage | None:
        """The image as its registry form names it, or None where it cannot be told without packing the layers."""
        found = self._inspect(ref)
        if found is None:
            return None
        manifest, config = str(found["Manifest"]).encode(), str(found["Config"]).encode()
        described = json.loads(manifest)
        layers = tuple(OciLayer(layer["digest"], int(layer["size"])) for layer in described["layers"])
        plain = all(layer["mediaType"].endswith(".tar") for layer in described["layers"])
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        same = (
            described["config"]["digest"] == content_digest(config) and [layer.digest for layer in layers] == diff_ids
        )
        return OciImage(ref, manifest, config, layers) if plain and same else None


def engine_named(name: str | None, holding: str | None = None) -> Engine:
    """The engine asked for, or the first that works and has the image `holding`, or the first that works.

    Root's buildah goes first: what it unpacked need not be copied to a test cluster. Raises ImageError.
    """
    if name == "buildah":
        return Buildah()
    if name is not None:
        if not answers([name, "info"]):
            raise ImageError(f"`{name} info` fails: start {name}, or choose another engine")
        return DockerLike(name)
    working: list[Engine] = []
    for candidate in _working_engines():
        if holding is None or candidate.identity(holding) is not None:
            return candidate
        working.append(candidate)
    return working[0] if working else Buildah()


def _working_engines() -> Iterator[Engine]:
    if os.geteuid() == 0 and shutil.which("buildah") is not None:
        yield Buildah()
    for name in ("docker", "podman", "nerdctl"):
        if answers([name, "info"]):
            yield DockerLike(name)
