#!/usr/bin/env python3
"""The project's container images, built by buildah, docker, podman or nerdctl, whichever is there.

    images.py build                           build what is not current; nothing to do takes a second
    images.py load --name CLUSTER             into a test cluster, pinned against the kubelet's image collection
    images.py load --k3s | --kind NAME        into your own k3s (as root) or kind
    images.py save DIRECTORY                  one archive per image, for a machine without a registry
    images.py list                            what is built, and whether it is current
    images.py clean                           remove what `build` made

An image is built anew only when its inputs changed: the files it is made of, its Containerfile, its base. A label on
the image holds their hash, so no other record is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, cast

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from testcluster import binaries
from testcluster.layout import ClusterError, cache_directory
from testcluster.lifecycle import Cluster

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "docker.io/azaion"
#: What the images start from where a registry can be reached.
PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
#: Its stand-in, made from Debian packages.
OWN_BASE = f"{REPOSITORY}/base:bookworm"
LABEL_INPUTS = "com.azaion.inputs"

_SUITE = "bookworm"
_PACKAGES = ("usr-is-merged", "ca-certificates", "python3", "python3-venv")
_NEVER_NEEDED = ("doc", "info", "lintian", "locale", "man")
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PIN_LABEL = "io.cri-containerd.pinned=pinned"
_GIB = 1024**3
_CHUNK_BYTES = 1 << 20
#: Files of a build context get this time, so that a fresh checkout finds the layers of an older one.
_CONTEXT_TIME = 1_700_000_000


class ImageError(Exception):
    """An image could not be built, saved or loaded; the text says what, where, and what to do."""


@dataclass(frozen=True)
class Image:
    """One image: its Containerfile and everything that may get into it, relative to the repository."""

    name: str
    containerfile: str
    inputs: tuple[str, ...]
    #: Disk the build takes at its peak, packages being unpacked included; measured.
    build_bytes: int
    #: Starts from Debian with Python 3.11.
    python: bool = True


IMAGES = (
    Image("operator", "operator/Containerfile", ("crds", "operator"), 1 * _GIB),
    Image("consumer", "consumer-image/Containerfile", ("crds", "consumer-image"), 1 * _GIB),
    Image("trainer", "trainer-image/Containerfile", ("crds", "trainer-image"), 16 * _GIB),
    Image("broker", "tests/broker/Containerfile", ("tests/broker",), 2 * _GIB),
    Image("kube-state-metrics", "tests/images/kube-state-metrics/Containerfile", (), 1 * _GIB, python=False),
)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def version() -> str:
    """The chart's appVersion, which tags the images unless told otherwise."""
    chart = (ROOT / "charts" / "azaion" / "Chart.yaml").read_text()
    found = re.search(r"^appVersion: *[\"']?([^\s\"']+)", chart, re.MULTILINE)
    if found is None:
        raise ImageError("charts/azaion/Chart.yaml has no appVersion")
    return found[1]


def reference(image: Image, tag: str) -> str:
    """`docker.io/azaion/operator:0.1.0`; in YAML `azaion/operator:0.1.0` is the same."""
    return f"{REPOSITORY}/{image.name}:{tag}"


# Contexts


@dataclass(frozen=True)
class _File:
    """A file of a build context: where it is, where it goes."""

    source: Path
    target: str

    @property
    def executable(self) -> bool:
        return bool(self.source.stat().st_mode & 0o100)


def _sources(image: Image) -> list[_File]:
    """Everything the build may read. Raises ImageError when something is not there."""
    containerfile = ROOT / image.containerfile
    if not containerfile.is_file():
        raise ImageError(f"{image.name}: {image.containerfile} does not exist")
    found = {image.containerfile: containerfile}
    for given in image.inputs:
        top = ROOT / given
        if not top.exists():
            raise ImageError(f"{image.name}: {given} does not exist")
        for path in sorted(top.rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and "__pycache__" not in parts and not any(p.endswith(".egg-info") for p in parts):
                found[path.relative_to(ROOT).as_posix()] = path
    if image.name == "kube-state-metrics":
        built = binaries.built()
        if built is None:
            raise ImageError("kube-state-metrics is built with the test cluster: run `tests/cluster/cluster.py build`")
        found["kube-state-metrics"] = built.bin / "kube-state-metrics"
    return [_File(source, target) for target, source in sorted(found.items())]


def _hash(files: Sequence[_File], base: str) -> str:
    """Thirty-two hexadecimal digits over what the image is made of."""
    digest = hashlib.sha256(f"1\0{base}\0".encode())
    for file in files:
        digest.update(f"{file.target}\0{file.executable}\0{file.source.stat().st_size}\0".encode())
        with file.source.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:32]


@contextmanager
def _context(files: Sequence[_File]) -> Iterator[Path]:
    """A directory with these files only, modes and times made equal, so that only contents decide what is cached."""
    directory = cache_directory() / f"context-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        for file in files:
            target = directory / file.target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.source, target)
            target.chmod(0o755 if file.executable else 0o644)
            os.utime(target, (_CONTEXT_TIME, _CONTEXT_TIME))
        for path in directory.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
                os.utime(path, (_CONTEXT_TIME, _CONTEXT_TIME))
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# Engines


def _run(command: Sequence[str], what: str, *, quiet: bool = False) -> str:
    """Run it, output going to the terminal unless quiet; returns standard output. Raises ImageError."""
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE if quiet else sys.stderr,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(f"{what} failed: {command[0]} is not on the PATH") from error
    if result.returncode != 0:
        detail = (result.stderr or "").strip()[-2000:] or f"see the lines above; it ended with {result.returncode}"
        raise ImageError(f"{what} failed: {detail}")
    return result.stdout or ""


def _answers(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


class Engine(Protocol):
    """What builds and keeps images."""

    name: str

    def storage(self) -> Path:
        """A directory on the disk that images go to."""

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None: ...

    def identity(self, ref: str) -> str | None:
        """The image's id, or None when it is not there."""

    def inputs(self, ref: str) -> str | None:
        """The hash it was built from."""

    def size_bytes(self, ref: str) -> int: ...

    def pull(self, ref: str) -> None: ...

    def forget(self, identity: str) -> None:
        """Remove an image that no name points to any more; layers that others use stay."""

    def remove(self, refs: Sequence[str]) -> None: ...

    def archive_command(self, ref: str) -> list[str]:
        """A command that writes the image to standard output, as `docker save` does."""


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
                return Path(_run([self.name, "info", "--format", roots[self.name]], "info", quiet=True).strip())
        return Path("/var/lib")

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None:
        command = [self.name, "build", "--file", str(context / containerfile), "--tag", ref]
        _run([*command, *_build_arguments(options), str(context)], f"building {ref}")

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

    def inputs(self, ref: str) -> str | None:
        found = self._inspect(ref)
        labels = (found or {}).get("Config", {}).get("Labels") or {}
        value = labels.get(LABEL_INPUTS)
        return str(value) if value else None

    def size_bytes(self, ref: str) -> int:
        return int((self._inspect(ref) or {}).get("Size", 0))

    def pull(self, ref: str) -> None:
        _run([self.name, "pull", ref], f"pulling {ref}")

    def forget(self, identity: str) -> None:
        if (found := self._inspect(identity)) is not None and not found.get("RepoTags"):
            subprocess.run([self.name, "rmi", identity], capture_output=True, check=False)

    def remove(self, refs: Sequence[str]) -> None:
        _run([self.name, "rmi", "--force", *refs], "removing images")

    def archive_command(self, ref: str) -> list[str]:
        return [self.name, "save", ref]


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
            _install("buildah")
        if not _answers([*self._command, "images"]):
            # Where the cache lies on an overlay itself; every layer is then a whole copy.
            self._command[-1] = "vfs"

    def storage(self) -> Path:
        return self._root

    def build(self, context: Path, containerfile: str, ref: str, options: BuildOptions) -> None:
        # What a build that was killed left mounted. The caller holds the lock: no other build is under way.
        _run([*self._command, "rm", "--all"], "removing build containers", quiet=True)
        with _machine_settings(context.parent) as volumes:
            command = [*self._command, "build", "--isolation", "chroot", "--network", "host", "--layers"]
            command += ["--format", "oci", "--file", str(context / containerfile), "--tag", ref]
            for volume in volumes:
                command += ["--volume", volume]
            _run([*command, *_build_arguments(options), str(context)], f"building {ref}")

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

    def inputs(self, ref: str) -> str | None:
        found = self._inspect(ref)
        labels = (found or {}).get("OCIv1", {}).get("config", {}).get("Labels") or {}
        value = labels.get(LABEL_INPUTS)
        return str(value) if value else None

    def size_bytes(self, ref: str) -> int:
        manifest = json.loads((self._inspect(ref) or {}).get("Manifest", "{}"))
        return sum(int(layer["size"]) for layer in manifest.get("layers", ()))

    def pull(self, ref: str) -> None:
        _run([*self._command, "pull", "--policy", "missing", ref], f"pulling {ref}", quiet=True)

    def forget(self, identity: str) -> None:
        listed = json.loads(_run([*self._command, "images", "--all", "--json"], "listing images", quiet=True))
        if any(image["id"] == identity and not image.get("names") for image in listed):
            subprocess.run([*self._command, "rmi", identity], capture_output=True, check=False)

    def remove(self, refs: Sequence[str]) -> None:
        if not self._root.exists():
            return
        _run([*self._command, "rm", "--all"], "removing build containers", quiet=True)
        _run([*self._command, "rmi", "--all", "--force"], "removing images", quiet=True)
        # The storage mounts itself; the mount goes before the directory.
        for mounted in ("overlay", "."):
            subprocess.run(["umount", str(self._root / mounted)], capture_output=True, check=False)
        shutil.rmtree(self._root)

    def archive_command(self, ref: str) -> list[str]:
        return [*self._command, "push", "--quiet", ref, f"docker-archive:/dev/stdout:{ref}"]

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
            _run(command, f"packing {image.ref}", quiet=True)
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
        same = described["config"]["digest"] == _digest(config) and [layer.digest for layer in layers] == diff_ids
        return OciImage(ref, manifest, config, layers) if plain and same else None


@contextmanager
def _machine_settings(directory: Path) -> Iterator[list[str]]:
    """How this machine reaches its package sources, as volumes of a build: nothing of it stays in the image."""
    place = directory / f"machine-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    volumes = []
    try:
        (place / "apt.conf.d").mkdir(parents=True)
        (place / "sources.list.d").mkdir()
        pip = {"disable-pip-version-check": "1", **_pip_settings()}
        if _CA_BUNDLE.is_file():
            pip["cert"] = str(_CA_BUNDLE)
            volumes.append(f"{_CA_BUNDLE}:{_CA_BUNDLE}:ro")
        (place / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in pip.items()))
        volumes.append(f"{place / 'pip.conf'}:/etc/pip.conf:ro")
        settings = [*_apt_settings(), 'APT::Keep-Downloaded-Packages "false";', 'APT::Install-Recommends "false";']
        (place / "apt.conf.d" / "machine").write_text("\n".join(settings) + "\n")
        volumes.append(f"{place / 'apt.conf.d'}:/etc/apt/apt.conf.d:ro")
        if sources := _apt_sources():
            (place / "sources.list.d" / "machine.list").write_text("\n".join(sources) + "\n")
            volumes.append(f"{place / 'sources.list.d'}:/etc/apt/sources.list.d:ro")
        yield volumes
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _pip_settings() -> dict[str, str]:
    """How this machine's pip downloads, from its files and its environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    wanted = ("index-url", "extra-index-url", "trusted-host", "cert", "timeout", "retries", "proxy")
    found = re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE)
    return {key: value for key, value in found if key in wanted}


def _apt_settings() -> list[str]:
    """How this machine's apt downloads: proxies, certificates, what it checks. None where there is no apt."""
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    wanted = ("http", "https", "Check-", "Retries", "ForceIPv")
    return [line for line in dumped.splitlines() if line.startswith(tuple(f"Acquire::{word}" for word in wanted))]


def _apt_sources() -> list[str]:
    """This machine's sources of the Debian release the images are made of; none when it runs another one."""
    if shutil.which("apt-get") is None:
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    suites = (_SUITE, f"{_SUITE}-updates", f"{_SUITE}-security")
    return sorted({f"deb {line}" for line in lines if len(line.split()) == 3 and line.split()[1] in suites})


def _install(package: str) -> None:
    """Install a Debian package. Raises ImageError."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ImageError(f"{package} is needed: install it, or have docker, podman or nerdctl running")
    _say(f"installing {package} with apt-get")
    os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
    _run(["apt-get", "update", "-qq"], "apt-get update", quiet=True)
    _run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", package], f"installing {package}", quiet=True)


def engine_named(name: str | None) -> Engine:
    """The engine asked for, or the first one that works. Raises ImageError.

    Root's buildah goes first: what it unpacked need not be copied to a test cluster.
    """
    if name == "buildah":
        return Buildah()
    if name is not None:
        if not _answers([name, "info"]):
            raise ImageError(f"`{name} info` fails: start {name}, or choose another engine")
        return DockerLike(name)
    if os.geteuid() == 0 and shutil.which("buildah") is not None:
        return Buildah()
    for candidate in ("docker", "podman", "nerdctl"):
        if _answers([candidate, "info"]):
            return DockerLike(candidate)
    return Buildah()


# Build


def _make_own_base(engine: Engine) -> None:
    """Debian with its own Python, from packages, with the newest security updates."""
    if shutil.which("mmdebstrap") is None:
        _install("mmdebstrap")
    context = cache_directory() / f"context-base-{os.getpid()}"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    try:
        containerfile = "tests/images/base/Containerfile"
        (context / containerfile).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / containerfile, context / containerfile)
        settings = context / "apt.conf"
        settings.write_text("".join(f"{line}\n" for line in _apt_settings()))
        # What belongs to this machine stays out: its sources, its settings, its name.
        private = ("etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf")
        command = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(_PACKAGES)}"]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--aptopt={settings}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NEVER_NEEDED]
        command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        command += [f'--customize-hook=rm -f "$1/{path}"' for path in private]
        command += ['--customize-hook=touch "$1/etc/pip.conf"']
        _say(f"no registry answers: making {OWN_BASE} from Debian packages (about a minute)")
        _run([*command, _SUITE, str(context / "tree.tar"), *_apt_sources()], "mmdebstrap", quiet=True)
        settings.unlink()
        engine.build(context, containerfile, OWN_BASE, BuildOptions({}, {LABEL_INPUTS: _own_base_hash()}))
    finally:
        shutil.rmtree(context, ignore_errors=True)


def _own_base_hash() -> str:
    text = (ROOT / "tests/images/base/Containerfile").read_text()
    return hashlib.sha256(repr((_SUITE, _PACKAGES, _NEVER_NEEDED, text)).encode()).hexdigest()[:32]


def _base(engine: Engine, given: str | None) -> str:
    """The base image's reference, which is there when this returns. Raises ImageError."""
    wanted = given or PUBLIC_BASE
    if engine.identity(wanted) is not None:
        return wanted
    if given is None and engine.inputs(OWN_BASE) == _own_base_hash():
        return OWN_BASE
    try:
        engine.pull(wanted)
    except ImageError:
        if given is not None:
            raise
        _make_own_base(engine)
        return OWN_BASE
    return wanted


def _check_disk(engine: Engine, images: Sequence[Image]) -> None:
    needed = sum(image.build_bytes for image in images)
    place = engine.storage()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        names = ", ".join(image.name for image in images)
        raise ImageError(
            f"building {names} needs {needed / _GIB:.0f} GiB of disk, {place} has {free / _GIB:.1f} GiB free: "
            "make room, or set AZAION_CACHE to a directory on a larger disk"
        )


@dataclass(frozen=True)
class Request:
    """What to build, and how it is named."""

    names: tuple[str, ...] = ()
    tag: str | None = None
    base_image: str | None = None

    def images(self) -> list[Image]:
        """Those asked for. Raises ImageError when one is unknown."""
        known = {image.name: image for image in IMAGES}
        if unknown := [name for name in self.names if name not in known]:
            raise ImageError(f"there is no image {', '.join(unknown)}; there are {', '.join(known)}")
        return [known[name] for name in self.names] if self.names else list(IMAGES)

    def reference(self, image: Image) -> str:
        return reference(image, self.tag or version())


def build(engine: Engine, request: Request) -> list[str]:
    """Build what is not current; returns the references that were built. Raises ImageError."""
    with _locked():
        wanted = request.images()
        if not request.names and binaries.built() is None:
            wanted = [image for image in wanted if image.name != "kube-state-metrics"]
            _say("kube-state-metrics is left out: only the test cluster needs it (tests/cluster/cluster.py build)")
        sources = [(image, _sources(image)) for image in wanted]
        base = _base(engine, request.base_image) if any(image.python for image in wanted) else ""
        base_identity = (engine.identity(base) or "") if base else ""
        plans = []
        for image, files in sources:
            inputs = _hash(files, base_identity if image.python else "")
            ref = request.reference(image)
            if engine.inputs(ref) != inputs:
                plans.append((image, ref, files, inputs))
        _check_disk(engine, [plan[0] for plan in plans])
        for image, ref, files, inputs in plans:
            started_s = time.monotonic()
            _say(f"building {ref} with {engine.name}")
            arguments = {"BASE_IMAGE": base} if image.python else {}
            previous = engine.identity(ref)
            with _context(files) as context:
                engine.build(context, image.containerfile, ref, BuildOptions(arguments, {LABEL_INPUTS: inputs}))
            if previous is not None and previous != engine.identity(ref):
                engine.forget(previous)
            _say(f"{ref}: {engine.size_bytes(ref) / 1e6:.0f} MB in {time.monotonic() - started_s:.0f} s")
        return [plan[1] for plan in plans]


@contextmanager
def _locked() -> Iterator[None]:
    """One build at a time on this cache."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "images.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build of images to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Archives


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
        return _digest(self.manifest)

    def chain_ids(self) -> dict[str, str]:
        """The snapshot each layer ends up in, by the layer's digest: the OCI image specification's ChainID."""
        found: dict[str, str] = {}
        chain = ""
        for layer in self.layers:
            chain = _digest(f"{chain} {layer.digest}".encode()) if chain else layer.digest
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


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _add(out: IO[bytes], name: str, size_bytes: int, stream: IO[bytes]) -> None:
    """One member of a tar archive, in large pieces: tarfile's own writer copies every byte several times.

    Raises ImageError when the stream holds more or less than it should.
    """
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    out.write(member.tobuf(tarfile.GNU_FORMAT))
    copied_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
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
        _add(out, f"blobs/sha256/{_digest(content)[7:]}", len(content), BytesIO(content))
    for layer, stream in layers:
        _add(out, f"blobs/sha256/{layer.digest[7:]}", layer.size_bytes, stream)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def layers_of_docker_archive(wanted: Sequence[OciLayer], archive: IO[bytes]) -> Iterator[tuple[OciLayer, IO[bytes]]]:
    """These layers out of what `docker save` writes. Raises ImageError when one is not in it."""
    missing = {layer.digest: layer for layer in wanted}
    with tarfile.open(fileobj=archive, mode="r|", bufsize=_CHUNK_BYTES) as members:
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


@contextmanager
def _output_of(command: Sequence[str], what: str) -> Iterator[IO[bytes]]:
    """The command's standard output. Raises ImageError when it fails, BrokenPipeError aside."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stream = process.stdout
        if stream is None:
            raise ImageError(f"{what}: no output")
        yield stream
        while stream.read(_CHUNK_BYTES):
            pass
        errors = (process.stderr.read() if process.stderr else b"").decode(errors="replace")
        if process.wait() != 0:
            raise ImageError(f"{what} failed: {errors.strip()[-1000:]}")


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
    """The node of a test cluster."""

    def __init__(self, name: str) -> None:
        self.name = f"cluster {name}"
        self._cluster = Cluster(name)

    def ctr(self, arguments: Sequence[str]) -> str | None:
        result = self._cluster.run(["ctr", *arguments], capture_output=True, text=True)
        return str(result.stdout) if result.returncode == 0 else None

    def take(self, stream: IO[bytes]) -> None:
        try:
            self._cluster.import_image(stream)
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
            target = self._cluster.layout.data / "containerd" / place[1]
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
        _feed(["k3s", "ctr", "--namespace", "k8s.io", "images", "import", "--label", _PIN_LABEL, "-"], stream)

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
            if not request.names and image.name == "kube-state-metrics":
                continue
            raise ImageError(f"{ref} is not built: run `tests/cluster/images.py build {image.name}`")
        started_s = time.monotonic()
        known = engine.manifest(ref) if isinstance(engine, Buildah) else None
        if known is not None and _has(node, known):
            _say(f"{ref} is in {node.name} already")
            continue
        sent_bytes = _stream(engine, node, ref, known)
        loaded.append(ref)
        _say(f"{ref} is in {node.name}: {sent_bytes / 1e6:.0f} MB in {time.monotonic() - started_s:.0f} s")
    return loaded


def _has(node: Node, image: OciImage) -> bool:
    listed = node.ctr(["images", "list", f"name=={image.ref}"]) or ""
    return any(line.split()[0] == image.ref and image.digest in line.split() for line in listed.splitlines() if line)


def _snapshots(node: Node) -> frozenset[str]:
    """Names of the unpacked layers on the node."""
    return frozenset((node.ctr(["snapshots", "list"]) or "").split())


def _stream(engine: Engine, node: Node, ref: str, known: OciImage | None) -> int:
    """Send the image; returns the bytes sent. Layers whose snapshot the node has are left out."""
    counter = _Counter()
    write: Callable[[IO[bytes]], None] = partial(_write_all, engine, ref)
    if known is not None and isinstance(engine, Buildah):
        node.link(known, engine.layer_directories())
        snapshots = _snapshots(node)
        write = partial(_write_missing, engine, known, [known.chain_ids()[x.digest] in snapshots for x in known.layers])
    with _pipe(write, counter) as stream:
        node.take(stream)
    return counter.sent_bytes


def _write_all(engine: Engine, ref: str, out: IO[bytes]) -> None:
    with _output_of(engine.archive_command(ref), f"packing {ref}") as packed:
        shutil.copyfileobj(packed, out, _CHUNK_BYTES)


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
        with _output_of(engine.archive_command(image.ref), f"packing {image.ref}") as packed:
            write_oci(image, layers_of_docker_archive(wanted, packed), out)


class _Counter:
    """Counts what passes through a pipe."""

    def __init__(self) -> None:
        self.sent_bytes = 0


class _Counting(BytesIO):
    """Writes on to a stream and counts."""

    def __init__(self, out: IO[bytes], counter: _Counter) -> None:
        super().__init__()
        self._out = out
        self._counter = counter

    def write(self, content: Any) -> int:
        self._counter.sent_bytes += len(content)
        return self._out.write(content)


@contextmanager
def _pipe(write: Callable[[IO[bytes]], None], counter: _Counter) -> Iterator[IO[bytes]]:
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


def save(engine: Engine, directory: Path, request: Request) -> list[Path]:
    """One archive per image; returns their paths. Raises ImageError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for image in request.images():
        ref = request.reference(image)
        if engine.identity(ref) is None:
            raise ImageError(f"{ref} is not built: run `tests/cluster/images.py build {image.name}`")
        needed, free = engine.size_bytes(ref), shutil.disk_usage(directory).free
        if free < needed + _GIB:
            raise ImageError(f"{ref} needs {needed / _GIB:.1f} GiB, {directory} has {free / _GIB:.1f} GiB free")
        path = directory / f"{image.name}-{request.tag or version()}.tar"
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as out, _output_of(engine.archive_command(ref), f"packing {ref}") as packed:
                shutil.copyfileobj(packed, out, _CHUNK_BYTES)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        written.append(path)
    return written


# Commands


def _request(arguments: argparse.Namespace) -> Request:
    return Request(tuple(arguments.names), arguments.tag, getattr(arguments, "base_image", None))


def _build(arguments: argparse.Namespace) -> None:
    if not build(engine_named(arguments.engine), _request(arguments)):
        _say("all images are current")


def _load(arguments: argparse.Namespace) -> None:
    node: Node
    if arguments.k3s:
        node = K3sNode()
    elif arguments.kind:
        node = KindNode(arguments.kind)
    else:
        node = TestClusterNode(arguments.name)
    load(engine_named(arguments.engine), node, _request(arguments))


def _save(arguments: argparse.Namespace) -> None:
    for path in save(engine_named(arguments.engine), arguments.directory, _request(arguments)):
        print(path)


def _list(arguments: argparse.Namespace) -> None:
    engine, request = engine_named(arguments.engine), _request(arguments)
    base = next((ref for ref in (request.base_image or PUBLIC_BASE, OWN_BASE) if engine.identity(ref)), None)
    for image in request.images():
        ref = request.reference(image)
        have = engine.inputs(ref)
        if have is None:
            state = "not built"
        else:
            base_identity = (engine.identity(base) or "") if image.python and base else ""
            state = "current" if have == _hash(_sources(image), base_identity) else "older than its sources"
            state = f"{engine.size_bytes(ref) / 1e6:5.0f} MB  {state}"
        print(f"{ref:45} {state}")


def _clean(arguments: argparse.Namespace) -> None:
    engine = engine_named(arguments.engine)
    refs = [ref for ref in [*(reference(image, version()) for image in IMAGES), OWN_BASE] if engine.identity(ref)]
    if refs or isinstance(engine, Buildah):
        engine.remove(refs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="images.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--engine", choices=("buildah", "docker", "podman", "nerdctl"), help="the first that works")
    common.add_argument("--tag", help="tag of the images (the chart's appVersion)")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("names", nargs="*", metavar="NAME", help=", ".join(image.name for image in IMAGES) + "; all")

    command = commands.add_parser("build", parents=[common, named], help="build what is not current")
    command.add_argument("--base-image", help=f"Debian 12 with Python 3.11 ({PUBLIC_BASE}, or one made from packages)")
    command.set_defaults(act=_build)

    command = commands.add_parser("load", parents=[common, named], help="bring images to a node, pinned")
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("--name", help="the test cluster of this name")
    target.add_argument("--k3s", action="store_true", help="this machine's k3s; needs root")
    target.add_argument("--kind", metavar="NAME", help="the kind cluster of this name")
    command.set_defaults(act=_load)

    command = commands.add_parser("save", parents=[common], help="write one archive per image")
    command.add_argument("directory", type=Path)
    command.add_argument("names", nargs="*", metavar="NAME")
    command.set_defaults(act=_save)

    command = commands.add_parser("list", parents=[common, named], help="what is built, and whether it is current")
    command.set_defaults(act=_list)

    command = commands.add_parser("clean", parents=[common], help="remove what `build` made")
    command.set_defaults(act=_clean)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 1 and a sentence on standard error when it cannot be done."""
    arguments = _parser().parse_args(argv)
    if not hasattr(arguments, "names"):
        arguments.names = []
    try:
        arguments.act(arguments)
    except (ImageError, ClusterError) as error:
        print(f"images.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
