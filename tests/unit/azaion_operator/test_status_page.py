"""The status page: what it shows, that it escapes everything, and that it asks nobody."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import aiohttp
import make
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from make import NOW, ago

from azaion_api.annotation_ingest import AnnotationIngestStatus, IngestPhase
from azaion_api.health import Check, HealthReport, Outcome, Severity
from azaion_api.names import LABEL_RUN, JobStage, run_report
from azaion_api.report import EpochRow, Progress, RunReport
from azaion_api.resources import TrainingRun
from azaion_api.training_run import Attempt, EvaluationStatus, Phase, Stage, TrainingRunStatus, ValidationMetrics
from azaion_operator.cache import Cache
from azaion_operator.curves import MAX_POINTS, curve_of
from azaion_operator.device_queue import Queue
from azaion_operator.gpu import GpuReading, GpuWatch, parse_readings
from azaion_operator.objects import Broken, ObjectMeta, OwnerReference, Reports
from azaion_operator.status_page.charts import draw, epoch_axis, nice_axis
from azaion_operator.status_page.render import overview, run_page
from azaion_operator.status_page.server import StatusPage
from azaion_operator.status_page.view import PageView, RunCard, page_view

BASE = PageView(namespace="azaion", version="0.1.0", now=NOW)
ATTACK = "<script>alert(1)</script>\"'&"
VOID = {"meta", "link", "br", "input"}


def history(epochs: int) -> list[EpochRow]:
    return [
        EpochRow(epoch=n, seconds=60.0, train_loss=4 / n, map50=1 - 1 / n, map50to95=0.7 - 0.7 / n)
        for n in range(1, epochs + 1)
    ]


@pytest.fixture
def cache() -> Cache:
    return Cache(lambda _: None)


def put(cache: Cache, run: TrainingRun, epochs: int = 0, report: RunReport | None = None) -> None:
    cache.runs.put(run)
    owner = OwnerReference(kind="TrainingRun", name=run.metadata.name, uid=run.metadata.uid)
    meta = ObjectMeta(
        name=run_report(run.metadata.name),
        resource_version="1",
        labels={LABEL_RUN: run.metadata.name},
        owner_references=(owner,),
    )
    by_pod = {report.pod_uid: report} if report else {}
    cache.reports.put(Reports(metadata=meta, curve=curve_of(history(epochs)), by_pod=by_pod))


def trains(**fields: Any) -> TrainingRunStatus:
    return make.released(
        **{
            "stage": Stage.TRAINING,
            "message": "trains epoch 47 of 120",
            "completed_epochs": 46,
            "epochs": 120,
            "remaining_seconds": 7 * 86400 + 7200,
            "estimated_completion_time": NOW + timedelta(days=7, hours=2),
            "checkpoint": make.CHECKPOINT,
            "metrics": ValidationMetrics(map50="0.83", map50to95="0.57", train_loss="1.2"),
            "attempts": (Attempt(pod="p", pod_uid="pod-train-1", stage="train", number=1, started=ago(3600)),),
        }
        | fields
    )


def page(cache: Cache, queue: Queue | None = None, gpus: tuple[GpuReading, ...] = ()) -> str:
    return overview(page_view(cache, queue or Queue(), BASE, gpus)).decode()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


class Balanced(HTMLParser):
    """Fails on tags that do not match, and gathers identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag


def parsed(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)), "an id is given twice"
    return parser


def full(cache: Cache) -> None:
    """Something of everything."""
    report = make.report(JobStage.TRAIN, progress=Progress(fraction=0.39, activity="epoch 47 of 120"))
    put(cache, make.run("full", uid="u1", status=trains()), 46, report)
    queued = TrainingRunStatus(phase=Phase.QUEUED, message="place 1 in the queue: run full is at the device")
    put(cache, make.run("next", uid="u2", status=queued))
    failed = TrainingRunStatus(
        phase=Phase.FAILED, message="no image has a label", start_time=ago(900), completion_time=ago(600)
    )
    put(cache, make.run("broken", uid="u3", status=failed))
    done = TrainingRunStatus(
        phase=Phase.SUCCEEDED,
        completed_epochs=3,
        epochs=3,
        start_time=ago(9000),
        completion_time=ago(6000),
        evaluation=EvaluationStatus(new=make.SCORES, current=make.SCORES, images=10),
        attempts=(make.ended(JobStage.TRAIN),),
        models=(make.TRAINED,),
    )
    put(cache, make.run("older", uid="u4", status=done), 3)
    status = AnnotationIngestStatus(
        phase=IngestPhase.RUNNING, message="filed everything", lag=0, committed_offset=182311, images_total=104213
    )
    cache.ingests.put(make.ingest(status=status))
    cache.lines.put(make.line(make.record("azaion-2026-11-01"), make.record(run_uid="o"), iteration=7))
    cache.storage = make.storage(capacity_bytes=1 << 40, available_bytes=1 << 39)
    disk = Check(name="Disk", outcome=Outcome.FAILED, severity=Severity.CRITICAL, message="full", action="make room")
    cache.health = HealthReport(time=ago(60), checks=(Check(name="Operator", message="fine"), disk))


GPU = GpuReading("0", "NVIDIA GeForce RTX 4090", 0.97, 71.0, 21 * 2.0**30, 24 * 2.0**30, 402.0, 450.0, ("power",))
QUEUE = Queue(holder="full", line=("next",), places={"next": 1})


def test_the_page_tells_what_trains_what_waits_and_what_is_wrong(cache: Cache) -> None:
    full(cache)
    text = text_of(page(cache, QUEUE, (GPU,)))
    for words in (
        "46 of 120 epochs",
        "7d2h to go",
        "0.5700 mAP50-95",
        "just now epoch 3",
        "97 %",
        "71 °C",
        "402 W of 450 W, held back: power",
        "21.0 GiB of 24.0 GiB",
        "0 messages behind",
        "Offset 182 311",
        "512 GiB of 1.0 TiB free",
        "1 next Queued",
        "azaion 7 trainings",
        "Critical Disk: full make room",
        "1 thing needs attention",
        "broken Failed",
        "no image has a label",
    ):
        assert words in text, (words, text)


def test_every_page_is_well_formed_and_loads_only_its_own_files(cache: Cache) -> None:
    full(cache)
    view = page_view(cache, QUEUE, BASE, (GPU,))
    pages = [overview(view)] + [run_page(view, card) for card in (*view.running, *view.queued, *view.finished)]
    for html in pages:
        found = parsed(html.decode())
        loads = {value for _, name, value in found.attributes if name in ("src", "href")}
        assert all(value.startswith(("/", "#")) and not value.startswith("//") for value in loads), loads
        handlers = [name for _, name, _ in found.attributes if name.startswith("on") or name == "style"]
        assert handlers == [], "the policy forbids inline styles and handlers"


def test_nothing_a_person_or_a_pod_wrote_becomes_markup(cache: Cache) -> None:
    status = trains(message=ATTACK, attempts=(make.ended(JobStage.TRAIN, message=ATTACK),))
    put(cache, make.run("run-1", status=status), 3)
    cache.storage = make.storage(problems=(ATTACK,))
    cache.health = HealthReport(
        time=NOW,
        checks=(Check(name="Disk", outcome=Outcome.FAILED, severity=Severity.LOW, message=ATTACK, action=ATTACK),),
    )
    view = page_view(cache, Queue(), BASE, (GpuReading("0", ATTACK),))
    for html in (overview(view).decode(), run_page(view, view.running[0]).decode()):
        assert "alert(1)" in html
        assert "<script>alert" not in html
        assert not re.search(r'"[^"<>]*<script', html)
        parsed(html)


def test_an_empty_platform_says_how_to_begin(cache: Cache) -> None:
    text = text_of(page(cache))
    assert "Nothing is training." in text
    assert "kubectl apply -f samples/trainingrun.yaml" in text
    assert "Not checked yet" in text


def test_a_health_check_of_long_ago_is_said_to_be_old(cache: Cache) -> None:
    cache.health = HealthReport(time=ago(3600), checks=(Check(name="Operator"),))
    assert "No recent health check" in text_of(page(cache))


def test_the_run_page_compares_the_models_and_lists_the_attempts(cache: Cache) -> None:
    full(cache)
    view = page_view(cache, QUEUE, BASE, ())
    card = view.find("older")
    assert card is not None
    text = text_of(run_page(view, card).decode())
    assert "mAP50-95 0.7000 0.7000 +0.0000" in text
    assert "train 1 Completed" in text
    assert "runs/run-1-0a1b2c3d/train/weights/best.pt" in text
    assert "Figures of 3 epochs" in text


def test_a_stored_object_that_cannot_be_read_is_named(cache: Cache) -> None:
    cache.runs.put(Broken(metadata=ObjectMeta(name="odd", resource_version="1"), problem="x", raw={}))
    assert "TrainingRun odd: this operator does not know its shape" in text_of(page(cache))


def test_an_epoch_without_a_figure_shows_a_dash(cache: Cache) -> None:
    put(cache, make.run("run-1", status=trains()))
    rows = [EpochRow(epoch=1, seconds=1.0, train_loss=2.0), EpochRow(epoch=2, seconds=1.0)]
    card = RunCard(make.run("run-1", status=trains()), curve=curve_of(rows))
    text = text_of(run_page(page_view(cache, Queue(), BASE, ()), card).decode())
    assert "1 2.0000 – – 2 – – –" in text


def test_a_report_of_an_earlier_run_of_that_name_draws_no_curve(cache: Cache) -> None:
    put(cache, make.run("full", uid="old", status=trains()), 46)
    cache.runs.put(make.run("full", uid="new", status=trains(), version=2))
    card = page_view(cache, Queue(), BASE, ()).find("full")
    assert card is not None
    assert card.curve is None


# ---- curves ----


def test_a_curve_keeps_first_last_and_best_and_stays_small() -> None:
    rows = history(1000)
    rows[416] = msgspec.structs.replace(rows[416], map50to95=0.99)
    curve = curve_of(rows)
    assert curve is not None
    assert len(curve) <= MAX_POINTS
    assert (curve.epochs[0], curve.epochs[-1], max(curve.map50to95)) == (1, 1000, pytest.approx(0.99))
    assert curve_of([]) is None


def test_a_loss_that_was_not_finite_leaves_a_gap() -> None:
    curve = curve_of([EpochRow(epoch=1, seconds=1.0, train_loss=2.0), EpochRow(epoch=2, seconds=1.0)])
    assert curve is not None
    assert math.isnan(curve.train_loss[1])
    assert curve.points(curve.train_loss) == ((1, 2.0),)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 0.62, (0, 0.2, 0.4, 0.6, 0.8)),
        (1.1, 4.2, (1, 2, 3, 4, 5)),
        (0.012, 0.013, (0.0120, 0.01225, 0.0125, 0.01275, 0.0130)),
        (5, 5, (4.5, 4.75, 5, 5.25, 5.5)),
    ],
)
def test_axes_have_round_ticks_that_hold_every_value(low: float, high: float, ticks: tuple[float, ...]) -> None:
    axis = nice_axis(low, high)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.low <= low <= high <= axis.high + 1e-12


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 11, 13, 113, 119, 120, 1000, 9999])
def test_the_axis_of_epochs_has_whole_ticks(epochs: int) -> None:
    axis = epoch_axis(epochs)
    assert all(tick == int(tick) for tick in axis.ticks), axis
    assert epochs <= axis.high <= epochs + 3


def test_a_chart_stays_within_its_frame_and_says_itself_in_words() -> None:
    chart = draw("Validation mAP", [("map50", "mAP50", [(1, 0.0), (60, 1.0)])], 120, ratio=True)
    assert chart is not None
    assert chart.series[0].path == "M8.3,300L500,0"
    assert chart.summary == "Validation mAP: mAP50 went from 0.000 at epoch 1 to 1.000 at epoch 60"
    assert (chart.x_labels, chart.y_labels) == (
        ("0", "30", "60", "90", "120"),
        ("1.00", "0.75", "0.50", "0.25", "0.00"),
    )
    assert [hit.text for hit in chart.hits] == ["Epoch 1: mAP50 0.000", "Epoch 60: mAP50 1.000"]
    assert draw("x", [("map50", "mAP50", [])], 3, ratio=True) is None


def test_a_chart_of_one_epoch_can_be_drawn() -> None:
    chart = draw("Training loss", [("loss", "loss", [(1, 2.5)])], 4, ratio=False)
    assert chart is not None
    assert 0 < chart.series[0].end_y < 300


# ---- GPU ----

EXPOSITION = """# HELP azaion_gpu_info The cards.
azaion_gpu_driver_up 1.0
azaion_gpu_info{driver="590",gpu="0",model="NVIDIA GeForce RTX 4090",uuid="GPU-1"} 1.0
azaion_gpu_utilization_ratio{gpu="0"} 0.97
azaion_gpu_temperature_celsius{gpu="0"} 71.0
azaion_gpu_memory_used_bytes{gpu="0"} 2.2e+10
azaion_gpu_temperature_celsius{gpu="1"} NaN
azaion_gpu_throttled{gpu="0",reason="thermal"} 1.0
azaion_gpu_throttled{gpu="0",reason="power"} 0.0
process_cpu_seconds_total 1.0
azaion_gpu_power_watts{gpu="0"} nonsense
"""


def test_readings_come_from_the_exporters_text() -> None:
    assert parse_readings(EXPOSITION) == (
        GpuReading("0", "NVIDIA GeForce RTX 4090", 0.97, 71.0, memory_used_bytes=2.2e10, throttled=("thermal",)),
    )
    assert parse_readings("<html>no exporter</html>") == ()


def test_without_an_exporter_there_are_no_readings() -> None:
    assert GpuWatch(None).readings == ()


async def test_the_exporter_is_read_and_a_reading_grows_old() -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=EXPOSITION)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    now = 0.0
    async with TestServer(app) as exporter, aiohttp.ClientSession() as session:
        watch = GpuWatch(str(exporter.make_url("/metrics")), lambda: now)
        assert await watch.read(session) == ""
        assert [reading.model for reading in watch.readings] == ["NVIDIA GeForce RTX 4090"]
        assert "answered with 404" in await GpuWatch(str(exporter.make_url("/"))).read(session)
        now = 61.0
        assert watch.readings == ()
    async with aiohttp.ClientSession() as session:
        assert "cannot be read: ClientConnectorError" in await watch.read(session)


# ---- server ----


async def test_pages_are_served_with_a_policy_that_allows_nothing_from_elsewhere(cache: Cache) -> None:
    full(cache)
    status = StatusPage(lambda: page_view(cache, QUEUE, BASE, (GPU,)))
    async with TestClient(TestServer(status.application())) as client:
        for path, type_ in (
            ("/", "text/html"),
            ("/runs/full", "text/html"),
            ("/status.css", "text/css"),
            ("/status.js", "text/javascript"),
            ("/favicon.svg", "image/svg+xml"),
        ):
            answer = await client.get(path)
            assert (answer.status, answer.content_type) == (200, type_)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.post("/")).status == 405
        assert (await client.get("/runs/%3Cscript%3E")).status == 404
        assert "<script>" not in (await (await client.get("/runs/%3Cscript%3E")).text()).replace(
            '<script src="/status.js" defer></script>', ""
        )
        assert (await client.get("/metrics")).status == 404


async def test_many_tabs_are_served_by_one_rendering(cache: Cache) -> None:
    looks = []

    def look() -> PageView:
        looks.append(1)
        return page_view(cache, Queue(), BASE, ())

    now = 0.0
    async with TestClient(TestServer(StatusPage(look, lambda: now).application())) as client:
        for _ in range(5):
            assert (await client.get("/")).status == 200
        assert len(looks) == 1
        now = 2.0
        await client.get("/")
        assert len(looks) == 2
