"""The operator's programs: `azaion-operator run`, `storage`, `gpu`, `health` and `test`."""

from __future__ import annotations

import argparse
import asyncio
import logging

from azaion_api.logs import configure
from azaion_operator.errors import ClusterError, SettingsError

log = logging.getLogger("azaion_operator")


def main(arguments: list[str] | None = None) -> int:
    """The process's exit code."""
    parser = argparse.ArgumentParser(prog="azaion-operator", description="The operator of Azaion Training.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="reconcile TrainingRuns, AnnotationIngests and ModelLines of one namespace")
    commands.add_parser("storage", help="keep the directory tree on the volume and report what lies there")
    commands.add_parser("gpu", help="tell what NVIDIA's driver says of this node's GPUs, as metrics")
    commands.add_parser("health", help="check the platform once, keep the result and tell the webhook what is urgent")
    commands.add_parser("test", help="look at an installation as `helm test` does; a line for each thing")
    options = parser.parse_args(arguments)
    # Each command imports only what it needs: the storage pod is always on and stays small.
    return {"run": _run, "storage": _storage, "gpu": _gpu, "health": _health, "test": _test}[options.command]()


def _gpu() -> int:
    from azaion_operator import gpu_exporter

    return gpu_exporter.main()


def _storage() -> int:
    from azaion_operator import storage_keeper

    return storage_keeper.main()


def _health() -> int:
    from azaion_operator import health_check

    return health_check.main()


def _test() -> int:
    from azaion_operator import installation

    return installation.main()


def _run() -> int:
    from azaion_operator.half_client import leave_out_the_synchronous_half

    leave_out_the_synchronous_half()
    from azaion_operator import service
    from azaion_operator.settings import read_settings

    configure("azaion-operator")
    try:
        settings = read_settings()
        configure("azaion-operator", settings.log_level)
        asyncio.run(service.run(settings))
    except (SettingsError, ValueError) as error:
        log.error("the operator cannot start: %s", error)
        return 2
    except ClusterError as error:
        log.error("%s", error)
        return 1
    return 0
