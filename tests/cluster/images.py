#!/usr/bin/env python3
"""The project's container images, built by buildah, docker, podman or nerdctl, whichever is there.

    images.py build                           build what is not current; nothing to do takes a second
    images.py load --name CLUSTER             into the nodes of a test cluster, pinned against image collection
    images.py load --k3s | --kind NAME        into your own k3s (as root) or kind
    images.py save DIRECTORY                  one archive per image, for a machine without a registry
    images.py list                            what is built, and whether it is current
    images.py clean                           remove what `build` made

An image is built anew only when its inputs changed: the files it is made of, its Containerfile, its base. A label on
the image holds their hash, so no other record is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from containerimages.building import OWN_BASE, PUBLIC_BASE, build
from containerimages.catalogue import (
    IMAGES,
    LABEL_INPUTS,
    ImageError,
    Request,
    inputs_hash,
    reference,
    sources,
    version,
)
from containerimages.engines import Buildah, Engine, engine_named
from containerimages.machine import say
from containerimages.nodes import K3sNode, KindNode, Node, TestClusterNode, load, save
from testcluster.layout import ClusterError
from testcluster.lifecycle import Cluster


def _request(arguments: argparse.Namespace) -> Request:
    return Request(tuple(arguments.names), arguments.tag, getattr(arguments, "base_image", None))


def _build(arguments: argparse.Namespace) -> None:
    if not build(engine_named(arguments.engine), _request(arguments)):
        say("all images are current")


def _engine_with(name: str | None, request: Request) -> Engine:
    """The engine that has the images asked for."""
    return engine_named(name, holding=request.reference(request.images()[0]))


def _load(arguments: argparse.Namespace) -> None:
    nodes: list[Node]
    if arguments.k3s:
        nodes = [K3sNode()]
    elif arguments.kind:
        nodes = [KindNode(arguments.kind)]
    else:
        cluster = Cluster(arguments.name)
        nodes = [TestClusterNode(cluster, node) for node in cluster.nodes]
    request = _request(arguments)
    for node in nodes:
        load(_engine_with(arguments.engine, request), node, request)


def _save(arguments: argparse.Namespace) -> None:
    request = _request(arguments)
    for path in save(_engine_with(arguments.engine, request), arguments.directory, request):
        print(path)


def _list(arguments: argparse.Namespace) -> None:
    engine, request = engine_named(arguments.engine), _request(arguments)
    base = next((ref for ref in (request.base_image or PUBLIC_BASE, OWN_BASE) if engine.identity(ref)), None)
    for image in request.images():
        ref = request.reference(image)
        have = engine.label(ref, LABEL_INPUTS)
        if have is None:
            state = "not built"
        else:
            base_identity = (engine.identity(base) or "") if image.python and base else ""
            state = "current" if have == inputs_hash(sources(image), base_identity) else "older than its sources"
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
