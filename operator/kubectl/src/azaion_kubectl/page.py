"""`page`: the status page in the user's browser, through kubectl's own port-forward."""

from __future__ import annotations

import webbrowser

from azaion_kubectl.access import Kubectl, failure
from azaion_kubectl.screen import Screen

_SERVICE = "service/azaion-status"


def page(kubectl: Kubectl, screen: Screen, *, port: int, browser: bool) -> int:
    """Forward until interrupted; `port` 0 takes a free one."""
    with kubectl.opened("port-forward", _SERVICE, f"{port or ''}:http") as process:
        first = process.stdout.readline() if process.stdout else ""
        if "Forwarding from" not in first:
            raise failure(
                (process.stderr.read() if process.stderr else "").strip() or "kubectl port-forward said nothing"
            )
        local = first.split("->")[0].rpartition(":")[2].strip()
        address = f"http://127.0.0.1:{local}/"
        screen.say(f"The status page is at {address} until you press Ctrl-C.")
        if browser:
            webbrowser.open(address)
        for _ in process.stdout or ():
            # kubectl writes a line for each connection.
            continue
        complaint = (process.stderr.read() if process.stderr else "").strip()
        raise failure(complaint or "the connection to the cluster ended; start the command again")
