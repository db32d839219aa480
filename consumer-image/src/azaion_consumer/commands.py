"""`azaion-consumer verify` and `replay`: for people, in the consumer's pod or wherever its volume is mounted."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from azaion_api.annotation_ingest import IngestStorage
from azaion_api.layout import MOUNT_PATH, Layout
from azaion_consumer.replay import ReplayResult, ReplayState, read_result, request_replay
from azaion_consumer.settings import task_of_the_pod
from azaion_consumer.tree import Tree
from azaion_consumer.verify import table, verify

EXIT_OK = 0
#: verify: something is wrong with the tree; replay: something could not be put right.
EXIT_FOUND = 1
#: The command could not do its work.
EXIT_FAILED = 2

_LISTED = 20
_POLL_S = 0.5


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe both commands to argparse."""
    names = IngestStorage()
    checking = commands.add_parser(
        "verify",
        help="look for images without labels, labels without images and images in two directories",
        description="Exit code 0: all is well, 1: something was found, 2: the directories cannot be read.",
    )
    checking.add_argument("--all", action="store_true", help=f"name all findings, not {_LISTED} of each kind")
    replaying = commands.add_parser(
        "replay",
        help="read the stream again and put right the files that are not as it says",
        description="The consumer does it, between two batches; ask it from anywhere its volume is mounted. "
        "Exit code 0: done, 1: done but for some files that lie in two directories, 2: not done.",
    )
    replaying.add_argument(
        "--from", dest="from_offset", type=_offset, required=True, metavar="OFFSET", help="where to begin"
    )
    replaying.add_argument("--dry-run", action="store_true", help="only say what would be put right")
    replaying.add_argument("--no-wait", action="store_true", help="leave the request and do not wait for the result")
    replaying.add_argument(
        "--timeout", type=float, default=24 * 3600.0, metavar="SECONDS", help="wait no longer (a day)"
    )
    replaying.add_argument("--ingest", help="name of the AnnotationIngest (default: the pod's)")
    for command in (checking, replaying):
        command.add_argument("--root", type=Path, default=Path(MOUNT_PATH), help="storage root (default: %(default)s)")
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for name in ("data", "data_seed", "data_deleted"):
        checking.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="NAME",
            help=f"directory (default: the pod's, or {getattr(names, name)})",
        )


def run_verify(given: argparse.Namespace) -> int:
    """Raises SettingsError."""
    task = task_of_the_pod()
    names = task.spec.storage if task is not None else IngestStorage()
    chosen = {name: getattr(given, name) for name in ("data", "data_seed", "data_deleted") if getattr(given, name)}
    tree = Tree(given.root, msgspec.structs.replace(names, **chosen))
    try:
        found = verify(tree)
    except OSError as error:
        return _fail(f"the directories cannot be read: {error}")
    if given.json:
        document = msgspec.to_builtins(found) | {"counts": found.counts}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        print(table(found, None if given.all else _LISTED))
    return EXIT_FOUND if found.findings else EXIT_OK


def run_replay(given: argparse.Namespace, clock: Callable[[], float] = time.monotonic) -> int:
    """Raises SettingsError."""
    task = task_of_the_pod()
    ingest = given.ingest or (task.ingest if task is not None else None)
    if ingest is None:
        return _fail("say which AnnotationIngest is meant: --ingest NAME")
    state = Layout(given.root).ingest_state(ingest)
    if not state.is_dir():
        return _fail(f"{state} does not exist: no AnnotationIngest {ingest} has filed below {given.root}")
    try:
        request = request_replay(state, given.from_offset, dry_run=given.dry_run)
        if given.no_wait:
            _say(given, "asked; the consumer takes it up within a second or two, or when it starts")
            return EXIT_OK
        deadline_s = clock() + given.timeout
        told = ""
        while (result := read_result(state, request.id)) is None or result.state is not ReplayState.DONE:
            now = result.message if result is not None else "waits for the consumer"
            if now != told:
                told = now
                _say(given, now)
            if clock() > deadline_s:
                return _fail(f"not done within {given.timeout:.0f} s ({now}); the request stays")
            time.sleep(_POLL_S)
    except OSError as error:
        return _fail(f"{state} cannot be used: {error}")
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        print(_words(result))
    return EXIT_FOUND if result.repaired.get("Unresolved") else EXIT_OK


def _words(result: ReplayResult) -> str:
    lines = [f"offsets {result.first_offset} to {result.last_offset}, {result.messages} messages: {result.message}"]
    for kind, count in result.repaired.items():
        names = result.names.get(kind, [])
        more = ", ..." if len(names) < count else ""
        lines.append(f"  {kind:<15}{count:>9}  {', '.join(names)}{more}")
    return "\n".join(lines)


def _say(given: argparse.Namespace, text: str) -> None:
    """Progress, out of the way of what is printed for programs."""
    if not given.json:
        print(text, file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"azaion-consumer: {text}", file=sys.stderr)
    return EXIT_FAILED


def _offset(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no offset; offsets are whole numbers from 0")
    return int(text)
