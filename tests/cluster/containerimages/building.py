"""Building what is not current."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from testcluster import binaries
from testcluster.layout import cache_directory

from containerimages.catalogue import (
    GIB,
    LABEL_DEPENDENCIES,
    LABEL_INPUTS,
    REPOSITORY,
    ROOT,
    ContextFile,
    Image,
    ImageError,
    Request,
    build_context,
    dependencies_hash,
    inputs_hash,
    sources,
)
from containerimages.engines import BuildOptions, Engine
from containerimages.machine import SUITE, apt_settings, apt_sources, install, locked, run, say

#: What the images start from where a registry can be reached.
PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
#: Its stand-in, made from Debian packages.
OWN_BASE = f"{REPOSITORY}/base:bookworm"

#: What a build takes that finds its layers of dependencies.
_SMALL_BUILD_BYTES = GIB

_PACKAGES = ("usr-is-merged", "ca-certificates", "python3", "python3-venv")
_NEVER_NEEDED = ("doc", "info", "lintian", "locale", "man")


@dataclass(frozen=True)
class _Plan:
    """One image that is not current."""

    image: Image
    ref: str
    files: Sequence[ContextFile]
    labels: dict[str, str]


def build(engine: Engine, request: Request) -> list[str]:
    """Build what is not current; returns the references that were built. Raises ImageError."""
    with locked():
        wanted = request.images()
        if not request.names and binaries.built() is None:
            left_out = [image.name for image in wanted if image.stand_in]
            wanted = [image for image in wanted if not image.stand_in]
            say(f"{', '.join(left_out)}: only the test cluster needs them (tests/cluster/cluster.py build)")
        files = {image.name: sources(image) for image in wanted}
        base = base_image(engine, request.base_image) if any(image.python for image in wanted) else ""
        plans = []
        for image in wanted:
            ref, base_identity = request.reference(image), (engine.identity(base) or "") if image.python else ""
            labels = {
                LABEL_INPUTS: inputs_hash(files[image.name], base_identity),
                LABEL_DEPENDENCIES: dependencies_hash(files[image.name], base_identity),
            }
            if engine.label(ref, LABEL_INPUTS) != labels[LABEL_INPUTS]:
                plans.append(_Plan(image, ref, files[image.name], labels))
        _check_disk(engine, plans)
        for plan in plans:
            _build_one(engine, plan, {"BASE_IMAGE": base} if plan.image.python else {})
        return [plan.ref for plan in plans]


def _build_one(engine: Engine, plan: _Plan, arguments: dict[str, str]) -> None:
    started_s = time.monotonic()
    say(f"building {plan.ref} with {engine.name}")
    previous = engine.identity(plan.ref)
    with build_context(plan.files) as context:
        engine.build(context, plan.image.containerfile, plan.ref, BuildOptions(arguments, plan.labels))
    if previous is not None and previous != engine.identity(plan.ref):
        engine.forget(previous)
    say(f"{plan.ref}: {engine.size_bytes(plan.ref) / 1e6:.0f} MB in {time.monotonic() - started_s:.0f} s")


def _make_own_base(engine: Engine) -> None:
    """Debian with its own Python, from packages, with the newest security updates."""
    if shutil.which("mmdebstrap") is None:
        install("mmdebstrap")
    context = cache_directory() / f"context-base-{os.getpid()}"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    try:
        containerfile = "tests/images/base/Containerfile"
        (context / containerfile).parent.mkdir(parents=True)
        shutil.copyfile(ROOT / containerfile, context / containerfile)
        settings = context / "apt.conf"
        settings.write_text("".join(f"{line}\n" for line in apt_settings()))
        # What belongs to this machine stays out: its sources, its settings, its name.
        private = ("etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname", "etc/resolv.conf")
        command = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(_PACKAGES)}"]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--aptopt={settings}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NEVER_NEEDED]
        command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        command += [f'--customize-hook=rm -f "$1/{path}"' for path in private]
        command += ['--customize-hook=touch "$1/etc/pip.conf"']
        say(f"no registry answers: making {OWN_BASE} from Debian packages (about a minute)")
        run([*command, SUITE, str(context / "tree.tar"), *apt_sources()], "mmdebstrap", quiet=True)
        settings.unlink()
        engine.build(context, containerfile, OWN_BASE, BuildOptions({}, {LABEL_INPUTS: own_base_hash()}))
    finally:
        shutil.rmtree(context, ignore_errors=True)


def own_base_hash() -> str:
    text = (ROOT / "tests/images/base/Containerfile").read_text()
    return hashlib.sha256(repr((SUITE, _PACKAGES, _NEVER_NEEDED, text)).encode()).hexdigest()[:32]


def base_image(engine: Engine, given: str | None) -> str:
    """The base image's reference, which is there when this returns. Raises ImageError."""
    wanted = given or PUBLIC_BASE
    if engine.identity(wanted) is not None:
        return wanted
    if given is None and engine.label(OWN_BASE, LABEL_INPUTS) == own_base_hash():
        return OWN_BASE
    try:
        engine.pull(wanted)
    except ImageError:
        if given is not None:
            raise
        _make_own_base(engine)
        return OWN_BASE
    return wanted


def _check_disk(engine: Engine, plans: Sequence[_Plan]) -> None:
    needed = 0
    for plan in plans:
        known = engine.label(plan.ref, LABEL_DEPENDENCIES) == plan.labels[LABEL_DEPENDENCIES]
        needed += _SMALL_BUILD_BYTES if known else plan.image.build_bytes
    place = engine.storage()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        names = ", ".join(plan.image.name for plan in plans)
        raise ImageError(
            f"building {names} needs {needed / GIB:.0f} GiB of disk, {place} has {free / GIB:.1f} GiB free: "
            "make room, or set AZAION_CACHE to a directory on a larger disk"
        )
