"""What the operator imports of the Kubernetes client."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What it prints, in a process that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


PREPARED = "from azaion_operator.half_client import leave_out_the_synchronous_half as leave\nleave()\n"


@pytest.mark.parametrize("unused", ["kubernetes.dynamic", "kubernetes.stream", "kubernetes.config", "google.auth"])
def test_the_operator_does_without_the_synchronous_client(unused: str) -> None:
    code = f"{PREPARED}import azaion_operator.service, sys\nprint({unused!r} in sys.modules)"
    assert run(code) == "False\n"


def test_whatever_is_named_is_there_all_the_same() -> None:
    code = f"{PREPARED}import kubernetes.config, kubernetes.aio\nprint(kubernetes.config.load_kube_config.__name__)"
    assert run(code) == "load_kube_config\n"


def test_what_was_imported_before_stays() -> None:
    code = f"import kubernetes\n{PREPARED}print(kubernetes.client.ApiClient.__name__)"
    assert run(code) == "ApiClient\n"
