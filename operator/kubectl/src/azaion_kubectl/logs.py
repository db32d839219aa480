"""`logs RUN`: what all pods of a run wrote, attempt after attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from azaion_api.names import LABEL_ATTEMPT, LABEL_RUN, LABEL_STAGE
from azaion_api.resources import TrainingRun
from azaion_api.training_run import FINISHED_PHASES, Attempt
from azaion_kubectl.access import Kubectl
from azaion_kubectl.errors import CommandError
from azaion_kubectl.runs import find
from azaion_kubectl.screen import Screen, clock

_LEVELS = {"ERROR": "red", "WARN": "yellow", "DEBUG": "dim"}
#: What every line has anyway.
_QUIET_CONTEXT = frozenset({"logger", "run", "stage", "attempt"})
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Part:
    """One attempt of a stage: what the status says of it, and its pod if that is still there."""

    stage: str
    number: int
    pod: str
    attempt: Attempt | None
    there: bool

    @property
    def title(self) -> str:
        """`train attempt 2, pod x: NodeLost after ...`."""
        text = f"{self.stage} attempt {self.number}, pod {self.pod}"
        if self.attempt is None or self.attempt.ended is None:
            return text
        reason = self.attempt.reason.value if self.attempt.reason else "ended"
        return f"{text}: {reason} {clock(self.attempt.ended)}"


def parts_of(run: TrainingRun, pods: Sequence[dict[str, Any]], stage: str | None) -> list[Part]:
    """The attempts in the order in which they ran; a pod that is gone keeps its place."""
    by_uid = {pod["metadata"]["uid"]: pod for pod in pods}
    found = [
        Part(a.stage, a.number, a.pod, a, a.pod_uid in by_uid)
        for a in run.status.attempts
        if stage is None or a.stage == stage
    ]
    known = {a.pod_uid for a in run.status.attempts}
    for pod in sorted(pods, key=lambda p: str(p["metadata"]["creationTimestamp"])):
        labels = pod["metadata"].get("labels", {})
        if pod["metadata"]["uid"] in known or (stage is not None and labels.get(LABEL_STAGE) != stage):
            continue
        number = int(labels.get(LABEL_ATTEMPT, "1")) if labels.get(LABEL_ATTEMPT, "1").isdigit() else 1
        found.append(Part(labels.get(LABEL_STAGE, "?"), number, pod["metadata"]["name"], None, there=True))
    return found


def logs(
    kubectl: Kubectl, screen: Screen, name: str, *, stage: str | None, follow: bool, tail: int | None, as_json: bool
) -> int:
    """Write the logs; with `follow` until the run ends."""
    shown: set[str] = set()
    while True:
        run = find(kubectl, name)
        parts = [part for part in parts_of(run, _pods(kubectl, name), stage) if part.pod not in shown]
        if not parts and not shown and not follow:
            raise CommandError(f"{name} has no pods yet: {run.status.message or 'it is new'}")
        for part in parts:
            live = part.attempt is None or part.attempt.ended is None
            if follow and live and not _has_started(kubectl, part.pod):
                break
            shown.add(part.pod)
            _show(kubectl, screen, part, follow=follow and live, tail=tail, as_json=as_json)
        if not follow or run.status.phase in FINISHED_PHASES:
            return 0
        time.sleep(_LOOK_EVERY_S)


def _pods(kubectl: Kubectl, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl.run("get", "pods", "-l", f"{LABEL_RUN}={name}", "-o", "json"))[
        "items"
    ]
    return found


def _has_started(kubectl: Kubectl, pod: str) -> bool:
    phase = kubectl.run("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.status.phase}")
    return phase not in ("", "Pending")


def _show(kubectl: Kubectl, screen: Screen, part: Part, *, follow: bool, tail: int | None, as_json: bool) -> None:
    if not as_json:
        screen.console.print(Text(f"--- {part.title} ---", style="bold"), soft_wrap=True)
    if not part.there:
        said = part.attempt.message if part.attempt else ""
        if not as_json:
            screen.say(f"its pod is gone, and its log with it; its last word: {said or 'none'}")
        return
    arguments = ["logs", part.pod]
    if follow:
        arguments.append("--follow")
    if tail is not None:
        arguments.append(f"--tail={tail}")
    with kubectl.opened(*arguments) as process:
        for line in process.stdout or ():
            if as_json:
                screen.console.print(Text(line.rstrip("\n")), soft_wrap=True)
            else:
                screen.console.print(readable(line), soft_wrap=True)
        complaint = process.stderr.read().strip() if process.stderr else ""
        if process.wait() and complaint:
            screen.say(f"its log cannot be read: {complaint}")


def readable(line: str) -> Text:
    """`12:00:01 WARN  the message key=value`; what is no line of ours stays as it is."""
    try:
        found = json.loads(line)
        stamp, level, message = found["timestamp"], found["level"], found["message"]
    except (ValueError, TypeError, KeyError):
        return Text(line.rstrip("\n"))
    context = found.get("context") or {}
    rest = "  ".join(_pairs(context)) if isinstance(context, dict) else ""
    text = Text.assemble((f"{stamp} ", "dim"), (f"{level:<5} ", _LEVELS.get(level, "")), str(message))
    if rest:
        text.append(f"  {rest}", style="dim")
    if isinstance(context, dict) and context.get("trace"):
        text.append(f"\n{context['trace']}", style="dim")
    return text


def _pairs(context: dict[str, Any]) -> Iterator[str]:
    for key, value in context.items():
        if key not in _QUIET_CONTEXT and key != "trace":
            yield f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
