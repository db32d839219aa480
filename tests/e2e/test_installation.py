"""`helm test` on a live installation: well when it is, and naming what is not."""

from __future__ import annotations

import pytest
from tests.demo.access import CommandError
from tests.demo.clusters import RELEASE
from tests.e2e.platform import Platform
from tests.e2e.story import INGEST, Story

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(600)]


def run_test(platform: Platform) -> str:
    return platform.access.helm("test", RELEASE, "--logs", "--timeout", "3m")


def test_a_live_installation_is_well(platform: Platform, story: Story) -> None:
    # As the values say for a machine without a GPU: what finds no driver logs an error.
    platform.install("gpuExporter.enabled=false")
    said = run_test(platform)
    for part in ("deployment azaion-operator: 1 of 1 ready", f"ingest {INGEST}: ", "storage: ", "metrics at http://"):
        assert f"ok      {part}" in said
    assert " are well" in said


def test_what_is_not_well_is_named_and_fails_the_test(platform: Platform, story: Story) -> None:
    platform.access.kubectl("delete", "deployment", "azaion-kube-state-metrics", "--wait")
    try:
        with pytest.raises(CommandError):
            run_test(platform)
        assert "FAILED  metrics at http://azaion-kube-state-metrics" in platform.access.kubectl("logs", "azaion-test")
    finally:
        platform.install()
