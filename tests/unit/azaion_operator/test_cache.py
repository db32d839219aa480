"""What the watches have shown, and how a full LIST mends it."""

from __future__ import annotations

from typing import Any

import make
import msgspec
import pytest

from azaion_api.health import Check, HealthReport
from azaion_api.names import JobStage, Kind
from azaion_api.report import FoundModel
from azaion_api.resources import ModelLine, TrainingRun
from azaion_operator.cache import Cache, Key
from azaion_operator.curves import MAX_POINTS
from azaion_operator.device_queue import Turn
from azaion_operator.objects import CONFIG_MAPS, INGESTS, JOBS, LINES, PODS, RUNS, Broken
from azaion_operator.observe import Observer

RUN = Key(Kind.TRAINING_RUN, "run-1")
LINE = Key(Kind.MODEL_LINE, "azaion")


class Marked(Cache):
    """A cache that remembers what it marked."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        super().__init__(self.keys.append)

    def take(self) -> list[Key]:
        found, self.keys[:] = list(self.keys), []
        return found


@pytest.fixture
def cache() -> Marked:
    return Marked()


def metadata(name: str, version: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), **fields}


def raw_run(name: str = "run-1", version: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "TrainingRun",
        "metadata": metadata(name, version, creationTimestamp="2026-11-22T12:00:00Z"),
        "spec": {},
        **fields,
    }


def raw_job(version: int = 1, *, device: bool = True, name: str = "run-1-train-1") -> dict[str, Any]:
    labels = {"azaion.com/training-run": "run-1", **({"azaion.com/device": "true"} if device else {})}
    return {"metadata": metadata(name, version, labels=labels)}


def raw_pod(version: int = 1, **status: Any) -> dict[str, Any]:
    labels = {"azaion.com/training-run": "run-1", "azaion.com/device": "true"}
    return {"metadata": metadata("run-1-train-1-x", version, labels=labels), "status": {"phase": "Running", **status}}


def raw_reports(version: int, **data: str) -> dict[str, Any]:
    labels = {"azaion.com/training-run": "run-1"}
    return {"metadata": metadata("run-1-run-report", version, labels=labels), "data": data}


def report(sequence: int, *, number: int = 1, **fields: Any) -> str:
    return msgspec.json.encode(make.report(JobStage.TRAIN, number, sequence=sequence, **fields)).decode()


def test_an_event_marks_the_owner_and_a_repeated_one_does_not(cache: Marked) -> None:
    cache.observe(RUNS, raw_run())
    assert cache.take() == [RUN, LINE]
    cache.observe(RUNS, raw_run())
    assert cache.take() == []
    cache.observe(JOBS, raw_job())
    assert cache.take() == [RUN]


def test_an_older_state_never_replaces_a_newer_one(cache: Marked) -> None:
    cache.observe(JOBS, {**raw_job(9), "status": {"active": 1}})
    cache.observe(JOBS, raw_job(10))
    cache.observe(JOBS, {**raw_job(9), "status": {"active": 1}})
    job = cache.jobs.get("run-1-train-1")
    assert job is not None
    assert job.status.active == 0


def test_versions_are_compared_as_numbers(cache: Marked) -> None:
    cache.observe(JOBS, raw_job(99))
    cache.observe(JOBS, {**raw_job(100), "status": {"active": 1}})
    job = cache.jobs.get("run-1-train-1")
    assert job is not None
    assert job.status.active == 1


def test_a_deleted_pod_is_kept_with_its_last_state_until_its_end_is_recorded(cache: Marked) -> None:
    cache.observe(PODS, raw_pod(1))
    cache.observe(PODS, raw_pod(2, phase="Failed"), deleted=True)
    assert [(p.gone, p.status.phase) for p in cache.pods.owned(RUN)] == [(True, "Failed")]
    cache.forget_gone_pods(RUN, but={"uid-run-1-train-1-x"})
    assert len(cache.pods) == 1
    cache.forget_gone_pods(RUN)
    assert len(cache.pods) == 0


def test_a_late_deletion_does_not_remove_what_was_made_anew(cache: Marked) -> None:
    anew = raw_job(8)
    anew["metadata"]["uid"] = "anew"
    cache.observe(JOBS, anew)
    cache.observe(JOBS, raw_job(7), deleted=True)
    assert len(cache.jobs) == 1


def test_a_list_replaces_the_cache_and_counts_what_was_wrong(cache: Marked) -> None:
    cache.observe(RUNS, raw_run("gone", 3))
    cache.observe(RUNS, raw_run("same", 4))
    cache.observe(RUNS, raw_run("changed", 5))
    cache.take()
    wrong = cache.replace(RUNS, [raw_run("same", 4), raw_run("changed", 6), raw_run("new", 7)], "8")
    assert wrong == 2
    assert {r.metadata.name for r in cache.runs} == {"same", "changed", "new"}
    assert {k.name for k in cache.take() if k.kind is Kind.TRAINING_RUN} == {"gone", "changed", "new"}


def test_a_list_that_was_under_way_during_a_deletion_does_not_bring_the_object_back(cache: Marked) -> None:
    cache.observe(JOBS, raw_job(5))
    cache.observe(JOBS, raw_job(6), deleted=True)
    cache.replace(JOBS, [raw_job(5)], "5", device=True)
    assert len(cache.jobs) == 0
    anew = raw_job(9)
    anew["metadata"]["uid"] = "anew"
    cache.observe(JOBS, anew)
    assert len(cache.jobs) == 1


def test_a_version_that_a_creation_was_answered_with_and_that_is_not_the_objects_is_mended_by_a_list(
    cache: Marked,
) -> None:
    cache.observe(LINES, {"metadata": metadata("azaion", 7), "spec": {}})
    cache.observe(LINES, {"metadata": metadata("azaion", 5), "spec": {}})
    cache.take()
    assert cache.replace(LINES, [{"metadata": metadata("azaion", 5), "spec": {}}], "6") == 0
    line = cache.lines.get("azaion")
    assert line is not None
    assert line.metadata.resource_version == "7", "it may have been written after the LIST"
    assert cache.replace(LINES, [{"metadata": metadata("azaion", 5), "spec": {}}], "8") == 1
    line = cache.lines.get("azaion")
    assert line is not None
    assert line.metadata.resource_version == "5"
    assert LINE in cache.take()


def test_what_is_newer_than_a_list_stays(cache: Marked) -> None:
    cache.observe(RUNS, raw_run("made-after-the-list", 9))
    assert cache.replace(RUNS, [], "8") == 0
    assert len(cache.runs) == 1


def test_a_list_of_the_device_leaves_other_jobs_alone(cache: Marked) -> None:
    cache.observe(JOBS, raw_job(1))
    cache.observe(JOBS, raw_job(2, device=False, name="run-1-publish-1"))
    cache.replace(JOBS, [], "8", device=True)
    assert [j.metadata.name for j in cache.jobs] == ["run-1-publish-1"]


def test_an_object_that_cannot_be_read_is_kept_as_broken(cache: Marked) -> None:
    cache.observe(RUNS, raw_run(spec={"training": {"epochs": "many"}}))
    found = cache.runs.get("run-1")
    assert isinstance(found, Broken)
    assert found.problem == "Expected `int`, got `str` - at `$.spec.training.epochs`"
    assert cache.take() == [RUN]
    assert list(cache.unfinished_runs()) == []
    cache.observe(RUNS, raw_run(version=2))
    assert isinstance(cache.runs.get("run-1"), TrainingRun)


def test_garbage_in_a_report_is_passed_over_and_the_last_good_one_stays(cache: Marked) -> None:
    cache.observe(CONFIG_MAPS, raw_reports(1, **{"train.json": report(3)}))
    cache.observe(CONFIG_MAPS, raw_reports(2, **{"train.json": "{nonsense", "prepare.json": '{"version": 99}'}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    assert {uid: r.sequence for uid, r in found.by_pod.items()} == {"pod-train-1": 3}


@pytest.mark.parametrize(("next_report", "sequence"), [(report(4), 4), (report(3), 3), (report(2), 3)])
def test_of_one_pod_only_rising_sequences_count(cache: Marked, next_report: str, sequence: int) -> None:
    cache.observe(CONFIG_MAPS, raw_reports(1, **{"train.json": report(3)}))
    cache.observe(CONFIG_MAPS, raw_reports(2, **{"train.json": next_report}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    assert found.by_pod["pod-train-1"].sequence == sequence


def test_a_container_that_was_started_again_is_heard_although_its_clock_was_set_back(cache: Marked) -> None:
    cache.observe(CONFIG_MAPS, raw_reports(1, **{"train.json": report(3_600_000)}))
    cache.observe(CONFIG_MAPS, raw_reports(2, **{"train.json": report(5, process="second")}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    assert found.by_pod["pod-train-1"].sequence == 5


def test_a_stranger_in_between_does_not_bring_back_old_news(cache: Marked) -> None:
    for version, text in enumerate((report(3), report(99, number=7), "}garbage{", report(2)), start=1):
        cache.observe(CONFIG_MAPS, raw_reports(version, **{"train.json": text}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    assert {uid: r.sequence for uid, r in found.by_pod.items()} == {"pod-train-1": 3, "pod-train-7": 99}


def test_histories_are_not_kept_in_memory(cache: Marked) -> None:
    history = [{"epoch": n, "seconds": 1.0} for n in range(1000)]
    text = report(1, training=msgspec.convert({"history": history, "completedEpochs": 7}, type(make.training())))
    cache.observe(CONFIG_MAPS, raw_reports(1, **{"train.json": text}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    training = found.by_pod["pod-train-1"].training
    assert training is not None
    assert (training.history, training.completed_epochs) == ((), 7)


def test_a_curve_is_kept_of_the_history_and_outlives_reports_without_one(cache: Marked) -> None:
    history = [{"epoch": n, "seconds": 1.0, "map50to95": n / 3000} for n in range(1, 1001)]
    text = report(1, training=msgspec.convert({"history": history}, type(make.training())))
    cache.observe(CONFIG_MAPS, raw_reports(1, **{"train.json": text}))
    cache.observe(CONFIG_MAPS, raw_reports(2, **{"train.json": report(2, number=2)}))
    found = cache.reports.get("run-1-run-report")
    assert found is not None
    assert found.curve is not None
    assert len(found.curve) <= MAX_POINTS
    assert (found.curve.epochs[0], found.curve.epochs[-1]) == (1, 1000)


def health_map(version: int, *names: str) -> dict[str, Any]:
    checks = tuple(Check(name=name) for name in names)
    data = {"health.json": HealthReport(time=make.NOW, checks=checks).encode()}
    return {"metadata": metadata("azaion-health", version), "data": data}


def test_the_last_health_check_is_known_and_concerns_no_plan(cache: Marked) -> None:
    cache.observe(RUNS, raw_run())
    cache.take()
    cache.observe(CONFIG_MAPS, health_map(5, "Disk", "GPU"))
    cache.observe(CONFIG_MAPS, health_map(4, "Disk"))
    assert cache.health is not None
    assert [check.name for check in cache.health.checks] == ["Disk", "GPU"]
    assert cache.take() == []
    cache.observe(CONFIG_MAPS, {"metadata": metadata("azaion-health", 6), "data": {"health.json": "}garbage{"}})
    assert cache.health is None
    cache.observe(CONFIG_MAPS, health_map(7, "Disk"))
    cache.replace(CONFIG_MAPS, [], "9")
    assert cache.health is None


def storage_map(version: int, **fields: Any) -> dict[str, Any]:
    text = msgspec.json.encode(make.storage(sequence=version, **fields)).decode()
    return {"metadata": metadata("azaion-storage-report", version), "data": {"storage.json": text}}


def test_runs_that_wait_hear_of_the_storage(cache: Marked) -> None:
    cache.observe(RUNS, raw_run("pending", 1, status={"phase": "Pending"}))
    cache.observe(RUNS, raw_run("queued", 2, status={"phase": "Queued"}))
    cache.observe(RUNS, raw_run("done", 3, status={"phase": "Succeeded"}))
    cache.observe(CONFIG_MAPS, storage_map(4))
    cache.take()
    cache.observe(CONFIG_MAPS, storage_map(5, images={"data": 101}))
    assert [k.name for k in cache.take()] == ["pending"]
    cache.observe(CONFIG_MAPS, storage_map(6, images={"data": 101}, problems=("the disk is on fire",)))
    assert [k.name for k in cache.take()] == ["pending", "queued"]
    cache.observe(CONFIG_MAPS, storage_map(5))
    assert cache.storage is not None
    assert cache.storage.problems == ("the disk is on fire",)


def test_lines_hear_of_models_found_on_the_volume_and_see_their_own(cache: Marked) -> None:
    for version, (name, spec) in enumerate({"azaion": {}, "elsewhere": {"storage": {"claimName": "other"}}}.items(), 1):
        cache.observe(LINES, {"kind": "ModelLine", "metadata": metadata(name, version), "spec": spec})
    cache.observe(CONFIG_MAPS, storage_map(4))
    cache.take()
    models = tuple(FoundModel(line=line, record=make.record()) for line in ("azaion", "edge", "elsewhere"))
    cache.observe(CONFIG_MAPS, storage_map(5, models=models))
    assert {k.name for k in cache.take()} == {"azaion", "elsewhere"}
    cache.observe(CONFIG_MAPS, storage_map(6, models=models, images={"data": 7}))
    assert cache.take() == []
    observer = Observer(cache, make.SETTINGS)
    seen = {line.metadata.name: observer.line(line).found for line in cache.lines if isinstance(line, ModelLine)}
    assert seen == {"azaion": models[:1], "elsewhere": ()}, "nobody has looked at the other claim"


def test_a_number_of_a_line_is_given_once_even_if_its_run_is_deleted_before_the_line_knows(cache: Marked) -> None:
    observer = Observer(cache, make.SETTINGS)

    def next_number() -> int:
        return observer.run(make.run("later"), Turn(go=True, confirmed=True, place=1, waits_for="")).next_iteration

    assert next_number() == 1
    cache.observe(LINES, {"kind": "ModelLine", "metadata": metadata("azaion", 1)})
    cache.observe(RUNS, raw_run("first", 2, status={"phase": "Running", "iteration": 1}))
    cache.observe(RUNS, raw_run("first", 3, status={"phase": "Running", "iteration": 1}), deleted=True)
    assert next_number() == 2
    cache.observe(LINES, {"kind": "ModelLine", "metadata": metadata("azaion", 4)}, deleted=True)
    assert next_number() == 1, "a line that is made again counts from one"


def test_a_storage_report_that_is_gone_is_no_longer_believed(cache: Marked) -> None:
    cache.observe(CONFIG_MAPS, storage_map(4))
    cache.replace(CONFIG_MAPS, [], "9")
    assert cache.storage is None


def test_a_change_of_one_ingest_is_looked_at_by_all(cache: Marked) -> None:
    """Whoever came second takes over the directories when the first is gone."""
    for version, name in enumerate(("one", "two"), start=1):
        cache.observe(INGESTS, {"kind": "AnnotationIngest", "metadata": metadata(name, version)})
    cache.take()
    cache.observe(INGESTS, {"kind": "AnnotationIngest", "metadata": metadata("one", 5)}, deleted=True)
    assert {k.name for k in cache.take()} == {"one", "two"}


def test_a_lines_unfinished_runs_hear_of_its_change(cache: Marked) -> None:
    cache.observe(RUNS, raw_run())
    cache.observe(RUNS, raw_run("over", 2, status={"phase": "Failed"}))
    cache.observe(RUNS, raw_run("other", 3, spec={"lineRef": {"name": "other"}}))
    cache.take()
    cache.observe(LINES, {"kind": "ModelLine", "metadata": metadata("azaion", 4)})
    assert cache.take() == [LINE, RUN]
