"""The chart's own monitoring has watched the whole story, and tells it: metrics, rules, dashboards, alerts, logs."""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from tests.demo.access import ROOT, Object, wait_for
from tests.e2e.platform import Platform
from tests.e2e.story import INGEST, RUN, Story
from tests.monitoring import boards
from tests.monitoring.loki import Loki, loki
from tests.monitoring.prometheus import Line, Prometheus
from tests.monitoring.table import promised
from tests.nvml.library import LIBRARY, VARIABLE, NvmlLibrary

#: Five minutes with programs of its own beside the platform, so it is among the long series.
pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]

CARDS = "azaion-test-nvml"
#: Queries that rightly give nothing in a story in which all goes well, and why.
NOTHING_EXPECTED = {
    "azaion:runs_failed_1h": "no run failed",
    ("azaion-ingest", "Set aside by reason"): "no message was bad",
}
#: Rules of alerts that may fire in a healthy story, and why.
MAY_FIRE = {"AzaionGPUNotAvailable": "before the test gives the exporter a driver there is none"}


@dataclass(frozen=True)
class Watched:
    """A Prometheus that has seen the story."""

    prometheus: Prometheus
    start_s: float
    story: Story
    library: NvmlLibrary
    variables: dict[str, str]

    def lines(self, query: str) -> list[Line]:
        return self.prometheus.over(query, self.start_s, time.time())


@pytest.fixture(scope="module")
def watched(platform: Platform, story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """After the story; the GPU exporter finds a driver's library from then on."""
    library = NvmlLibrary(tmp_path_factory.mktemp("nvml"))
    library.build()
    library.set()
    give_driver(platform, library)
    with reach(platform, "azaion-prometheus", 9090) as url:
        prometheus = Prometheus(url)
        wait_for(
            "the card is scraped, and rules are evaluated over it",
            lambda: prometheus.instant(
                'azaion_gpu_driver_up == 1 and on () azaion_gpu_throttled{reason="power_cap"} == 1'
            ),
            120,
        )
        wait_for("the run's end is recorded", lambda: prometheus.instant("azaion:run_duration_seconds"), 120)
        variables = {"datasource": "prometheus", "namespace": "azaion", "run": RUN, "ingest": INGEST}
        yield Watched(prometheus, time.time() - 3 * 3600, story, library, variables)


@contextmanager
def reach(platform: Platform, service: str, port: int) -> Iterator[str]:
    with platform.access.forward(f"service/{service}", port) as local:
        yield f"http://127.0.0.1:{local}"


def apply_cards(platform: Platform, library: NvmlLibrary) -> None:
    data = {
        LIBRARY: base64.b64encode((library.directory / LIBRARY).read_bytes()).decode(),
        "cards": base64.b64encode(library.cards.read_bytes()).decode(),
    }
    platform.access.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CARDS}, "binaryData": data})


def give_driver(platform: Platform, library: NvmlLibrary) -> None:
    """Mount the library where NVIDIA's container toolkit would put the driver's."""
    apply_cards(platform, library)
    container = {
        "name": "gpu-exporter",
        "env": [{"name": "LD_LIBRARY_PATH", "value": "/driver"}, {"name": VARIABLE, "value": "/driver/cards"}],
        "volumeMounts": [{"name": "driver", "mountPath": "/driver"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "driver", "configMap": {"name": CARDS}}]}
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    platform.access.kubectl("patch", "daemonset", "azaion-gpu-exporter", "--type", "strategic", "-p", patch)
    platform.access.kubectl("rollout", "status", "daemonset/azaion-gpu-exporter", "--timeout=180s")


# Metrics


def test_every_row_of_the_metrics_document_has_its_series(watched: Watched) -> None:
    wrong = []
    for wanted in promised():
        found = watched.prometheus.series(wanted.name, watched.start_s)
        if not any(wanted.labels <= set(labels) for labels in found):
            wrong.append(f"{wanted.name}{sorted(wanted.labels)} ({wanted.row}): {len(found)} series {found[:1]}")
    assert wrong == []


def test_every_target_is_read(watched: Watched) -> None:
    targets = watched.prometheus.get("targets", state="active")["activeTargets"]
    assert {target["scrapePool"] for target in targets} == {
        "azaion-pods",
        "azaion-kube-state-metrics",
        "azaion-node",
        "azaion-kubelet",
        "azaion-cadvisor",
        "azaion-prometheus",
        "azaion-alertmanager",
    }
    assert [(t["scrapeUrl"], t["lastError"]) for t in targets if t["health"] != "up"] == []
    components = {t["labels"].get("app") for t in targets if t["scrapePool"] == "azaion-pods"}
    assert {"operator", "storage", "gpu-exporter", "consumer"} <= components


def test_the_training_pod_was_read_while_it_trained(watched: Watched) -> None:
    batches = watched.lines(f'azaion_training_batches_total{{run="{RUN}"}}')
    assert max(value for line in batches for value in line.values) > 0
    losses = {line.labels["component"] for line in watched.lines(f'azaion_training_loss{{run="{RUN}"}}')}
    assert {"box", "cls"} <= losses


def test_no_name_comes_from_two_sources(watched: Watched) -> None:
    sources: dict[str, set[str]] = {}
    for labels in watched.prometheus.series('{__name__=~"azaion_.+"}', watched.start_s):
        sources.setdefault(labels["__name__"], set()).add(labels.get("app") or labels["job"])
    assert {name: found for name, found in sources.items() if len(found) > 1} == {}


def test_the_number_of_series_stays_small(watched: Watched) -> None:
    """One node, one run: what grows with runs is about a hundred series each."""
    found = watched.prometheus.instant('count by (job) ({job=~"azaion-.+"})')
    counts = {labels["job"]: value for labels, value in found}
    assert counts["azaion-pods"] < 1500, counts
    (of_run,) = watched.prometheus.instant(f'count({{__name__=~"azaion_trainingrun_.+",name="{RUN}"}})')
    assert of_run[1] < 150


# Rules and dashboards


def test_every_rule_is_evaluated_without_an_error(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    ours = yaml.safe_load((ROOT / "charts/azaion/files/rules.yaml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in ours)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert firing <= set(MAY_FIRE), firing


def test_every_recording_rule_gives_data(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    names = [rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "recording"]
    empty = [name for name in names if not watched.prometheus.series(name, watched.start_s)]
    assert [name for name in empty if name not in NOTHING_EXPECTED] == []


def test_every_query_of_the_dashboards_gives_data(watched: Watched) -> None:
    found = [target for document in boards.documents().values() for target in boards.targets(document)]
    assert len(found) > 60
    empty = [t for t in found if not watched.lines(boards.filled(t.expr, watched.variables))]
    assert [(t.board, t.panel, t.expr) for t in empty if (t.board, t.panel) not in NOTHING_EXPECTED] == []


def test_the_dashboards_can_be_drawn_from_what_was_seen(watched: Watched) -> None:
    """Grafana is in no package; the panels are drawn from the same queries, and are looked at in the docs."""
    directory = ROOT / "build" / "dashboards"
    directory.mkdir(parents=True, exist_ok=True)
    end_s = time.time()
    seen = watched.prometheus.over("azaion_operator_leader", watched.start_s, end_s)
    start_s = min(line.times[0] for line in seen)
    period = boards.Period(watched.prometheus, watched.variables, start_s, end_s)
    for name, document in boards.documents().items():
        path = directory / f"{name}.png"
        boards.draw(document, period, path)
        assert 10_000 < path.stat().st_size < 1_000_000


# Alerts


def test_a_gpu_that_is_too_hot_reaches_the_alertmanager_as_critical(platform: Platform, watched: Watched) -> None:
    watched.library.set(temperature="95")
    apply_cards(platform, watched.library)
    with reach(platform, "azaion-alertmanager", 9093) as url:

        def alert() -> Object | None:
            with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:  # noqa: S310 - our own
                found = json.load(answer)
            return next((a for a in found if a["labels"]["alertname"] == "AzaionGPUTooHot"), None)

        seen = wait_for("the alert reaches Alertmanager", alert, 420, 1.0)
    assert [receiver["name"] for receiver in seen["receivers"]] == ["webhook"]
    assert seen["labels"]["severity"] == "critical"
    assert seen["annotations"]["summary"] == "GPU 0 is at 95 C"
    assert seen["annotations"]["runbook_url"] == "docs/runbooks/AzaionGPUTooHot.md"
    watched.library.set()
    apply_cards(platform, watched.library)


# Logs

KEYS = ["timestamp", "level", "service", "message", "context"]
LEVELS = {"DEBUG", "INFO", "WARN", "ERROR"}
SERVICES = {
    "operator": "azaion-operator",
    "storage": "azaion-storage",
    "gpu-exporter": "azaion-gpu-exporter",
    "trainer": "azaion-trainer",
    "consumer": "azaion-consumer",
}
#: A JPEG or PNG, a JSON Web Token, a private key, or a long run of base64.
FORBIDDEN = re.compile(r"/9j/4|\\xff\\xd8|iVBORw0|eyJhbGciOi|PRIVATE KEY|[A-Za-z0-9+/]{300,}")


@dataclass(frozen=True)
class PodLog:
    """Every line of a pod, and the labels that charts/azaion/files/monitoring/alloy.alloy gives them."""

    labels: dict[str, str]
    lines: list[str]


@pytest.fixture(scope="module")
def pod_logs(platform: Platform, story: Story) -> list[PodLog]:
    """Of every pod of ours, also of those that ended."""
    found = []
    for pod in platform.access.items("pods", "-l", "app.kubernetes.io/part-of=azaion"):
        name, own = pod["metadata"]["name"], pod["metadata"]["labels"]
        labels = {
            "namespace": platform.access.namespace,
            "pod": name,
            "component": own["app.kubernetes.io/component"],
            "run": own.get("azaion.com/training-run", ""),
            "ingest": own.get("azaion.com/annotation-ingest", ""),
        }
        if labels["component"] in SERVICES:
            text = platform.access.kubectl("logs", name, "--all-containers")
            found.append(PodLog({key: value for key, value in labels.items() if value}, text.splitlines()))
    return found


@pytest.fixture(scope="module")
def logs(pod_logs: list[PodLog]) -> dict[str, list[str]]:
    """Lines by component."""
    found: dict[str, list[str]] = {}
    for log in pod_logs:
        found.setdefault(log.labels["component"], []).extend(log.lines)
    return found


def test_every_line_of_every_component_is_one_object_of_the_one_form(logs: dict[str, list[str]]) -> None:
    assert set(logs) == set(SERVICES)
    wrong = []
    for component, lines in logs.items():
        assert lines, f"{component} has said nothing"
        for line in lines:
            problem = what_is_wrong(line, SERVICES[component])
            if problem:
                wrong.append((component, problem, line[:300]))
    assert wrong == []


def what_is_wrong(line: str, service: str) -> str | None:
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError:
        return "not JSON"
    if not isinstance(found, dict) or list(found) != KEYS:
        return "other keys"
    if found["level"] not in LEVELS:
        return "another level"
    if found["service"] != service:
        return "another service"
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["timestamp"]):
        return "another form of time"
    if "\r" in found["message"] or "\x1b" in found["message"] or re.search(r"\d+%\|", found["message"]):
        return "a progress bar or colours"
    return None if isinstance(found["context"], dict) and found["message"] else "no message"


def test_a_story_in_which_all_goes_well_logs_no_error(logs: dict[str, list[str]]) -> None:
    levels = {(component, json.loads(line)["level"]) for component, lines in logs.items() for line in lines}
    assert {found for found in levels if found[1] == "ERROR"} <= {("gpu-exporter", "ERROR")}
    assert ("trainer", "INFO") in levels
    assert not any(level == "DEBUG" for _, level in levels)


def test_no_line_holds_a_password_a_token_or_an_image(platform: Platform, logs: dict[str, list[str]]) -> None:
    password = platform.password()
    wrong = [
        (component, line[:200])
        for component, lines in logs.items()
        for line in lines
        if password in line or FORBIDDEN.search(line)
    ]
    assert wrong == []


#: Questions of docs/observability.md to which a story in which all goes well rightly has no answer, and why.
UNANSWERED = {
    "What went wrong anywhere?": "nothing did",
    "Which messages were set aside?": "no message was bad",
    "Did the operator lose a watch?": "the API server was always there",
    "How many errors an hour, by component?": "nothing went wrong",
}


@pytest.fixture(scope="module")
def stored(platform: Platform, pod_logs: list[PodLog], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """A real Loki with the chart's configuration, to which the lines came as Alloy would have sent them."""
    chart = ("template", "azaion", str(ROOT / "charts" / "azaion"))
    wanted = ("--set", "monitoring.enabled=true", "--set", "monitoring.logs.enabled=true")
    rendered = platform.access.helm(*chart, *wanted, "--show-only", "templates/monitoring/logs.yaml")
    (configuration,) = [
        found["data"]["loki.yaml"]
        for found in yaml.safe_load_all(rendered)
        if found["kind"] == "ConfigMap" and "loki.yaml" in found["data"]
    ]
    with loki(configuration, tmp_path_factory.mktemp("loki")) as found:
        for log in pod_logs:
            found.push(log.labels, log.lines)
        yield found


def questions() -> dict[str, str]:
    """The common questions of the documentation, and their queries."""
    text = (ROOT / "docs" / "observability.md").read_text()
    found = dict(re.findall(r"^\| ([^|]+\?) \| `(.+)` \|$", text, re.MULTILINE))
    return {question: query.replace(r"\|", "|").replace("nightly", RUN) for question, query in found.items()}


def test_loki_answers_the_common_questions(stored: Loki, pod_logs: list[PodLog]) -> None:
    now_s = time.time()
    assert len(questions()) >= 6
    answers = {
        question: stored.values(query, now_s) if "_over_time" in query else stored.lines(query, now_s - 6 * 3600, now_s)
        for question, query in questions().items()
    }
    assert {question for question, found in answers.items() if not found} <= set(UNANSWERED)
    everything = [line for log in pod_logs for line in log.lines]
    wrong = [line for line in everything if json.loads(line)["level"] in ("ERROR", "WARN")]
    assert sorted(answers["What went wrong anywhere?"]) == sorted(wrong)
    of_run = [json.loads(line) for log in pod_logs if log.labels.get("run") == RUN for line in log.lines]
    assert len(answers["What did a run say, over all its attempts?"]) == min(len(of_run), 1000)
    epochs_s = [line["context"]["seconds"] for line in of_run if line["message"] == "epoch done"]
    longest = answers["How long did the longest epoch of a day take?"]
    assert [(labels, value) for labels, value in longest] == [({"run": RUN}, pytest.approx(max(epochs_s)))]


def test_loki_deletes_after_thirty_days_by_its_own_account(stored: Loki) -> None:
    running = stored.configuration()
    assert running["compactor"]["retention_enabled"] is True
    assert running["limits_config"]["retention_period"] == "30d"


def test_nothing_writes_log_files(platform: Platform, story: Story) -> None:
    assert platform.shell("find . -name '*.log' -o -name '*.log.*' | head").strip() == ""
