"""Which images there are, what each is made of, and the directory a build sees."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testcluster import binaries, monitoring
from testcluster.layout import cache_directory

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "docker.io/azaion"
#: Labels of an image: the hash of all it is made of, and of what its largest layers are made of.
LABEL_INPUTS = "com.azaion.inputs"
LABEL_DEPENDENCIES = "com.azaion.dependencies"

GIB = 1024**3
CHUNK_BYTES = 1 << 20
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
    #: Disk a build takes at its peak when dependencies are installed; measured.
    build_bytes: int
    #: Starts from Debian with Python 3.11.
    python: bool = True
    #: One of Debian's monitoring programs that the build finds in its context.
    program: str | None = None

    @property
    def stand_in(self) -> bool:
        """Of a published image that the test cluster cannot pull; nobody else needs it."""
        return self.containerfile.startswith("tests/images/")


IMAGES = (
    Image("operator", "operator/Containerfile", ("crds", "operator"), 1 * GIB),
    Image("consumer", "consumer-image/Containerfile", ("crds", "consumer-image"), 1 * GIB),
    Image("trainer", "trainer-image/Containerfile", ("crds", "trainer-image"), 16 * GIB),
    Image("broker", "tests/broker/Containerfile", ("tests/broker",), 2 * GIB),
    Image("kube-state-metrics", "tests/images/kube-state-metrics/Containerfile", (), 1 * GIB, python=False),
    Image(
        "prometheus",
        "tests/images/prometheus/Containerfile",
        ("tests/images/prometheus",),
        GIB // 4,
        program="prometheus",
    ),
    Image("alertmanager", "tests/images/alertmanager/Containerfile", (), GIB // 4, program="alertmanager"),
    Image("node-exporter", "tests/images/node-exporter/Containerfile", (), GIB // 4, program="node_exporter"),
)


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


@dataclass(frozen=True)
class ContextFile:
    """A file of a build context: where it is, where it goes."""

    source: Path
    target: str

    @property
    def executable(self) -> bool:
        return bool(self.source.stat().st_mode & 0o100)


def sources(image: Image) -> list[ContextFile]:
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
    if image.program is not None:
        try:
            found[image.program] = monitoring.program(image.program)
            found.update({path.name: path for path in monitoring.data(image.program)})
        except monitoring.ProgramError as error:
            raise ImageError(f"{image.name}: {error}") from error
    return [ContextFile(source, target) for target, source in sorted(found.items())]


def inputs_hash(files: Sequence[ContextFile], base: str) -> str:
    """Thirty-two hexadecimal digits over what the image is made of."""
    digest = hashlib.sha256(f"1\0{base}\0".encode())
    for file in files:
        digest.update(f"{file.target}\0{file.executable}\0{file.source.stat().st_size}\0".encode())
        with file.source.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:32]


def dependencies_hash(files: Sequence[ContextFile], base: str) -> str:
    """As `inputs_hash`, over what decides the layers of dependencies: a change of our own code costs little disk."""
    return inputs_hash([f for f in files if Path(f.target).name in ("Containerfile", "requirements.txt")], base)


@contextmanager
def build_context(files: Sequence[ContextFile]) -> Iterator[Path]:
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
