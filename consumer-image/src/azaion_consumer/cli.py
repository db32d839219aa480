"""`azaion-consumer`: file the annotations of a stream until told to stop, verify them, replay a part of the stream."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from azaion_api import logs, task
from azaion_api.layout import MOUNT_PATH
from azaion_consumer.commands import add_commands, run_replay, run_verify
from azaion_consumer.service import Service
from azaion_consumer.settings import Settings, SettingsError, read_settings

#: How long a thread may keep the interpreter while others want it. The writer's threads give it up at every file they
#: touch and, by Python's own 5 ms, would wait long to get it back: 1 kB messages are filed a sixth faster so.
_SWITCH_INTERVAL_S = 0.0005

log = logging.getLogger(__name__)

#: The task cannot be understood, so starting again will not help.
EXIT_BAD_SETTINGS = 10


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 after SIGTERM, 10 when the environment makes no sense; of the others see commands."""
    parser = argparse.ArgumentParser(prog="azaion-consumer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="file the annotations of one stream until told to stop")
    run.add_argument("--root", type=Path, default=Path(MOUNT_PATH), help="storage root (default: %(default)s)")
    run.add_argument(
        "--credentials",
        type=Path,
        default=Path(task.CREDENTIALS_PATH),
        help="directory with the files username and password (default: %(default)s)",
    )
    run.add_argument(
        "--ca", type=Path, default=Path(task.CA_PATH), help="directory with the file ca.crt (default: %(default)s)"
    )
    add_commands(commands)
    given = parser.parse_args(arguments)
    # Group members may write what we write: the tree belongs to one uid and gid in all images.
    os.umask(0o002)
    try:
        if given.command == "verify":
            return run_verify(given)
        if given.command == "replay":
            return run_replay(given)
        settings = read_settings(root=given.root, credentials=given.credentials, ca=given.ca)
        logs.configure("azaion-consumer", settings.log_level)
    except (SettingsError, ValueError) as error:
        print(f"azaion-consumer: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    # At level DEBUG rstream logs every frame, the one with the password too.
    logging.getLogger("rstream").setLevel(max(logging.INFO, logging.getLogger().level))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What the imports made stays: the garbage collector need not look at it again and again.
    gc.freeze()
    asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    service = Service(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    log.info("consumer of the ingest %s starts", settings.task.ingest)
    await service.run()
    log.info("consumer of the ingest %s has stopped", settings.task.ingest)


if __name__ == "__main__":
    sys.exit(main())
