"""kubectl and helm on one cluster: the test cluster of this repository, or the one the current context leads to."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]

Object = dict[str, Any]
T = TypeVar("T")
_TAIL_LINES = 30


class DemoError(Exception):
    """A step cannot go on; the message says why, `look` holds commands that show more."""

    def __init__(self, message: str, look: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.look = tuple(look)


class CommandError(DemoError):
    """A command failed; the message holds its last output."""


def output_of(arguments: Sequence[str | Path], environment: Mapping[str, str], text: str | None = None) -> bytes:
    """Standard output of a command run at the repository's root. Raises CommandError."""
    command = [str(a) for a in arguments]
    try:
        done = subprocess.run(
            command,
            input=None if text is None else text.encode(),
            env={**os.environ, **environment},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be run: {error.strerror}; is it installed and on the PATH?") from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise CommandError(f"{shlex.join(command[:8])} ended with {done.returncode}: {said[-2000:]}")
    return done.stdout


def stream_output(
    arguments: Sequence[str | Path], environment: Mapping[str, str], each_line: Callable[[str], None]
) -> None:
    """Run a command that takes long and hand over each line it writes. Raises CommandError with the last lines."""
    command = [str(a) for a in arguments]
    last: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                last.append(line.rstrip())
                each_line(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise CommandError(f"{shlex.join(command[:8])} ended with {process.returncode}:\n" + "\n".join(last))


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float, every_s: float = 1.0) -> T:
    """The first thing `look` returns that is neither None nor False.

    Raises DemoError saying `what` was waited for once `timeout_s` seconds have passed. A command that fails on the way
    counts as not yet.
    """
    deadline = time.monotonic() + timeout_s
    last = ""
    while True:
        try:
            if found := look():
                return found
        except CommandError as error:
            last = f"; last error: {error}"
        if time.monotonic() > deadline:
            raise DemoError(f"after {timeout_s:.0f} s still not so: {what}{last}")
        time.sleep(every_s)


@dataclass(frozen=True)
class Access:
    """One cluster and one namespace, as a user handles them."""

    namespace: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self.kubectl_bytes(*arguments, text=text).decode(errors="replace")

    def kubectl_bytes(self, *arguments: str, text: str | None = None) -> bytes:
        return output_of(["kubectl", "-n", self.namespace, *arguments], self.environment, text)

    def helm(self, *arguments: str) -> str:
        return output_of(["helm", "-n", self.namespace, *arguments], self.environment).decode(errors="replace")

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str, name: str) -> Object | None:
        """The object, or None when there is none of that name."""
        said = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    def items(self, kind: str, *arguments: str) -> list[Object]:
        found: list[Object] = json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]
        return found

    def status(self, kind: str, name: str) -> Object:
        found: Object = self.get(kind, name).get("status", {})
        return found

    def on_volume(self, *arguments: str) -> bytes:
        """Standard output of a command in the storage pod."""
        return self.kubectl_bytes("exec", "deploy/azaion-storage", "--", *arguments)

    def watch(self, kind: str, name: str) -> Iterator[Object]:
        """The object now and after each change, until the API server ends the watch."""
        command = ["kubectl", "-n", self.namespace, "get", kind, name, "--watch", "-o", "json"]
        with subprocess.Popen(
            command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                yield from objects_in(process.stdout or ())
            finally:
                process.terminate()

    @contextmanager
    def forward(self, target: str, port: int, timeout_s: float = 20.0) -> Iterator[int]:
        """A local port that leads to a port of `target` (a pod or a Service) while the context is open."""
        command = ["kubectl", "-n", self.namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(
            command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                # "Forwarding from 127.0.0.1:40593 -> 5552"
                line = process.stdout.readline() if process.stdout else ""
                if "Forwarding from" not in line:
                    raise CommandError(f"kubectl port-forward {target} {port}: {line.strip() or 'it said nothing'}")
                local = int(line.split("->")[0].rpartition(":")[2])
                wait_for(f"port {port} of {target} answers", lambda: _answers(local), timeout_s, 0.2)
                yield local
            finally:
                process.send_signal(signal.SIGTERM)


def objects_in(lines: Iterator[str] | Sequence[str] | Any) -> Iterator[Object]:
    """The JSON objects of a stream of pretty-printed ones, one after the other."""
    decoder = json.JSONDecoder()
    waiting = ""
    for line in lines:
        waiting += line
        # kubectl closes each object with a brace at the start of a line.
        if line.startswith("}"):
            found, end = decoder.raw_decode(waiting)
            waiting = waiting[end:].lstrip()
            yield found


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def environment_of(name: str) -> dict[str, str]:
    """KUBECONFIG and PATH of a test cluster that is up. Raises CommandError."""
    said = output_of([sys.executable, "tests/cluster/cluster.py", "env", "--name", name], {}).decode()
    found = {}
    for line in said.splitlines():
        if line.startswith("export "):
            variable, _, value = line.removeprefix("export ").partition("=")
            found[variable] = os.path.expandvars("".join(shlex.split(value)))
    return found
