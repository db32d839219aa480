"""The chart with the other major version of helm, and with the oldest and the newest Kubernetes it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from matrix import MATRIX
from rendered_chart import CHART, ROOT, Chart, find_helm

sys.path.insert(0, str(ROOT / "tests" / "charttools"))

import charttools

pytestmark = pytest.mark.slow
OLDEST, NEWEST = "1.30", "1.37"
EVERY_CASE = pytest.mark.parametrize("case", list(MATRIX))


@pytest.fixture(scope="module")
def programs() -> Path:
    found = charttools.built()
    if found is None:
        pytest.fail("helm 3 and the checks of the manifests are not built: run `make charttools-build`", pytrace=False)
    return found


@pytest.fixture(scope="module")
def other_helm(programs: Path) -> Chart:
    return Chart(programs / "helm-3")


def check(program: Path, text: str) -> tuple[int, str]:
    done = subprocess.run([program], input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


# Helm


def test_the_two_helms_are_of_two_major_versions(programs: Path) -> None:
    def major(helm: Path) -> str:
        said = subprocess.run([helm, "version", "--short"], capture_output=True, text=True, check=True).stdout
        return said.strip().split(".")[0]

    assert (major(programs / "helm-3"), major(find_helm())) == ("v3", "v4")


@EVERY_CASE
def test_both_helms_render_the_same(chart: Chart, other_helm: Chart, case: str) -> None:
    ours, others = ({_key(m): m for m in one.render(MATRIX[case], crds=True)} for one in (chart, other_helm))
    assert others == ours


def _key(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


@EVERY_CASE
def test_the_other_helm_has_nothing_to_say(other_helm: Chart, case: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in other_helm.run("lint", "--strict", str(CHART), values=MATRIX[case])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"storage": {"size": "big"}}, 'storage.size is "big": give a whole number with a unit'),
        ({"operater": {}}, "operater"),
    ],
)
def test_the_other_helm_refuses_mistakes_with_the_same_words(
    other_helm: Chart, values: dict[str, Any], said: str
) -> None:
    assert said in other_helm.refusal(values)


# Kubernetes


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@EVERY_CASE
def test_every_object_is_one_that_kubernetes_knows(chart: Chart, programs: Path, version: str, case: str) -> None:
    # The Prometheus Operator's kinds come with it.
    ours = [
        m for m in chart.render(MATRIX[case], crds=True) if not m["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    code, said = check(programs / f"manifestcheck-{version}", yaml.safe_dump_all(ours))
    assert code == 0, said
    assert f"k8s.io/api v0.{version.partition('.')[2]}." in said


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_what_the_operator_makes_is_known_as_well(programs: Path, version: str) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "unit" / "azaion_operator"))
    import make

    from azaion_operator.plan_ingest import plan_ingest
    from azaion_operator.plan_run import plan_run

    made = [
        *(manifest for _, manifest in plan_run(make.view(turn=make.HOLDS), make.NOW).create),
        *(manifest for _, manifest in plan_ingest(make.ingest_view(has_report_map=False), make.NOW).create),
    ]
    applied = plan_ingest(make.ingest_view(), make.NOW).apply
    assert applied is not None
    made.append(applied[1])
    text = yaml.safe_dump_all(json.loads(json.dumps(made, default=str)))
    code, said = check(programs / f"manifestcheck-{version}", text)
    assert code == 0, said


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {"name": "x"}}, "PodSecurityPolicy"),
        ({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {}}, 'unknown field "dta"'),
    ],
)
def test_the_check_finds_what_is_not_there(programs: Path, manifest: dict[str, Any], said: str) -> None:
    code, text = check(programs / f"manifestcheck-{NEWEST}", yaml.safe_dump(manifest))
    assert code == 1
    assert said in text


def test_a_field_of_a_newer_kubernetes_is_found_by_the_older_one(programs: Path) -> None:
    container = {"name": "c", "image": "i"}
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        # Came with 1.32.
        "spec": {"containers": [container], "resources": {"requests": {"cpu": "1"}}},
    }
    text = yaml.safe_dump(pod)
    assert check(programs / f"manifestcheck-{NEWEST}", text)[0] == 0
    code, said = check(programs / f"manifestcheck-{OLDEST}", text)
    assert (code, 'unknown field "spec.resources"' in said) == (1, True)


def test_the_chart_says_the_oldest_kubernetes_it_is_for() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={OLDEST}.0-0"
