"""Grafana's dashboards, written with its own Python library: `python charts/dashboards.py --write` or `--check`.

A panel says what it shows, in which unit, where it becomes worrying, and what an empty one means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, gauge, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shared
from grafana_foundation_sdk.models import dashboard as models

TARGET = Path(__file__).parent / "azaion" / "files" / "dashboards"
#: The bundled Grafana's; another one is chosen by the variable at the top of each dashboard.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24
OF_RUN = '{namespace="$namespace",name="$run"}'
OF_INGEST = '{namespace="$namespace",name="$ingest"}'
OF_CONSUMER = '{namespace="$namespace",ingest="$ingest"}'
OF_TRAINER = '{namespace="$namespace",run="$run"}'
HERE = '{namespace="$namespace"}'


def of(selector: str, more: str) -> str:
    """The selector with one more condition."""
    return f"{selector[:-1]},{more}}}"


def quantile(part: float, metric: str, selector: str) -> str:
    """PromQL: a quantile of a histogram over 5 minutes."""
    return f"histogram_quantile({part}, sum by (le) (rate({metric}_bucket{selector}[5m])))"


CONSUMERS = of(HERE, 'container="consumer"')
CONTAINERS = of(HERE, 'container!=""')
SUCCEEDED = of(HERE, 'phase="Succeeded"')
FAILED = of(HERE, 'phase="Failed"')


@dataclass(frozen=True)
class Query:
    """PromQL and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; thresholds are (value, colour) above green."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    thresholds: Sequence[tuple[float, str]] = ()
    empty: str = "no data"
    minimum: float | None = 0
    maximum: float | None = None
    stacked: bool = False
    decimals: int | None = None


@dataclass(frozen=True)
class Board:
    """One dashboard: its variables beside namespace, and rows of panels."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    #: Name of a variable and the query of its values.
    variables: Sequence[tuple[str, str]] = field(default=())


def number(title: str, description: str, expr: str, unit: str = "short", **more: Any) -> Panel:
    legend = more.pop("legend", "")
    return Panel(title, description, [Query(expr, legend)], unit, kind="stat", width=4, height=4, **more)


GPU_ROW = (
    Panel(
        "GPU in use",
        "Part of the last second in which the GPU worked. A training that keeps it below 80 % waits for its images.",
        [Query("azaion_gpu_utilization_ratio", "GPU {{gpu}} of {{node}}")],
        "percentunit",
        width=6,
        maximum=1,
        empty="no GPU exporter",
    ),
    Panel(
        "GPU memory",
        "In use, and all there is.",
        [
            Query("azaion_gpu_memory_used_bytes", "used, GPU {{gpu}}"),
            Query("azaion_gpu_memory_total_bytes", "all, GPU {{gpu}}"),
        ],
        "bytes",
        width=6,
        empty="no GPU exporter",
    ),
    Panel(
        "GPU temperature",
        "Above 90 C for a minute is critical.",
        [Query("azaion_gpu_temperature_celsius", "GPU {{gpu}} of {{node}}")],
        "celsius",
        width=6,
        thresholds=[(80, "orange"), (90, "red")],
        empty="no GPU exporter",
    ),
    Panel(
        "GPU power and throttling",
        "Power drawn, and what holds the card back: 1 while it does.",
        [
            Query("azaion_gpu_power_watts", "W, GPU {{gpu}}"),
            Query("azaion_gpu_throttled == 1", "{{reason}}, GPU {{gpu}}"),
        ],
        "short",
        width=6,
        empty="no GPU exporter",
    ),
)

TRAINING = Board(
    "azaion-training-run",
    "Azaion / Training run",
    "One run: how far it is, how well it learns, and what it has been through.",
    [
        (
            "Progress",
            [
                number(
                    "Phase",
                    "Where the run is.",
                    f"azaion_trainingrun_phase{OF_RUN} == 1",
                    legend="{{phase}}",
                    empty="no such run",
                ),
                number(
                    "Stage",
                    "What a running run does.",
                    f"azaion_trainingrun_stage{OF_RUN} == 1",
                    legend="{{stage}}",
                    empty="not running",
                ),
                Panel(
                    "Epochs done",
                    "Completed of all epochs.",
                    [Query(f"azaion:epoch_ratio{OF_RUN}")],
                    "percentunit",
                    kind="gauge",
                    width=4,
                    height=4,
                    maximum=1,
                    empty="not released yet",
                ),
                number(
                    "Remaining",
                    "Expected time to the end of the run, by the pace of the last epochs.",
                    f"max(azaion_trainingrun_remaining_seconds{OF_RUN})",
                    "s",
                    empty="not known yet",
                ),
                number(
                    "Checkpoint age",
                    "What a power cut would cost now. Three times the interval raises an alert.",
                    f"azaion:checkpoint_age_seconds{OF_RUN}",
                    "s",
                    thresholds=[(1800, "orange"), (2700, "red")],
                    empty="not training",
                ),
                number(
                    "Restarts",
                    "Attempts the run's own faults have cost.",
                    f"azaion_trainingrun_restarts{OF_RUN}",
                    thresholds=[(1, "orange"), (5, "red")],
                    empty="no such run",
                ),
            ],
        ),
        (
            "Learning",
            [
                Panel(
                    "Training loss",
                    "By component, mean of the epoch so far. From the pod while it trains.",
                    [Query(f"azaion_training_loss{OF_TRAINER}", "{{component}}")],
                    width=8,
                    empty="no training pod",
                ),
                Panel(
                    "Loss of each epoch",
                    "Sum of the components, mean of the epoch. Twice its lowest value of 6 hours raises an alert.",
                    [Query(f"azaion_trainingrun_train_loss{OF_RUN}", "training loss")],
                    width=8,
                    empty="no epoch done yet",
                ),
                Panel(
                    "mAP on the validation split",
                    "After each epoch.",
                    [
                        Query(f"azaion_trainingrun_validation_map50_ratio{OF_RUN}", "mAP50"),
                        Query(f"azaion_trainingrun_validation_map50to95_ratio{OF_RUN}", "mAP50-95"),
                    ],
                    "percentunit",
                    width=8,
                    maximum=1,
                    empty="no epoch done yet",
                ),
                Panel(
                    "Learning rate",
                    "Of the first parameter group.",
                    [Query(f"azaion_training_learning_rate{OF_TRAINER}", "learning rate")],
                    "sci",
                    width=6,
                    empty="no training pod",
                ),
                Panel(
                    "Batch",
                    "Images per step in force; it shrinks when GPU memory runs out.",
                    [Query(f"azaion_trainingrun_batch_size{OF_RUN}", "images")],
                    width=6,
                    empty="not training yet",
                ),
                Panel(
                    "Images per second",
                    "Trained on, over 5 minutes.",
                    [Query(f"rate(azaion_training_images_total{OF_TRAINER}[5m])", "images/s")],
                    "short",
                    width=6,
                    empty="no training pod",
                ),
                Panel(
                    "Time of a step",
                    "From one batch's end to the next one's.",
                    [
                        Query(
                            quantile(0.5, "azaion_training_step_seconds", OF_TRAINER),
                            "half below",
                        ),
                        Query(
                            quantile(0.95, "azaion_training_step_seconds", OF_TRAINER),
                            "95 % below",
                        ),
                    ],
                    "s",
                    width=6,
                    empty="no training pod",
                ),
            ],
        ),
        (
            "Data, attempts, result",
            [
                Panel(
                    "Images of the data set",
                    "By split.",
                    [Query(f"azaion_trainingrun_dataset_images{OF_RUN}", "{{split}}")],
                    kind="bargauge",
                    width=6,
                    height=6,
                    empty="not formed yet",
                ),
                Panel(
                    "Attempts that ended",
                    "By reason. Completed counts one for each stage.",
                    [Query(f"azaion_trainingrun_attempts{OF_RUN}", "{{reason}}")],
                    kind="bargauge",
                    width=6,
                    height=6,
                    empty="none yet",
                ),
                Panel(
                    "New against current, test split",
                    "mAP50-95 of the run's model and of the line's current one when it was judged.",
                    [Query(f"azaion_trainingrun_evaluation_map50to95_ratio{OF_RUN}", "{{model}}")],
                    "percentunit",
                    kind="bargauge",
                    width=6,
                    height=6,
                    maximum=1,
                    empty="not evaluated yet",
                ),
                Panel(
                    "Hard samples",
                    "Images of the test split with an object that was missed or found with low confidence.",
                    [
                        Query(f"azaion_trainingrun_hard_samples{OF_RUN}", "hard"),
                        Query(f"azaion_trainingrun_evaluated_images{OF_RUN}", "evaluated"),
                    ],
                    kind="bargauge",
                    width=6,
                    height=6,
                    empty="not evaluated yet",
                ),
            ],
        ),
        ("GPU", GPU_ROW),
    ],
    [("run", 'label_values(azaion_trainingrun_phase{namespace="$namespace"}, name)')],
)

INGEST = Board(
    "azaion-ingest",
    "Azaion / Ingest",
    "Annotations from the stream to files.",
    [
        (
            "Now",
            [
                number(
                    "Phase",
                    "Where the ingest is.",
                    f"azaion_annotationingest_phase{OF_INGEST} == 1",
                    legend="{{phase}}",
                    empty="no such ingest",
                ),
                number(
                    "Connected",
                    "1 while the stream is read.",
                    f"max(azaion_ingest_connected{OF_CONSUMER})",
                    empty="no consumer",
                ),
                number(
                    "Storage writable",
                    "1 while files can be written.",
                    f"max(azaion_ingest_storage_writable{OF_CONSUMER})",
                    empty="no consumer",
                ),
                number(
                    "Messages waiting",
                    "Messages in the stream behind the committed offset.",
                    f"max(azaion_ingest_lag_messages{OF_CONSUMER})",
                    thresholds=[(1000, "orange"), (100000, "red")],
                    empty="no consumer",
                ),
                number(
                    "Since the last message",
                    "Long is bad only while messages wait.",
                    f"time() - max(azaion_ingest_last_message_timestamp_seconds{OF_CONSUMER} > 0)",
                    "s",
                    empty="none filed yet",
                ),
                number(
                    "Set aside, 24 h",
                    "Messages in data-rejected/.",
                    f"sum(increase(azaion_ingest_messages_failed_total{OF_CONSUMER}[24h]))",
                    thresholds=[(1, "orange")],
                    decimals=0,
                    empty="no consumer",
                ),
            ],
        ),
        (
            "Flow",
            [
                Panel(
                    "Messages filed per second",
                    "By operation, over 5 minutes.",
                    [
                        Query(
                            f"sum by (operation) (rate(azaion_ingest_messages_processed_total{OF_CONSUMER}[5m]))",
                            "{{operation}}",
                        )
                    ],
                    "short",
                    width=8,
                    stacked=True,
                    empty="no consumer",
                ),
                Panel(
                    "Lag",
                    "Messages that wait in the stream.",
                    [Query(f"azaion_annotationingest_lag{OF_INGEST}", "lag")],
                    width=8,
                    empty="not known yet",
                ),
                Panel(
                    "Committed offset",
                    "Everything up to it is durable on disk.",
                    [Query(f"azaion_annotationingest_offset{OF_INGEST}", "offset")],
                    width=8,
                    empty="nothing filed yet",
                ),
                Panel(
                    "Set aside by reason",
                    "Messages that could not be understood or must not be applied, in the last hour.",
                    [
                        Query(
                            f"sum by (reason) (increase(azaion_ingest_messages_failed_total{OF_CONSUMER}[1h])) > 0",
                            "{{reason}}",
                        )
                    ],
                    width=8,
                    stacked=True,
                    empty="none, which is good",
                ),
                Panel(
                    "Images by directory",
                    "As the consumer counts them.",
                    [Query(f"azaion_annotationingest_images{OF_INGEST}", "{{set}}")],
                    width=8,
                    empty="not counted yet",
                ),
                Panel(
                    "Time of a batch's sync",
                    "What the disk takes to make a batch durable.",
                    [
                        Query(
                            quantile(0.5, "azaion_ingest_sync_seconds", OF_CONSUMER),
                            "half below",
                        ),
                        Query(
                            quantile(0.99, "azaion_ingest_sync_seconds", OF_CONSUMER),
                            "99 % below",
                        ),
                    ],
                    "s",
                    width=8,
                    empty="nothing was filed lately",
                ),
            ],
        ),
        (
            "Pod",
            [
                Panel(
                    "Memory",
                    "Of the consumer's container.",
                    [
                        Query(
                            f"sum by (pod) (container_memory_working_set_bytes{CONSUMERS})",
                            "{{pod}}",
                        )
                    ],
                    "bytes",
                    width=12,
                    empty="no consumer",
                ),
                Panel(
                    "Restarts",
                    "Of the consumer's container. Three within 10 minutes are critical.",
                    [Query(f"kube_pod_container_status_restarts_total{CONSUMERS}", "{{pod}}")],
                    width=12,
                    empty="no consumer",
                ),
            ],
        ),
    ],
    [("ingest", 'label_values(azaion_annotationingest_phase{namespace="$namespace"}, name)')],
)

PLATFORM = Board(
    "azaion-platform",
    "Azaion / Platform",
    "Everything on the machine: runs, queue, disk, GPU, operator, and which models are current.",
    [
        (
            "Runs",
            [
                number(
                    "Succeeded",
                    "Runs that are still there and succeeded.",
                    f"azaion:runs_finished{SUCCEEDED}",
                    empty="no runs",
                ),
                number(
                    "Failed",
                    "Runs that are still there and failed.",
                    f"azaion:runs_finished{FAILED}",
                    thresholds=[(1, "orange"), (3, "red")],
                    empty="no runs",
                ),
                number(
                    "Success",
                    "Succeeded of all that finished.",
                    f"azaion:run_success_ratio{HERE}",
                    "percentunit",
                    empty="none finished yet",
                ),
                number(
                    "In the queue",
                    "Runs that wait for the device.",
                    f"max(azaion_operator_queue_length{HERE})",
                    thresholds=[(3, "orange"), (10, "red")],
                    empty="no operator",
                ),
                number(
                    "Mean duration",
                    "From release to the end, of the runs that finished.",
                    f"avg(azaion:run_duration_seconds{HERE})",
                    "s",
                    empty="none finished yet",
                ),
                number(
                    "Alerts firing",
                    "Of ours.",
                    'count(ALERTS{alertname=~"Azaion.+",alertstate="firing"}) or vector(0)',
                    thresholds=[(1, "red")],
                ),
                Panel(
                    "Runs by phase",
                    "Of the runs that are still there.",
                    [Query(f"sum by (phase) (azaion_trainingrun_phase{HERE})", "{{phase}}")],
                    width=8,
                    stacked=True,
                    empty="no runs",
                ),
                Panel(
                    "Time of a stage",
                    "Mean over the attempts of the last 30 days.",
                    [
                        Query(
                            f"sum by (stage) (increase(azaion_operator_stage_duration_seconds_sum{HERE}[30d])) / "
                            f"(sum by (stage) (increase(azaion_operator_stage_duration_seconds_count{HERE}[30d])) > 0)",
                            "{{stage}}",
                        )
                    ],
                    "s",
                    kind="bargauge",
                    width=8,
                    empty="no attempt ended yet",
                ),
                Panel(
                    "Test mAP50-95, new against current",
                    "Of each run's model and of the model that was current then.",
                    [Query(f"azaion_trainingrun_evaluation_map50to95_ratio{HERE}", "{{name}} {{model}}")],
                    "percentunit",
                    kind="bargauge",
                    width=8,
                    maximum=1,
                    empty="none evaluated yet",
                ),
            ],
        ),
        (
            "Machine",
            [
                Panel(
                    "Processors",
                    "In use by the whole node.",
                    [Query("azaion:node_cpu_used_ratio", "{{node}}")],
                    "percentunit",
                    width=8,
                    maximum=1,
                    thresholds=[(0.9, "orange")],
                    empty="no node-exporter",
                ),
                Panel(
                    "Processors by pod",
                    "Cores in use.",
                    [
                        Query(
                            f"sum by (pod) (rate(container_cpu_usage_seconds_total{CONTAINERS}[5m]))",
                            "{{pod}}",
                        )
                    ],
                    width=8,
                    stacked=True,
                    empty="the kubelet is not read",
                ),
                Panel(
                    "Memory by pod",
                    "What cannot be given back at once.",
                    [Query(f"sum by (pod) (container_memory_working_set_bytes{CONTAINERS})", "{{pod}}")],
                    "bytes",
                    width=8,
                    stacked=True,
                    empty="the kubelet is not read",
                ),
                Panel(
                    "Memory free",
                    "Of the whole node.",
                    [Query("node_memory_MemAvailable_bytes", "{{node}}")],
                    "bytes",
                    width=8,
                    empty="no node-exporter",
                ),
                Panel(
                    "Data volume in use",
                    "Over 80 % somebody should look, over 90 % nothing starts.",
                    [Query(f"azaion:storage_used_ratio{HERE}", "in use")],
                    "percentunit",
                    width=8,
                    maximum=1,
                    thresholds=[(0.8, "orange"), (0.9, "red")],
                    empty="no storage pod",
                ),
                Panel(
                    "Disk by directory",
                    "A file of a data set that is also elsewhere counts elsewhere.",
                    [Query(f"azaion_storage_used_bytes{HERE}", "{{directory}}")],
                    "bytes",
                    width=8,
                    stacked=True,
                    empty="not measured yet",
                ),
            ],
        ),
        ("GPU", GPU_ROW),
        (
            "Operator and models",
            [
                Panel(
                    "Reconciles per second",
                    "By kind.",
                    [
                        Query(
                            f"sum by (kind) (rate(azaion_operator_reconcile_duration_seconds_count{HERE}[5m]))",
                            "{{kind}}",
                        )
                    ],
                    width=6,
                    empty="no operator",
                ),
                Panel(
                    "Time of a reconcile",
                    "99 % are below.",
                    [
                        Query(
                            "histogram_quantile(0.99, sum by (le, kind) "
                            f"(rate(azaion_operator_reconcile_duration_seconds_bucket{HERE}[5m])))",
                            "{{kind}}",
                        )
                    ],
                    "s",
                    width=6,
                    empty="nothing changed lately",
                ),
                Panel(
                    "Age of the watches",
                    "Since one last brought something. Over 5 minutes the operator is deaf.",
                    [Query(f"azaion_operator_watch_age_seconds{HERE}", "age")],
                    "s",
                    width=6,
                    thresholds=[(60, "orange"), (300, "red")],
                    empty="no operator",
                ),
                Panel(
                    "Current models",
                    "Test mAP50-95 of each line's current model when it was judged.",
                    [
                        Query(
                            f"azaion_modelline_current_map50to95_ratio{HERE} "
                            f"* on (namespace, name) group_left (model) azaion_modelline_current_info{HERE}",
                            "{{name}}: {{model}}",
                        )
                    ],
                    "percentunit",
                    kind="bargauge",
                    width=6,
                    maximum=1,
                    empty="no model is current yet",
                ),
            ],
        ),
    ],
)

BOARDS = (TRAINING, INGEST, PLATFORM)

_KINDS: dict[str, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "gauge": gauge.Panel,
    "bargauge": bargauge.Panel,
}


def panel(given: Panel, x: int, y: int) -> Any:
    """The library's panel at that place."""
    made = _KINDS[given.kind]()
    made.title(given.title).description(given.description).unit(given.unit).datasource(SOURCE)
    made.no_value(given.empty).grid_pos(models.GridPos(h=given.height, w=given.width, x=x, y=y))
    if given.minimum is not None:
        made.min(given.minimum)
    if given.maximum is not None:
        made.max(given.maximum)
    if given.decimals is not None:
        made.decimals(given.decimals)
    steps = [models.Threshold(value=None, color="green")]
    steps += [models.Threshold(value=value, color=colour) for value, colour in given.thresholds]
    made.thresholds(builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    if given.kind == "timeseries":
        made.span_nulls(False).fill_opacity(10 if given.stacked else 0)
        if given.thresholds:
            made.thresholds_style(common.GraphThresholdsStyleConfig().mode(shared.GraphThresholdsStyleMode.LINE))
        if given.stacked:
            made.stacking(common.StackingConfig().mode(shared.StackingMode.NORMAL))
    elif given.kind == "stat" and given.queries[0].legend:
        made.text_mode(shared.BigValueTextMode.NAME)
    elif given.kind == "bargauge":
        made.orientation(shared.VizOrientation.HORIZONTAL)
    for place, query in enumerate(given.queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + place)).datasource(SOURCE)
        target.legend_format(query.legend or "__auto")
        if given.kind != "timeseries":
            target.instant()
        made.with_target(target)
    return made


def variables(board: Board) -> Iterator[Any]:
    """Data source and namespace first, then the board's own."""
    yield builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    wanted = [("namespace", "label_values(azaion_operator_leader, namespace)"), *board.variables]
    for name, query in wanted:
        yield (
            builders.QueryVariable(name)
            .label(name.capitalize())
            .query(query)
            .datasource(SOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
        )


def build(board: Board) -> str:
    """The dashboard as Grafana reads it."""
    made = builders.Dashboard(board.title).uid(board.uid).description(board.description).tags(["azaion"])
    made.refresh("30s").time("now-24h", "now").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    made.readonly()
    for variable in variables(board):
        made.with_variable(variable)
    y = 0
    for title, panels in board.rows:
        made.with_row(builders.Row(title).grid_pos(models.GridPos(h=1, w=COLUMNS, x=0, y=y)))
        y += 1
        x = tallest = 0
        for given in panels:
            if x + given.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            made.with_panel(panel(given, x, y))
            x, tallest = x + given.width, max(tallest, given.height)
        y += tallest
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=1, sort_keys=True) + "\n"


def files() -> Iterable[tuple[Path, str]]:
    for board in BOARDS:
        yield TARGET / f"{board.uid}.json", build(board)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write the dashboards into the chart")
    what.add_argument("--check", action="store_true", help="fail when they differ from the chart's")
    write = parser.parse_args().write
    wrong = []
    for path, text in files():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            wrong.append(path.name)
    if wrong:
        print(f"{', '.join(wrong)} differ from charts/dashboards.py; run `make generate`", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
