"""Ending when Kubernetes asks for it."""

from __future__ import annotations

import signal
import threading

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set. For the main thread, before any other is started.

    A thread of its own waits for the signals. A handler would run in the main thread, which may at that moment hold the
    very lock that setting the event takes, and the program would never end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop = threading.Event()

    def wait() -> None:
        signal.sigwait(_SIGNALS)
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop
