#!/usr/bin/env python3
"""From a fresh machine to a trained model: a cluster, a broker, the chart, annotations, a training, its model.

demo.py                       on a test cluster of its own, which stays up to look around
demo.py --cluster current     on the k3s or kind that kubectl's current context leads to
demo.py --down                remove what the demo made
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if str(Path(__file__).resolve().parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.demo.access import DemoError
from tests.demo.clusters import CurrentCluster, Place, TestCluster
from tests.demo.story import OUTPUT, STEPS, Demo, diagnosis
from tests.demo.terminal import Terminal, clock


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo or remove it; returns the exit status."""
    options = _parsed(arguments)
    terminal = Terminal(STEPS)
    place: Place = (
        CurrentCluster(options.yes) if options.cluster == "current" else TestCluster(options.name, options.keep)
    )
    if not options.down:
        return _run(Demo(place, terminal), terminal)
    try:
        place.remove(terminal)
    except DemoError as error:
        terminal.line(f"demo: {error}", indent=0)
        return 1
    return 0


def _run(demo: Demo, terminal: Terminal) -> int:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        demo.run()
    except DemoError as error:
        _say_failure(error, demo, terminal)
        return 1
    except KeyboardInterrupt:
        terminal.line("\nstopped; what was made so far stays until `make demo-down`", indent=0)
        return 130
    finally:
        demo.write_timings()
    training = clock(terminal.seconds["training"])
    terminal.line(f"\nThe demo took {clock(terminal.elapsed_s)}, {training} of it for the run.", indent=0)
    return 0


def _say_failure(error: DemoError, demo: Demo, terminal: Terminal) -> None:
    """The reason, what a person would look at first, and where to look further."""
    terminal.line(f"\nFAILED after {clock(terminal.elapsed_s)}: {error}", indent=0)
    found = diagnosis(demo.access)
    if found:
        (OUTPUT / "diagnosis.txt").write_text(found + "\n")
        terminal.line(found, indent=0)
    terminal.line("Where to look:", indent=0)
    for command in (*error.look, *demo.where_to_look()):
        terminal.line(f"  {command}", indent=0)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", choices=("test", "current"), default="test", help="where to run (%(default)s)")
    parser.add_argument("--name", default="demo", help="name of the test cluster (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="go on with the test cluster of an earlier demo")
    parser.add_argument("--yes", action="store_true", help="do not ask before changing the current cluster")
    parser.add_argument("--down", action="store_true", help="remove what the demo made")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
