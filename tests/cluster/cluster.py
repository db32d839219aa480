#!/usr/bin/env python3
"""A real Kubernetes of one node or several for tests and the demo, on any Linux machine with Go, apt and root.

    cluster.py build                          build and install what a node needs; minutes once, then nothing
    cluster.py up                             start a cluster, ready in seconds; --nodes 2 for two nodes
    eval "$(cluster.py env)"                  KUBECONFIG and kubectl, helm on the PATH of this shell
    cluster.py shell                          a shell within the cluster's network, where Services have names
    cluster.py down                           end it and leave nothing behind

Tests use `Cluster`, `is_ours`, `list_clusters` and `UpOptions` from this module.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

if str(Path(__file__).resolve().parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from testcluster import binaries
from testcluster.layout import DEFAULT_NAME, FIRST_NODE, ClusterError, clusters_directory
from testcluster.lifecycle import Cluster, UpOptions, is_ours, list_clusters

__all__ = ["Cluster", "ClusterError", "UpOptions", "is_ours", "list_clusters", "main"]


def _print(text: str) -> None:
    print(text, flush=True)


def _build(_arguments: argparse.Namespace) -> None:
    _print(f"the test cluster's programs are in {binaries.build().bin}")


def _up(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    options = UpOptions(arguments.data, arguments.control_plane_only, arguments.audit, arguments.nodes)
    seconds = cluster.up(options, report=_print)
    _print(f"cluster {cluster.name} is ready after {seconds:.1f} s")
    _print(f"  export KUBECONFIG={cluster.kubeconfig}")


def _down(arguments: argparse.Namespace) -> None:
    existed = Cluster(arguments.name).down(keep_data=arguments.keep_data)
    if not existed:
        _print(f"there is no cluster {arguments.name}")
    elif arguments.keep_data:
        _print(f"cluster {arguments.name} is down; its data stays for the next `up`")
    else:
        _print(f"cluster {arguments.name} is gone")


def _shell(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    os.environ["PS1"] = f"({cluster.layout.context} {arguments.node}) \\w \\$ "
    cluster.execute(["bash", "--norc"], cluster.node(arguments.node))


def _exec(arguments: argparse.Namespace) -> None:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise ClusterError("exec needs a command: cluster.py exec -- kubectl get nodes")
    cluster = Cluster(arguments.name)
    if arguments.detach is not None:
        cluster.detach(arguments.detach, command, cluster.node(arguments.node))
    else:
        cluster.execute(command, cluster.node(arguments.node))


def _env(arguments: argparse.Namespace) -> None:
    for name, value in Cluster(arguments.name).environment().items():
        _print(f"export {name}={shlex.quote(value)}")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    _print(str(Cluster(arguments.name).kubeconfig))


def _list(_arguments: argparse.Namespace) -> None:
    for cluster in list_clusters():
        state = "up" if cluster.running else "down"
        _print(f"{cluster.name:20} {state:5} {cluster.kubeconfig}")


def _logs(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    logs = cluster.layout.on(cluster.node(arguments.node)).logs
    names = {path.stem: path for path in sorted(logs.glob("*")) if path.suffix in (".log", ".jsonl")}
    path = names.get(arguments.component) or names.get(f"kube-{arguments.component}")
    if path is None:
        known = ", ".join(names) or f"nothing; is the cluster up? ({clusters_directory()})"
        raise ClusterError(f"no component {arguments.component!r} has a log; there are {known}")
    command = ["tail", "-n", "+1", *(["-f"] if arguments.follow else []), str(path)]
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _import_image(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    nodes = [cluster.node(arguments.node)] if arguments.node else cluster.nodes
    if arguments.archive == "-":
        if len(nodes) > 1:
            raise ClusterError("standard input can be read once only: give a file, or one node with --node")
        cluster.import_image(sys.stdin.buffer, nodes[0])
        return
    for node in nodes:
        try:
            with Path(arguments.archive).open("rb") as stream:
                cluster.import_image(stream, node)
        except OSError as error:
            raise ClusterError(f"the archive cannot be read: {error}") from error


def _images(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    for reference in cluster.images(cluster.node(arguments.node)):
        _print(reference)


def _stop(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    cluster.stop(arguments.component, cluster.node(arguments.node), kill=arguments.kill)


def _start(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    cluster.start(arguments.component, cluster.node(arguments.node))


def _power_cut(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.name)
    cluster.power_cut(cluster.node(arguments.node))


def _is_ours(arguments: argparse.Namespace) -> None:
    if not is_ours(arguments.kubeconfig, arguments.context):
        raise ClusterError(f"{arguments.kubeconfig} does not lead to a cluster that was made here")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=DEFAULT_NAME, help="the cluster's name (%(default)s)")
    at_node = argparse.ArgumentParser(add_help=False)
    at_node.add_argument("--node", default=FIRST_NODE.name, help="the node it is about (%(default)s)")

    command = commands.add_parser("build", help="install packages, build the programs; cached by their content")
    command.set_defaults(act=_build)

    command = commands.add_parser("up", parents=[named], help="start the cluster and wait until it is ready")
    command.add_argument("--data", type=Path, help="keep objects, images and volumes in this directory")
    command.add_argument(
        "--control-plane-only", action="store_true", help="no node: API server and controllers, for API tests"
    )
    command.add_argument("--audit", action="store_true", help="log every request's metadata to logs/audit.log")
    command.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="how many nodes; more are added to what runs (as many as there are, or 1)",
    )
    command.set_defaults(act=_up)

    command = commands.add_parser("down", parents=[named], help="end the cluster and leave nothing behind")
    command.add_argument("--keep-data", action="store_true", help="the next `up` finds objects and volumes again")
    command.set_defaults(act=_down)

    command = commands.add_parser("shell", parents=[named, at_node], help="a shell with kubectl, helm, ctr in a node")
    command.set_defaults(act=_shell)

    command = commands.add_parser("exec", parents=[named, at_node], help="run a command in a node's network and mounts")
    command.add_argument("--detach", metavar="LOG", help="run until the cluster ends; output goes to logs/LOG.log")
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD...")
    command.set_defaults(act=_exec)

    command = commands.add_parser("env", parents=[named], help="print exports of KUBECONFIG and PATH, for eval")
    command.set_defaults(act=_env)

    command = commands.add_parser("kubeconfig", parents=[named], help="print the kubeconfig's path")
    command.set_defaults(act=_kubeconfig)

    command = commands.add_parser("list", help="list the clusters")
    command.set_defaults(act=_list)

    command = commands.add_parser("logs", parents=[named, at_node], help="print a component's log")
    command.add_argument("component", help="kubelet, apiserver, supervisor, gpu-events, audit, ...")
    command.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    command.set_defaults(act=_logs)

    command = commands.add_parser("import-image", parents=[named], help="import an image archive, pinned")
    command.add_argument("--node", help="into this node alone")
    command.add_argument("archive", help="an OCI or Docker archive, or - for standard input")
    command.set_defaults(act=_import_image)

    command = commands.add_parser("images", parents=[named, at_node], help="list the images on the node")
    command.set_defaults(act=_images)

    command = commands.add_parser("stop", parents=[named, at_node], help="stop a component until `start`")
    command.add_argument("component", help="kubelet, apiserver, containerd, ...")
    command.add_argument("--kill", action="store_true", help="with SIGKILL")
    command.set_defaults(act=_stop)

    command = commands.add_parser("start", parents=[named, at_node], help="start a stopped component")
    command.add_argument("component")
    command.set_defaults(act=_start)

    command = commands.add_parser(
        "power-cut", parents=[named, at_node], help="kill every process at once; data stays; of node-1: of all nodes"
    )
    command.set_defaults(act=_power_cut)

    command = commands.add_parser("is-ours", help="exit 0 when a kubeconfig leads to a cluster made here")
    command.add_argument("kubeconfig")
    command.add_argument("--context", help="instead of the current one")
    command.set_defaults(act=_is_ours)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.act(parsed)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
