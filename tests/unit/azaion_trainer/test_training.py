"""Real ultralytics trainings on the CPU: stopped anywhere, they end with the weights of one that never stopped."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import msgspec
import pytest
from trainer_make import (
    UID,
    RecordingStop,
    dataset_status,
    draw_scenes,
    newest_state,
    no_progress,
    request,
    spec,
    stage_context,
    storage_tree,
    task,
)

from azaion_api.layout import Layout
from azaion_api.names import JobStage
from azaion_api.report import TrainingProgress
from azaion_trainer.failures import (
    BadDataError,
    BadSpecError,
    LossNotFiniteError,
    PreemptionError,
    StorageFullError,
)
from azaion_trainer.forming import form, status_of
from azaion_trainer.stage import StageContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Two batches an optimizer step, so that a stop falls between them; the last epoch closes the mosaic.
PARAMETERS = {"nbs": "16", "close_mosaic": "1", "warmup_epochs": "1", "lr0": "0.01", "optimizer": "SGD", "mixup": "0.3"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A storage with a formed data set: 28 training images, so that an epoch ends with a short batch of 4."""
    layout = storage_tree(tmp_path_factory.mktemp("training") / "azaion")
    draw_scenes(layout, 40)
    form(layout, request(), no_progress)
    return layout


def context_of(
    layout: Layout, name: str, stop: RecordingStop | None = None, batch: int | None = None, **training: Any
) -> StageContext:
    """An attempt of the run `name`."""
    formed = form(layout, request(), no_progress)
    values = {"epochs": 3, "parameters": PARAMETERS, **training}
    run_task = task(
        JobStage.TRAIN,
        spec(**values),
        run=name,
        directory=f"runs/{name}-{UID[:8]}",
        dataset=status_of(layout, formed),
        batch=batch,
    )
    return stage_context(layout, run_task, stop)


def train(context: StageContext) -> str:
    from azaion_trainer.train import train as work

    return work(context)


def after_looks(count: int) -> Callable[[], bool]:
    """True from the `count`-th time on that the training looks whether it has to stop."""
    looks = iter(range(1, 10_000))
    return lambda: next(looks) >= count


def progress(context: StageContext) -> TrainingProgress:
    found = context.report.current.training
    assert found is not None
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ, tensors compared bit by bit."""
    import torch

    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{where}: keys"]
        return keys + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{where}/{key}")
        ]
    if isinstance(one, list):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if one == other else [where]


@pytest.fixture(scope="module")
def uninterrupted(scenes: Layout) -> StageContext:
    context = context_of(scenes, "whole")
    assert train(context).startswith("trained 3 epochs")
    return context


def test_a_whole_training_reports_every_epoch_and_leaves_verified_files(
    scenes: Layout, uninterrupted: StageContext
) -> None:
    found = progress(uninterrupted)
    assert (found.completed_epochs, found.epochs, found.first_epoch, found.batch) == (3, 3, 0, 8)
    assert [row.epoch for row in found.history] == [1, 2, 3]
    assert all(row.seconds > 0 and row.train_loss for row in found.history)
    assert found.loss_finite
    assert {"train/box_loss", "train/cls_loss", "val/box_loss"} <= set(found.losses)
    assert found.learning_rate is not None
    assert found.f1 is not None
    assert found.best_epoch in {1, 2, 3}
    assert found.checkpoint is not None
    assert (found.checkpoint.epoch, found.checkpoint.images_seen) == (3, 0)
    saved = scenes.root / found.checkpoint.path
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == found.checkpoint.sha256
    (model,) = uninterrupted.report.current.models
    assert (model.role, model.path) == ("trained", f"runs/whole-{UID[:8]}/train/weights/best.pt")
    names = {path.name for path in (uninterrupted.run.train / "weights").iterdir()}
    assert names == {"best.pt", "last.pt", "epoch1.pt", "epoch2.pt", "epoch3.pt"}
    assert (uninterrupted.run.train / "results.png").stat().st_size > 10_000
    assert len((uninterrupted.run.train / "results.csv").read_text().splitlines()) == 4
    assert sorted(path.name for path in uninterrupted.run.checkpoints.iterdir()) == [
        "state-000002.pt",
        "state-000002.pt.sha256",
        "state-000003.pt",
        "state-000003.pt.sha256",
    ]


def test_of_the_epoch_checkpoints_the_best_the_last_two_and_every_k_th_stay(scenes: Layout) -> None:
    context = context_of(scenes, "kept", epochs=8, save_period=3)
    train(context)
    best = progress(context).best_epoch
    found = {int(path.stem.removeprefix("epoch")) for path in (context.run.train / "weights").glob("epoch*.pt")}
    assert found == {3, 6, 7, 8, best}


#: An epoch looks 6 times: after each of 4 batches, when validation begins, after its one batch.
@pytest.mark.parametrize(
    ("stops", "where"),
    [
        ((3,), "in the middle of an epoch, between two batches of one optimizer step"),
        ((5,), "when validation begins"),
        ((12, 2), "at the end of the second epoch, then in the last, its mosaic closed"),
        ((1, 1, 1), "after every batch"),
    ],
)
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    scenes: Layout, uninterrupted: StageContext, stops: tuple[int, ...], where: str
) -> None:
    name = "stop-" + "-".join(map(str, stops))
    for looks in stops:
        attempt = context_of(scenes, name, RecordingStop(after_looks(looks)))
        with pytest.raises(PreemptionError):
            train(attempt)
        assert progress(attempt).checkpoint is not None
    last = context_of(scenes, name)
    train(last)
    expected, found = newest_state(uninterrupted), newest_state(last)
    for part in ("model", "ema", "optimizer", "scaler", "ema_updates", "since_step", "gradients", "stopper"):
        assert differences(expected[part], found[part], part) == [], where
    assert progress(last).resumed.startswith("resumed from state-")
    assert [row.epoch for row in progress(last).history] == [1, 2, 3]
    kept = [row.map50to95 for row in progress(last).history]
    assert kept == [row.map50to95 for row in progress(uninterrupted).history]
    csv = (last.run.train / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in csv[1:]] == ["1", "2", "3"]


def test_our_loop_trains_as_ultralytics_own_does_on_the_same_batches(scenes: Layout) -> None:
    """Whoever raises the ultralytics version learns here when its loop has changed."""
    from ultralytics.engine.trainer import BaseTrainer

    from azaion_trainer import train as stage
    from azaion_trainer.checkpoints import CheckpointStore, Search
    from azaion_trainer.dataset import open_data_set
    from azaion_trainer.trainer import RunTrainer, TrainingSetup

    class TheirLoop(RunTrainer):
        _do_train = BaseTrainer._do_train

    training = {"parameters": {**PARAMETERS, "close_mosaic": "0"}, "epochs": 2}
    ours = context_of(scenes, "ours", **training)
    train(ours)
    theirs = context_of(scenes, "theirs", **training)
    described = theirs.task.dataset
    assert described is not None
    trainer = TheirLoop(
        TrainingSetup(
            arguments=stage._arguments(theirs, open_data_set(scenes, described.path)),
            digest="",
            store=CheckpointStore(theirs.run.checkpoints),
            listener=stage.ReportingListener(theirs, Search(None, ())),
            heart=theirs.heart,
            stop=theirs.stop,
            checkpoint_interval_s=900,
            keep_period=1,
        )
    )
    trainer.train()
    state = newest_state(ours)
    assert differences(dict(trainer.model.state_dict()), state["model"], "model") == []
    assert differences(dict(trainer.ema.ema.state_dict()), state["ema"], "ema") == []


def test_the_installed_ultralytics_has_the_loop_ours_was_written_after() -> None:
    import inspect

    from ultralytics.engine.trainer import BaseTrainer

    source = inspect.getsource(BaseTrainer._do_train) + inspect.getsource(BaseTrainer.resume_training)
    assert hashlib.sha256(source.encode()).hexdigest() == (
        "f3df9a67a5afc331a195d0cfe3007fd28fdc6e989e95e496ae1c22945f99830b"
    ), "ultralytics' training loop has changed: carry the change into azaion_trainer.trainer, then mend this digest"


def test_a_finished_training_that_is_started_again_is_done_at_once(scenes: Layout, uninterrupted: StageContext) -> None:
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.run.checkpoints.iterdir()}
    again = context_of(scenes, "whole")
    assert train(again).startswith("trained 3 epochs")
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.run.checkpoints.iterdir()} == before
    assert again.report.current.models == uninterrupted.report.current.models
    assert progress(again).completed_epochs == 3


def test_more_epochs_go_on_from_the_end_with_the_new_schedule(scenes: Layout, uninterrupted: StageContext) -> None:
    shutil.copytree(uninterrupted.run.root, scenes.runs / f"longer-{UID[:8]}")
    longer = context_of(scenes, "longer", epochs=4)
    assert train(longer).startswith("trained 4 epochs")
    found = progress(longer)
    assert (found.first_epoch, found.completed_epochs, found.epochs) == (3, 4, 4)
    # lf(3) of four epochs, linear from lr0 to lr0 * lrf
    assert found.learning_rate == pytest.approx(0.01 * ((1 - 3 / 4) * 0.99 + 0.01), rel=1e-6)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(scenes: Layout, uninterrupted: StageContext) -> None:
    shutil.copytree(uninterrupted.run.root, scenes.runs / f"damaged-{UID[:8]}")
    damaged = context_of(scenes, "damaged")
    newest = damaged.run.checkpoints / "state-000003.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    train(damaged)
    assert progress(damaged).resumed == (
        "resumed from state-000002.pt; "
        "skipped state-000003.pt: its digest does not match, so it is truncated or damaged"
    )
    expected = newest_state(uninterrupted)
    assert differences(expected["model"], newest_state(damaged)["model"], "model") == []


def test_a_smaller_batch_goes_on_with_the_images_not_seen_yet(scenes: Layout) -> None:
    first = context_of(scenes, "smaller", RecordingStop(after_looks(2)))
    with pytest.raises(PreemptionError):
        train(first)
    checkpoint = progress(first).checkpoint
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.images_seen) == (0, 16)
    second = context_of(scenes, "smaller", RecordingStop(after_looks(2)), batch=4)
    with pytest.raises(PreemptionError):
        train(second)
    checkpoint = progress(second).checkpoint
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.images_seen) == (0, 24)
    assert progress(second).batch == 4


def test_another_run_is_taken_over_on_purpose_and_only_read(scenes: Layout, uninterrupted: StageContext) -> None:
    source = uninterrupted.task.directory
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (scenes.root / source).rglob("*")}
    heir = context_of(scenes, "heir", resume_from=source, epochs=4)
    train(heir)
    assert progress(heir).first_epoch == 3
    assert progress(heir).completed_epochs == 4
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in (scenes.root / source).rglob("*")}
    assert after == before


def test_a_directory_without_checkpoints_cannot_be_taken_over(scenes: Layout) -> None:
    (scenes.runs / "empty").mkdir(exist_ok=True)
    with pytest.raises(BadSpecError, match="runs/empty holds no checkpoint that can be used"):
        train(context_of(scenes, "heir-of-nothing", resume_from="runs/empty"))
    with pytest.raises(BadSpecError, match="runs/nowhere is not there"):
        train(context_of(scenes, "heir-of-nobody", resume_from="runs/nowhere"))


def test_a_loss_that_is_not_finite_ends_the_attempt_and_keeps_the_last_good_checkpoint(
    scenes: Layout, uninterrupted: StageContext
) -> None:
    import torch

    base = torch.load(uninterrupted.run.train / "weights" / "best.pt", weights_only=False)
    base["model"].model[0].conv.weight.data.fill_(float("nan"))
    torch.save(base, scenes.models / "broken.pt")
    context = context_of(scenes, "diverged", base="broken.pt")
    with pytest.raises(LossNotFiniteError, match="loss of epoch 1 is not finite"):
        train(context)
    assert not context.run.checkpoints.exists()


def test_a_training_pauses_at_its_checkpoint_when_the_volume_gets_full_and_goes_on_afterwards(
    scenes: Layout, uninterrupted: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = shutil.disk_usage(scenes.root)
    # There is room when the training begins, and none any more at its first checkpoint.
    free = chain([500 << 30], repeat(60 << 30))
    with monkeypatch.context() as filling:
        filling.setattr(shutil, "disk_usage", lambda _path: volume._replace(total=1000 << 30, free=next(free)))
        context = context_of(scenes, "cramped")
        with pytest.raises(StorageFullError, match=r"only 60\.0 GiB of the volume are free.* once 100\.0 GiB are"):
            train(context)
    checkpoint = progress(context).checkpoint
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.images_seen) == (1, 0)
    again = context_of(scenes, "cramped")
    train(again)
    assert differences(newest_state(uninterrupted)["model"], newest_state(again)["model"], "model") == []


def test_a_published_model_serves_as_base(scenes: Layout, uninterrupted: StageContext) -> None:
    shutil.copy(uninterrupted.run.train / "weights" / "best.pt", scenes.models / "base.pt")
    assert train(context_of(scenes, "based", base="base.pt", epochs=1)).startswith("trained 1 epochs")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"base": "yolo26m.pt"},
            r"yolo26m\.pt is not in models/; put it there with `azaion-trainer add-model",
        ),
        ({"base": "Current"}, "the line has no current model yet"),
        ({"parameters": {"mosaic": "1.5"}}, r"training\.parameters: 'mosaic=1\.5' is an invalid value"),
        ({"parameters": {"lr0": "x"}}, r"training\.parameters\.lr0 is 'x'"),
    ],
)
def test_a_bad_spec_is_said_before_anything_is_trained(scenes: Layout, training: dict[str, Any], message: str) -> None:
    context = context_of(scenes, "bad", **training)
    with pytest.raises(BadSpecError, match=message):
        train(context)


def test_a_base_model_that_is_no_model_is_refused_with_its_name(scenes: Layout) -> None:
    (scenes.models / "junk.pt").write_text("this is no checkpoint\n")
    with pytest.raises(BadSpecError, match=r"models/junk\.pt cannot be used: the file is no PyTorch checkpoint"):
        train(context_of(scenes, "junk", base="junk.pt"))


def test_a_data_set_with_other_classes_is_refused(scenes: Layout, uninterrupted: StageContext) -> None:
    other = scenes.datasets / "other"
    shutil.copytree(form(scenes, request(), no_progress).path, other)
    data = (other / "data.yaml").read_text().replace("disc", "moon")
    (other / "data.yaml").write_text(data)
    context = context_of(scenes, "whole")
    changed = msgspec.structs.replace(context.task, dataset=dataset_status("datasets/other"))
    with pytest.raises(BadSpecError, match="they have other names"):
        train(stage_context(scenes, changed))


def test_a_lower_learning_rate_is_kept_by_the_attempts_that_follow(scenes: Layout) -> None:
    first = context_of(scenes, "slower", RecordingStop(after_looks(8)))
    with pytest.raises(PreemptionError):
        train(first)
    slower = msgspec.structs.replace(context_of(scenes, "slower").task, learning_rate_factor=0.5)
    second = stage_context(scenes, slower, RecordingStop(after_looks(8)))
    with pytest.raises(PreemptionError):
        train(second)
    third = stage_context(scenes, slower)
    train(third)
    # lf(2) of three epochs, linear from lr0 to lr0 * lrf, halved once.
    assert progress(third).learning_rate == pytest.approx(0.5 * 0.01 * ((1 - 2 / 3) * 0.99 + 0.01), rel=1e-6)
    rates = [row.learning_rate for row in progress(third).history]
    assert rates[1] is not None
    assert rates[1] == pytest.approx(0.5 * 0.01 * ((1 - 1 / 3) * 0.99 + 0.01), rel=1e-6)


def test_when_the_budget_is_spent_the_best_model_so_far_is_made_ready(scenes: Layout) -> None:
    first = context_of(scenes, "spent", RecordingStop(after_looks(8)))
    with pytest.raises(PreemptionError):
        train(first)
    last = msgspec.structs.replace(context_of(scenes, "spent").task, wrap_up=True)
    context = stage_context(scenes, last)
    assert train(context) == "trained 1 epochs, the best was epoch 1"
    (model,) = context.report.current.models
    assert model.path.endswith("/train/weights/best.pt")
    assert progress(context).completed_epochs == 1
    import torch

    assert torch.load(scenes.root / model.path, weights_only=False)["optimizer"] is None


def test_without_any_checkpoint_a_spent_budget_leaves_no_model(scenes: Layout) -> None:
    task_ = msgspec.structs.replace(context_of(scenes, "nothing").task, wrap_up=True)
    with pytest.raises(BadDataError, match="there is no checkpoint that can be used"):
        train(stage_context(scenes, task_))


def test_a_smoke_run_trains_one_epoch_of_two_batches_and_foretells_the_long_run(scenes: Layout) -> None:
    base = context_of(scenes, "smoke", epochs=50, batch=4)
    context = stage_context(
        scenes, msgspec.structs.replace(base.task, spec=msgspec.structs.replace(base.task.spec, smoke=True))
    )
    assert train(context) == "trained 1 epochs, the best was epoch 1"
    found = progress(context)
    assert (found.completed_epochs, found.epochs) == (1, 1)
    linked = sorted(path.parent.parent.name for path in (context.run.root / "smoke").rglob("*.jpg"))
    assert linked == ["test"] * 4 + ["train"] * 8 + ["valid"] * 8
    plan = context.report.current.plan
    assert plan is not None
    assert plan.batches_per_epoch == 7
    assert plan.training_seconds >= round(50 * 7 * float(plan.seconds_per_batch))
