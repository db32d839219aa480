"""What people use, on a real node: `kubectl azaion`, the status page and the chart's health check."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.demo.access import Object, wait_for
from tests.demo.clusters import NAMESPACE
from tests.e2e.platform import Platform
from tests.e2e.story import EPOCHS, INGEST, RUN, Story

from azaion_api.health import parse_health_report

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def azaion(platform: Platform, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Standard output of `kubectl azaion`."""
    done = subprocess.run(
        [sys.executable, "-m", "azaion_kubectl.cli", words[0], "-n", NAMESPACE, *words[1:]],
        env={**os.environ, **platform.access.environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def test_a_finished_run_is_described_and_watched_to_its_end(platform: Platform, story: Story) -> None:
    shown = azaion(platform, "describe", RUN)
    for words in (f"{RUN}: Succeeded", f"{EPOCHS} of {EPOCHS}", "Attempts", "Evaluation on", "Conditions"):
        assert words in shown, shown
    for stage in ("prepare", "train", "evaluate", "publish"):
        assert f"\n{stage} " in shown, shown
    assert "Succeeded" in azaion(platform, "watch", RUN)
    assert RUN not in azaion(platform, "queue")


def test_the_logs_of_every_stage_are_told_in_order(platform: Platform, story: Story) -> None:
    told = azaion(platform, "logs", RUN)
    places = [told.index(f"--- {stage} attempt 1") for stage in ("prepare", "train", "evaluate", "publish")]
    assert places == sorted(places)
    assert "epoch done" in told
    lines = azaion(platform, "logs", RUN, "--stage", "train", "-o", "json").splitlines()
    epochs = [found["context"]["epoch"] for line in lines if (found := json.loads(line))["message"] == "epoch done"]
    assert epochs == list(range(1, EPOCHS + 1))


def test_a_model_is_copied_out_byte_for_byte(platform: Platform, story: Story, tmp_path: Path) -> None:
    current = story.line["current"]
    assert "verified" in azaion(platform, "cp", f"azaion/{current['name']}", str(tmp_path / "model.pt"))
    assert hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest() == current["sha256"]
    azaion(platform, "cp", f"run/{RUN}", str(tmp_path / "model.onnx"), "--format", "onnx")
    exported = next(model for model in story.run["models"] if model["format"] == "ONNX")
    assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == exported["sha256"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_models_of_the_line_are_listed(platform: Platform, story: Story) -> None:
    assert story.line["current"]["name"] in azaion(platform, "models", "azaion")


def checks(report: Object) -> dict[str, Object]:
    return {check["name"]: check for check in report["checks"]}


def test_health_finds_the_platform_as_it_is(platform: Platform, story: Story) -> None:
    found = checks(json.loads(azaion(platform, "health", "-o", "json", codes=(0, 1, 2, 3))))
    for name in ("Operator", "Consumer", "Broker", "Credentials", "Offset", "Storage", "GPU"):
        assert found[name]["outcome"] == "OK", found[name]
    assert found["Credentials"]["message"] == "azaion-rabbitmq has every key"
    assert "CHECK" in azaion(platform, "preflight", codes=(0, 1, 2, 3))


def test_the_charts_own_check_runs_with_its_rights_and_keeps_its_result(platform: Platform, story: Story) -> None:
    access = platform.access
    access.kubectl("delete", "job", "check-now", "--ignore-not-found")
    access.kubectl("create", "job", "--from=cronjob/azaion-health", "check-now")
    access.kubectl("wait", "--for=condition=Complete", "job/check-now", "--timeout=240s")
    report = parse_health_report(access.get("configmap", "azaion-health")["data"]["health.json"])
    assert report is not None
    found = {check.key: check for check in report.checks}
    assert "forbidden" not in report.encode(), report
    assert found["Operator"].outcome == "OK", found["Operator"]
    assert found[f"Credentials/{INGEST}"].outcome == "OK", found[f"Credentials/{INGEST}"]
    assert found["GPU"].outcome == "OK", found["GPU"]
    assert report.offsets[INGEST].offset is not None
    log = access.kubectl("logs", "job/check-now").splitlines()
    assert all(json.loads(line)["service"] == "azaion-health" for line in log)
    assert "Operator" in azaion(platform, "health", "--last", codes=(0, 1, 2, 3))
    access.kubectl("delete", "job", "check-now")


def test_the_status_page_shows_the_run_its_curves_and_the_model(platform: Platform, story: Story) -> None:
    with platform.access.forward("service/azaion-status", 80) as port:

        def page(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return str(answer.read().decode())

        overview = wait_for("the page shows the run", lambda: text if RUN in (text := page("/")) else None, 60)
        for words in (f'href="/runs/{RUN}"', "Succeeded", story.line["current"]["name"], "Disk"):
            assert words in overview, words
        run = page(f"/runs/{RUN}")
        assert "Validation mAP: mAP50-95 went from" in run
        assert f"Figures of {EPOCHS} epochs" in run
