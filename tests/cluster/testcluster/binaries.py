"""The programs of the test cluster: Debian's by apt, Kubernetes' and containerd's built from their Go modules, once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testcluster import standin
from testcluster.layout import (
    BUSYBOX_IMAGE,
    PAUSE_IMAGE,
    SOURCE,
    ClusterError,
    ProcessIdentity,
    Record,
    cache_directory,
    clusters_directory,
    layout_of,
    locked,
)

_KUBERNETES_VERSION = "v1.37.2"
_CONTAINERD_VERSION = "v2.4.2"
_HELM_VERSION = "v4.3.1"

CNI_DIRECTORY = Path("/usr/lib/cni")
_BUSYBOX = Path("/bin/busybox")

# Debian package -> the file that shows it is there.
_PACKAGES: Mapping[str, Path] = {
    "runc": Path("/usr/sbin/runc"),
    "containernetworking-plugins": CNI_DIRECTORY / "ptp",
    "iproute2": Path("/sbin/ip"),
    "iptables": Path("/usr/sbin/iptables"),
    "nftables": Path("/usr/sbin/nft"),
    "conntrack": Path("/usr/sbin/conntrack"),
    "util-linux": Path("/usr/bin/nsenter"),
    "openssl": Path("/usr/bin/openssl"),
    "busybox-static": _BUSYBOX,
    "buildah": Path("/usr/bin/buildah"),
    "debootstrap": Path("/usr/sbin/debootstrap"),
}

_LINKER_FLAGS = " ".join(
    [
        "-s -w",
        f"-X k8s.io/component-base/version.gitVersion={_KUBERNETES_VERSION}",
        "-X k8s.io/component-base/version.gitMajor=1",
        "-X k8s.io/component-base/version.gitMinor=37",
        f"-X github.com/containerd/containerd/v2/version.Version={_CONTAINERD_VERSION}",
        f"-X helm.sh/helm/v4/internal/version.version={_HELM_VERSION}",
    ]
)
_TAGS = ("-tags", "no_btrfs,no_zfs,no_devmapper")
_FLAGS = ("-trimpath", "-buildvcs=false", *_TAGS, "-ldflags", _LINKER_FLAGS)

# The local-path-provisioner is built apart: it imports logrus by its old, upper-case name, and one invocation of the
# compiler refuses two imports that differ in case only.
_BUILDS: tuple[tuple[str, ...], ...] = (
    (
        "./cmd/azaion-kube",
        "./cmd/coredns",
        "./cmd/kindcheck",
        "./cmd/node-tools",
        "./cmd/pause",
        "github.com/k3s-io/kine",
        "helm.sh/helm/v4/cmd/helm",
        "k8s.io/kube-state-metrics/v2",
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    ("github.com/rancher/local-path-provisioner",),
)

# Names under which the one Kubernetes binary is called.
_KUBE_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")

# Measured: sources 2 GB, the compiler's cache 5 GB, the binaries 0.7 GB twice while one set replaces another.
_COLD_BUILD_BYTES = 10 * 1024**3
_WARM_BUILD_BYTES = 3 * 1024**3


@dataclass(frozen=True)
class Binaries:
    """One built set of programs and stand-in images."""

    directory: Path

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    @property
    def images(self) -> Mapping[str, Path]:
        """Archive of each stand-in image by its reference."""
        return {
            PAUSE_IMAGE: self.directory / "images" / "pause.tar",
            BUSYBOX_IMAGE: self.directory / "images" / "busybox.tar",
        }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def content_hash() -> str:
    """Sixteen hexadecimal digits over everything the built programs depend on."""
    digest = hashlib.sha256(repr((_FLAGS, _BUILDS, _KUBE_NAMES)).encode())
    sources = [SOURCE / "go.mod", SOURCE / "go.sum", Path(standin.__file__)]
    sources += sorted(path for path in (SOURCE / "cmd").rglob("*") if path.suffix in (".go", ".s"))
    for path in sources:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def built() -> Binaries | None:
    """The programs built from the sources as they are, or None when they must be built first."""
    binaries = Binaries(cache_directory() / f"cluster-{content_hash()}")
    return binaries if binaries.bin.is_dir() else None


def install_packages() -> None:
    """Install what Debian packages provide and is not there yet. Raises ClusterError."""
    missing = [package for package, proof in _PACKAGES.items() if not proof.exists()]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"the test cluster needs {', '.join(str(_PACKAGES[package]) for package in missing)}; this system has no "
            f"apt-get, so install the programs of the Debian packages {', '.join(missing)} there by hand"
        )
    if os.geteuid() != 0:
        raise ClusterError(f"installing {', '.join(missing)} needs root: run this again as root")
    _say(f"installing {', '.join(missing)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing],
    ):
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"{' '.join(command)} failed:\n{(result.stderr or result.stdout).strip()[-2000:]}")


def _go_environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}


def _go_value(name: str) -> str:
    return subprocess.run(
        ["go", "env", name], cwd=SOURCE, env=_go_environment(), capture_output=True, text=True, check=True
    ).stdout.strip()


def _check_go() -> None:
    wanted = re.search(r"^go (\d+)\.(\d+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    if wanted is None:
        raise ClusterError(f"{SOURCE / 'go.mod'} has no `go` line")
    needed = (int(wanted[1]), int(wanted[2]))
    if shutil.which("go") is None:
        raise ClusterError(f"building the test cluster needs Go {needed[0]}.{needed[1]} or newer on the PATH")
    have = re.match(r"go(\d+)\.(\d+)", _go_value("GOVERSION"))
    if have is not None and (int(have[1]), int(have[2])) < needed:
        raise ClusterError(f"building the test cluster needs Go {needed[0]}.{needed[1]}, `go version` says {have[0]}")


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _check_disk() -> None:
    modules, compiled = Path(_go_value("GOMODCACHE")), Path(_go_value("GOCACHE"))
    cold = not (modules / "k8s.io" / f"kubernetes@{_KUBERNETES_VERSION}").is_dir() or not compiled.is_dir()
    needed = _COLD_BUILD_BYTES if cold else _WARM_BUILD_BYTES
    for path in (modules, compiled, cache_directory()):
        free = _free_bytes(path)
        if free < needed:
            raise ClusterError(
                f"building the test cluster needs {needed / 1024**3:.0f} GiB of disk, {path} has "
                f"{free / 1024**3:.1f} GiB free: make room, or set GOMODCACHE, GOCACHE and AZAION_CACHE elsewhere"
            )


class _Progress:
    """One line on a terminal, rewritten as packages are compiled; a line every half minute elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = time.monotonic()
        self._last_s = 0.0
        self._interactive = sys.stderr.isatty()

    def show(self, done: int, package: str, *, last: bool = False) -> None:
        elapsed_s = time.monotonic() - self._started
        if not last and elapsed_s - self._last_s < (0.2 if self._interactive else 30):
            return
        self._last_s = elapsed_s
        text = f"  {elapsed_s:4.0f} s  {done} of at most {self._total} packages  {package[:60]:60}"
        print(
            f"\r{text}" if self._interactive else text,
            end="" if self._interactive and not last else "\n",
            file=sys.stderr,
            flush=True,
        )


def _compile(destination: Path) -> None:
    _say("reading the sources (downloads them the first time)")
    needed: set[str] = set()
    for group in _BUILDS:
        listed = subprocess.run(
            ["go", "list", "-deps", *_TAGS, *group],
            cwd=SOURCE,
            env=_go_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode != 0:
            raise ClusterError(f"the sources of the test cluster cannot be had:\n{listed.stderr.strip()[-3000:]}")
        needed.update(listed.stdout.split())
    _say("building Kubernetes, containerd, kine, CoreDNS, helm and kube-state-metrics")
    progress = _Progress(total=len(needed))
    done = 0
    for group in _BUILDS:
        errors: list[str] = []
        with subprocess.Popen(
            ["go", "build", "-v", *_FLAGS, "-o", f"{destination}/", *group],
            cwd=SOURCE,
            env=_go_environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            for line in process.stderr or ():
                if re.fullmatch(r"[\w./~-]+", line.strip()):
                    done += 1
                    progress.show(done, line.strip())
                else:
                    errors.append(line)
        if process.returncode != 0:
            raise ClusterError(f"go build failed in {SOURCE}:\n{''.join(errors)[-3000:]}")
    progress.show(done, "built", last=True)


def _make_images(directory: Path, pause: Path) -> None:
    directory.mkdir()
    standin.write_oci_archive(
        standin.StandIn(reference=PAUSE_IMAGE, entrypoint=("/pause",), files={"pause": pause}), directory / "pause.tar"
    )
    applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    standin.write_oci_archive(
        standin.StandIn(
            reference=BUSYBOX_IMAGE,
            entrypoint=(),
            command=("/bin/sh",),
            files={"bin/busybox": _BUSYBOX},
            texts={
                "etc/passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
                "etc/group": "root:x:0:\nnobody:x:65534:\n",
            },
            links={f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"},
            directories={"bin": 0o755, "etc": 0o755, "tmp": 0o1777},
        ),
        directory / "busybox.tar",
    )


def _in_use() -> set[Path]:
    """Directories of binaries that a running cluster still starts programs from."""
    used = set()
    for path in clusters_directory().glob("*/cluster.json"):
        record = Record.read(path)
        process = ProcessIdentity.read(layout_of(path.parent.name).process)
        if record is not None and process is not None and process.alive:
            used.add(Path(record.binaries))
    return used


def build() -> Binaries:
    """The programs of the test cluster, built now unless they are there; minutes when cold, nothing when warm.

    Raises ClusterError when a package, Go, disk space or a source is missing.
    """
    install_packages()
    if (binaries := built()) is not None:
        return binaries
    _check_go()
    cache = cache_directory()
    with locked(cache):
        if (binaries := built()) is not None:
            return binaries
        _check_disk()
        final = Binaries(cache / f"cluster-{content_hash()}")
        for leftover in cache.glob(".building-*"):
            shutil.rmtree(leftover)
        temporary = Binaries(cache / f".building-{os.getpid()}")
        temporary.bin.mkdir(parents=True)
        _compile(temporary.bin)
        for name in _KUBE_NAMES:
            (temporary.bin / name).symlink_to("azaion-kube")
        _make_images(temporary.directory / "images", temporary.bin / "pause")
        temporary.directory.rename(final.directory)
        keep = _in_use() | {final.directory}
        for old in cache.glob("cluster-*"):
            if old not in keep:
                shutil.rmtree(old)
    return final
