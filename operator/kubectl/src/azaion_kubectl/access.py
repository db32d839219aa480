"""kubectl does the talking: the user's own kubeconfig, context, plugins and rights, and nothing of ours besides."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from azaion_api.facts import Answer, Unreadable
from azaion_api.names import API_VERSION, GROUP, PLURALS, Kind
from azaion_kubectl.errors import CommandError, ForbiddenError, NotFoundError, UnreachableError

T = TypeVar("T")
Text = TypeVar("Text", str, bytes)
_MISSING = ("(notfound)", "could not find the requested resource", "doesn't have a resource type")
_KLOG = re.compile(r"^[IWEF]\d{4} \d\d:\d\d")
_NO_CLUSTER = ("no configuration has been provided", "current-context is not set", "server localhost:8080 was refused")
_UNREACHABLE = ("unable to connect to the server", "connection to the server", "connection refused", "no route to host")
_TIMEOUT_S = 60.0
_PARALLEL = 6


@dataclass(frozen=True)
class Kubectl:
    """kubectl, with the flags that choose cluster and user."""

    namespace: str
    flags: tuple[str, ...] = ()
    program: str = "kubectl"
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *self.flags, "--namespace", self.namespace, *arguments]

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = _TIMEOUT_S) -> str:
        """Standard output. Raises a CommandError in kubectl's words when it fails."""
        try:
            done = subprocess.run(
                self.command(*arguments),
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                env={**os.environ, **self.environment},
            )
        except FileNotFoundError as error:
            raise CommandError("kubectl is not on the PATH; install it, this command is its plugin") from error
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"the cluster did not answer within {timeout_s:.0f} s; try kubectl get nodes"
            ) from error
        if done.returncode != 0:
            raise failure(done.stderr.strip() or done.stdout.strip() or f"kubectl ended with {done.returncode}")
        return done.stdout

    @contextmanager
    def opened(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A kubectl whose output is read while it runs; it is ended with the context."""
        with _ending(subprocess.Popen(self.command(*arguments), text=True, **self._pipes())) as process:
            yield process

    @contextmanager
    def opened_bytes(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """As `opened`, for output that is no text."""
        with _ending(subprocess.Popen(self.command(*arguments), **self._pipes())) as process:
            yield process

    def _pipes(self) -> dict[str, Any]:
        return {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": {**os.environ, **self.environment},
        }

    def context_namespace(self) -> str:
        """The namespace of the user's context; empty when it names none, or there is no context."""
        try:
            return self.run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
        except CommandError:
            return ""

    # ---- objects ----

    def raw(self, path: str) -> dict[str, Any]:
        """The object or list at a path of the API."""
        found: dict[str, Any] = json.loads(self.run("get", "--raw", path))
        return found

    def get(self, kind: Kind, name: str, type_: type[T]) -> T:
        """One of our resources. Raises NotFoundError with those that are there."""
        return convert(self.get_raw(kind, name), type_)

    def get_raw(self, kind: Kind, name: str) -> dict[str, Any]:
        """One of our resources as it is stored."""
        try:
            text = self.run("get", f"{PLURALS[kind]}.{GROUP}", name, "-o", "json")
        except NotFoundError as error:
            if "doesn't have a resource type" in str(error):
                raise CommandError(not_installed()) from error
            raise NotFoundError(self._absent(kind, name)) from error
        found: dict[str, Any] = json.loads(text)
        return found

    def list(self, kind: Kind, type_: type[T]) -> tuple[T, ...]:
        """All of our resources of a kind; what this version cannot read is passed over."""
        try:
            text = self.run("get", f"{PLURALS[kind]}.{GROUP}", "-o", "json")
        except NotFoundError as error:
            raise CommandError(not_installed()) from error
        found = []
        for item in json.loads(text)["items"]:
            try:
                found.append(msgspec.convert(item, type_))
            except msgspec.ValidationError:
                continue
        return tuple(found)

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any]) -> None:
        """Merge-patch one of our resources. Raises NotFoundError, or a CommandError with what the API server says."""
        try:
            self.run("patch", f"{PLURALS[kind]}.{GROUP}", name, "--type=merge", "-p", json.dumps(patch))
        except NotFoundError as error:
            raise NotFoundError(self._absent(kind, name)) from error

    def create(self, manifest: Mapping[str, Any]) -> str:
        """Make an object; what kubectl says."""
        return self.run("create", "-f", "-", stdin=json.dumps(manifest)).strip()

    def events(self, kind: Kind, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """ADDED, MODIFIED or DELETED with the object, first what is there, until the API server ends the watch."""
        resource = f"{PLURALS[kind]}.{GROUP}"
        with self.opened("get", resource, name, "--watch", "--output-watch-events", "-o", "json") as process:
            for found in objects_in(process.stdout or ()):
                if found.get("type") in ("ADDED", "MODIFIED", "DELETED"):
                    yield found["type"], found["object"]

    def config_map(self, name: str) -> dict[str, str]:
        """Data of a ConfigMap; empty when there is none."""
        text = self.run("get", "configmap", name, "-o", "json", "--ignore-not-found")
        data: dict[str, str] = (json.loads(text).get("data") or {}) if text.strip() else {}
        return data

    def _absent(self, kind: Kind, name: str) -> str:
        there = self.names(kind)
        hint = f"there are: {', '.join(there[:20])}" if there else "there are none"
        return f"there is no {kind} {name} in the namespace {self.namespace}; {hint}"

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Names of our resources of a kind."""
        said = self.run("get", f"{PLURALS[kind]}.{GROUP}", "-o", "name")
        return tuple(line.rpartition("/")[2] for line in said.split())

    # ---- as a source of facts ----

    def read(self, paths: Sequence[str]) -> Mapping[str, Answer]:
        """The answers to all paths, asked for at the same time."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return dict(zip(paths, pool.map(self._answer, paths), strict=True))

    def _answer(self, path: str) -> Answer:
        try:
            return self.raw(path)
        except NotFoundError:
            return None
        except UnreachableError:
            raise
        except CommandError as error:
            return Unreadable(str(error))

    def secret_keys(self, name: str) -> frozenset[str] | Unreadable | None:
        """Keys that hold something; what they hold does not leave kubectl."""
        template = '{{range $key, $value := .data}}{{if $value}}{{$key}}{{"\\n"}}{{end}}{{end}}'
        try:
            return frozenset(self.run("get", "secret", name, "-o", f"go-template={template}").split())
        except NotFoundError:
            return None
        except UnreachableError:
            raise
        except CommandError as error:
            return Unreadable(str(error))

    def may(self, verb: str, resource: str) -> bool:
        """Whether the user has that right in the namespace."""
        try:
            return self.run("auth", "can-i", verb, resource).strip() == "yes"
        except UnreachableError:
            raise
        except CommandError:
            # kubectl ends with 1 when the answer is no.
            return False


@contextmanager
def _ending(process: subprocess.Popen[Text]) -> Iterator[subprocess.Popen[Text]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def not_installed() -> str:
    """What is said where the definitions are missing."""
    return (
        f"this cluster knows nothing of {API_VERSION}; "
        "install the chart first: helm upgrade --install azaion charts/azaion -n azaion --create-namespace"
    )


def convert(found: Mapping[str, Any], type_: type[T]) -> T:
    """The typed resource. Raises a CommandError when it has another shape."""
    try:
        return msgspec.convert(found, type_)
    except msgspec.ValidationError as error:
        name = found.get("metadata", {}).get("name", "")
        raise CommandError(
            f"{found.get('kind')} {name} has a shape that this version does not know ({error}); update kubectl-azaion"
        ) from error


def failure(said: str) -> CommandError:
    """kubectl's words as one of our errors."""
    # kubectl's libraries log what went wrong on the way; the last line is for people.
    lines = [line for line in said.splitlines() if not _KLOG.match(line)]
    words = " ".join(" ".join(lines).split()).removeprefix("Error from server ").removeprefix("error: ")
    lower = said.lower()
    if (
        "(notfound)" in lower
        or "could not find the requested resource" in lower
        or "doesn't have a resource type" in lower
    ):
        return NotFoundError(words.removeprefix("(NotFound): "))
    if "(forbidden)" in lower:
        return ForbiddenError(f"you may not do this: {words.removeprefix('(Forbidden): ')}")
    if any(sign in lower for sign in _NO_CLUSTER):
        return UnreachableError(
            "there is no cluster to ask; set KUBECONFIG, on k3s: export KUBECONFIG=/etc/rancher/k3s/k3s.yaml"
        )
    if any(sign in lower for sign in _UNREACHABLE):
        return UnreachableError(f"{words}; is the cluster up, and is KUBECONFIG the right one?")
    return CommandError(words)


def objects_in(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects that `kubectl get --watch -o json` writes, one after the other."""
    decoder, waiting = json.JSONDecoder(), ""
    for line in lines:
        waiting += line
        # One object a line with the kind of event around it, many lines without: the object is whole at an outer brace.
        if line.startswith("}") or (line.startswith("{") and line.rstrip().endswith("}")):
            found, end = decoder.raw_decode(waiting)
            waiting = waiting[end:].lstrip()
            yield found
