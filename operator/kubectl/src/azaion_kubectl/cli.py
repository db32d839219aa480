"""`kubectl azaion`: reads and patches the resources with the user's own rights; `adopt` alone works on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from azaion_api.names import JobStage
from azaion_kubectl import adopt, completion, health, lines, logs, page, runs, watch
from azaion_kubectl.access import Kubectl
from azaion_kubectl.errors import CommandError
from azaion_kubectl.screen import Screen

#: Where the chart is installed when nothing else is said.
NAMESPACE = "azaion"
_INTERRUPTED = 130
_FAILED = 1

Command = Callable[[Kubectl, Screen, argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-n", "--namespace", default=argparse.SUPPRESS, help="default: the context's, else azaion")
    common.add_argument("--context", default=argparse.SUPPRESS, help="context of the kubeconfig")
    common.add_argument("--kubeconfig", default=argparse.SUPPRESS, help="kubeconfig file")
    parser = argparse.ArgumentParser(
        prog="kubectl azaion",
        description="Follow, steer and check Azaion Training.",
        parents=[common],
        epilog="Everything is done with your own rights, by kubectl.",
    )
    parser.add_argument("--version", action="version", version=f"kubectl-azaion {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, run: Command, *, json: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[common])
        made.set_defaults(run_command=run)
        if json:
            made.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json for programs")
        return made

    made = add("watch", "progress, losses and mAP of a run until it ends", _watch, json=True)
    made.add_argument("run", metavar="RUN")

    made = add("logs", "what all pods of a run wrote, attempt after attempt", _logs, json=True)
    made.add_argument("run", metavar="RUN")
    made.add_argument("-f", "--follow", action="store_true", help="until the run ends, over restarts")
    made.add_argument("--stage", choices=[stage.value for stage in JobStage], help="of one stage only")
    made.add_argument("--tail", type=_count, metavar="LINES", help="the last lines of each pod")

    add("queue", "who is at the GPU, who waits, and for what", _queue, json=True)

    made = add("describe", "everything about a run, its attempts as a table", _describe, json=True)
    made.add_argument("run", metavar="RUN")

    for name, text in (("suspend", "save a checkpoint and free the GPU"), ("resume", "go on with a suspended run")):
        made = add(name, text, _suspend)
        made.add_argument("run", metavar="RUN")

    made = add("retry", "a new run that goes on from a finished run's checkpoint", _retry)
    made.add_argument("run", metavar="RUN")
    made.add_argument("--name", help="of the new run; default: RUN-r2, RUN-r3, ...")
    made.add_argument("--epochs", type=_count, help="epochs in all, for one that succeeded")
    made.add_argument("--from-scratch", action="store_true", help="with a new data set and no checkpoint")
    made.add_argument("--dry-run", action="store_true", help="print the new run, make nothing")

    made = add("approve", "publish a model that waits for a person", _approve)
    made.add_argument("run", metavar="RUN")

    made = add("models", "the models of a line, the newest first", _models, json=True)
    made.add_argument("line", metavar="LINE", nargs="?", default="azaion")

    made = add("rollback", "go back to an earlier model of a line and hold there", _rollback)
    made.add_argument("line", metavar="LINE")
    made.add_argument("model", metavar="MODEL", nargs="?", help="default: the one before the current")
    made.add_argument("--release", action="store_true", help="end it: the next better model becomes current")

    made = add("cp", "copy a model out of the cluster and verify it", _copy)
    made.add_argument("source", metavar="SOURCE", help="LINE, LINE/MODEL or run/RUN")
    made.add_argument("destination", metavar="FILE", nargs="?", help="file or directory; - for standard output")
    made.add_argument("--format", choices=tuple(lines.SUFFIXES), default="pytorch", help="default: pytorch, the .pt")

    text = "check the whole platform; ends with 0, 1 (warning), 2 (critical) or 3 (unknown)"
    made = add("health", text, _health, json=True)
    made.add_argument("--last", action="store_true", help="show the last result of the chart's own check")

    made = add("preflight", "check what has to be there before a run", _preflight, json=True)
    made.add_argument("-f", "--file", metavar="FILE", help="the TrainingRun; default: one with the founding values")

    made = add("page", "open the status page in the browser", _page)
    made.add_argument("--port", type=int, default=0, help="local port; default: a free one")
    made.add_argument("--no-browser", action="store_true", help="only say where it is")

    made = add("adopt", "make the tree of a Docker Compose installation the platform's, or give it back", _adopt)
    made.add_argument("directory", metavar="DIR", type=Path, help="the directory that Compose mounts as /azaion")
    made.add_argument(
        "--compose",
        metavar="DIR",
        type=Path,
        default=Path(adopt.COMPOSE_DIRECTORY),
        help=f"where .env, config.yaml and offset.yaml are; default: {adopt.COMPOSE_DIRECTORY}",
    )
    made.add_argument("--broker", metavar="HOST", help="the broker as the node reaches it; default: RABBITMQ_HOST")
    made.add_argument("--node", help="name of this machine in the cluster; default: its host name")
    made.add_argument(
        "--to", metavar="DIR", type=Path, default=Path(adopt.OUTPUT), help=f"for the files; default: {adopt.OUTPUT}"
    )
    made.add_argument("--dry-run", action="store_true", help="show what would change, change nothing")
    made.add_argument("--undo", action="store_true", help="the way back: everything as it was")

    made = add("completion", "print the completion script of a shell", _completion)
    made.add_argument("shell", choices=sorted(completion.SCRIPTS))
    return parser


def _version() -> str:
    return version("kubectl-azaion")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def kubectl_of(options: argparse.Namespace) -> Kubectl:
    """kubectl with the user's choice of cluster and namespace."""
    given = {name: getattr(options, name, None) for name in ("context", "kubeconfig")}
    flags = tuple(f"--{name}={value}" for name, value in given.items() if value)
    namespace = getattr(options, "namespace", None)
    if namespace is None:
        namespace = Kubectl(NAMESPACE, flags).context_namespace() or NAMESPACE
    return Kubectl(namespace, flags)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options; argparse alone refuses an optional word behind an option: `cp run/full --format onnx ./`."""
    parser = build_parser()
    options, rest = parser.parse_known_args(words)
    for name in ("destination", "model"):
        if rest and not rest[0].startswith("-") and getattr(options, name, "") is None:
            setattr(options, name, rest.pop(0))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["__complete", "--"]:
        return completion.complete(words[2:])
    options = parse(words)
    run: Command = options.run_command
    try:
        return run(kubectl_of(options), Screen(), options)
    except CommandError as error:
        print(f"kubectl azaion {options.command}: {error}", file=sys.stderr)
        # A health check that could not be made is not one that found nothing.
        return 3 if options.command in ("health", "preflight") else _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has seen enough.
        sys.stderr.close()
        return 0


def _json(options: argparse.Namespace) -> bool:
    return bool(options.output == "json")


def _watch(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return watch.watch(kubectl, screen, options.run, as_json=_json(options))


def _logs(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return logs.logs(
        kubectl,
        screen,
        options.run,
        stage=options.stage,
        follow=options.follow,
        tail=options.tail,
        as_json=_json(options),
    )


def _queue(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return runs.queue(kubectl, screen, as_json=_json(options))


def _describe(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return runs.describe(kubectl, screen, options.run, as_json=_json(options))


def _suspend(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return runs.suspend(kubectl, screen, options.run, suspended=options.command == "suspend")


def _retry(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return runs.retry(
        kubectl,
        screen,
        options.run,
        new_name=options.name,
        epochs=options.epochs,
        from_scratch=options.from_scratch,
        dry_run=options.dry_run,
    )


def _approve(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return runs.approve(kubectl, screen, options.run)


def _models(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return lines.models(kubectl, screen, options.line, as_json=_json(options))


def _rollback(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return lines.rollback(kubectl, screen, options.line, options.model, release=options.release)


def _copy(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return lines.copy(kubectl, screen, options.source, options.destination, format_=options.format)


def _health(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return health.health(kubectl, screen, last=options.last, as_json=_json(options))


def _preflight(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return health.preflight(kubectl, screen, file=options.file, as_json=_json(options))


def _page(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    return page.page(kubectl, screen, port=options.port, browser=not options.no_browser)


def _adopt(kubectl: Kubectl, screen: Screen, options: argparse.Namespace) -> int:
    if options.undo:
        return adopt.undo(screen, options.directory, dry_run=options.dry_run)
    request = adopt.Request(
        directory=options.directory,
        compose=options.compose,
        output=options.to,
        namespace=kubectl.namespace,
        node=options.node,
        broker=options.broker,
        dry_run=options.dry_run,
    )
    return adopt.adopt(screen, request)


def _completion(_: Kubectl, __: Screen, options: argparse.Namespace) -> int:
    sys.stdout.write(completion.SCRIPTS[options.shell])
    return 0


if __name__ == "__main__":
    sys.exit(main())
