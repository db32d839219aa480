"""The demo's own parts: what it publishes fits the run it applies, and what it shows is what is there."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from tests.demo.access import CommandError, DemoError, objects_in, output_of, stream_output, wait_for
from tests.demo.clusters import CHATTER, IMAGES, chart_version, load_command, missing_images
from tests.demo.progress import Foretold, RunView, fraction_done
from tests.demo.scenes import DIGITS, scene_names
from tests.demo.story import (
    RUN,
    SAMPLES,
    SCENES,
    demo_scenes,
    demo_spec,
    demo_values,
    document,
    finished_series,
    telling,
)
from tests.demo.terminal import Terminal, clock, table_row

from azaion_trainer.split import SplitPlan, assign, shares


def a_run(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": RUN}, "status": status}


def a_node(version: str = "v1.37.2", provider: str = "", images: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": "node-1"},
        "spec": {"providerID": provider} if provider else {},
        "status": {"nodeInfo": {"kubeletVersion": version}, "images": [{"names": [name]} for name in images]},
    }


def test_the_run_waits_for_just_as_many_pictures_as_the_demo_publishes() -> None:
    assert demo_spec().dataset.min_images == SCENES
    assert document(SAMPLES / "trainingrun-demo.yaml")["metadata"]["name"] == RUN


@pytest.mark.slow
def test_a_scene_is_made_of_the_originals_of_the_split_the_trainer_will_put_it_into() -> None:
    dataset = demo_spec().dataset
    splits = assign(scene_names(SCENES), SplitPlan(dataset.seed, dataset.split, dataset.group_by), {})
    assert {scene.name: scene.split for scene in demo_scenes()} == splits
    assert Counter(splits.values()) == shares(SCENES, dataset.split)


def test_the_chart_is_told_a_class_for_every_digit() -> None:
    assert [c["Id"] for c in demo_values()["classes"]] == list(DIGITS)


def test_a_line_is_shown_when_something_a_person_sees_changes_and_only_then() -> None:
    view = RunView()
    first = view.row(a_run(phase="Queued", message="waits"))
    assert first is not None
    assert first.split() == ["demo", "Queued", "waits"]
    assert view.row(a_run(phase="Queued", message="still waits", timeLeft="3m")) is None
    trained = a_run(
        phase="Running", stage="Training", epochColumn="2/20", metrics={"map50": "0.31234", "map50to95": "0.1"}
    )
    row = view.row(trained)
    assert row is not None
    assert row.split() == ["demo", "Running", "Training", "2/20", "0.312", "0.100"]
    assert view.row(trained) is None


def test_a_row_stands_below_its_header() -> None:
    view = RunView()
    row = view.row(a_run(phase="Running", stage="Training", epochColumn="12/20", message="trains"))
    assert row is not None
    assert row.index("Training") == view.header.index("STAGE")
    assert row.index("12/20") == view.header.index("EPOCH")
    assert row.index("trains") == view.header.index("MESSAGE")


def test_progress_goes_up_from_nothing_to_done() -> None:
    states = [
        a_run(),
        a_run(phase="Running", stage="Preparing", epochs=20),
        a_run(phase="Running", stage="Training", completedEpochs=10, epochs=20),
        a_run(phase="Running", stage="Evaluating", completedEpochs=20, epochs=20),
        a_run(phase="Running", stage="Publishing", completedEpochs=20, epochs=20),
        a_run(phase="Succeeded", completedEpochs=20, epochs=20),
    ]
    fractions = [fraction_done(state) for state in states]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_what_was_foretold_after_a_tenth_is_compared_with_what_it_took() -> None:
    now = [0.0]
    found = Foretold(lambda: now[0])
    for at, stage, completed, left in (
        (0, "Preparing", 0, 7),
        (10, "Training", 1, 999),
        (20, "Training", 2, 90),
        (30, "Training", 3, 80),
        (120, "Evaluating", 20, None),
        (500, "Publishing", 20, 3),
    ):
        now[0] = float(at)
        found.see(a_run(stage=stage, completedEpochs=completed, epochs=20, remainingSeconds=left))
    assert (found.said_s, found.took_s) == (90, 100)
    assert found.sentence == "after a tenth of the epochs it said 90 s more; it took 100 s (10% off)"
    assert Foretold().sentence == ""


def test_the_series_are_those_of_the_run_and_only_once_it_succeeded() -> None:
    text = "\n".join(
        (
            "# TYPE azaion_trainingrun_phase stateset",
            'azaion_trainingrun_phase{name="demo",phase="Running"} 0',
            'azaion_trainingrun_phase{name="demo",phase="Succeeded"} 1',
            'azaion_trainingrun_phase{name="other",phase="Succeeded"} 1',
            'azaion_annotationingest_lag{name="demo"} 0',
        )
    )
    assert finished_series(RUN, text) == text.splitlines()[1:3]
    assert finished_series(RUN, text.replace('"Succeeded"} 1', '"Succeeded"} 0')) is None


def test_the_series_that_are_shown_are_short_and_tell_something() -> None:
    labels = 'customresource_kind="TrainingRun",name="demo",namespace="azaion"'
    series = [
        f'azaion_trainingrun_phase{{{labels},phase="Running"}} 0',
        f'azaion_trainingrun_phase{{{labels},phase="Succeeded"}} 1',
        f"azaion_trainingrun_epoch{{{labels}}} 16",
        f"azaion_trainingrun_best_epoch{{{labels}}} 12",
    ]
    assert telling(series) == [
        'azaion_trainingrun_phase{name="demo",phase="Succeeded"} 1',
        'azaion_trainingrun_epoch{name="demo"} 16',
    ]


def test_images_the_node_has_are_not_missed() -> None:
    version = chart_version()
    there = tuple(f"docker.io/azaion/{name}:{version}" for name in IMAGES if name != "trainer")
    assert missing_images([a_node(images=there)], version) == [f"docker.io/azaion/trainer:{version}"]


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        (a_node(provider="kind://docker/azaion/azaion-control-plane"), ["load", "--kind", "azaion"]),
        (a_node(version="v1.37.2+k3s1"), ["load", "--k3s"]),
    ],
)
def test_images_get_onto_kind_and_k3s_each_in_its_way(node: dict[str, Any], wanted: list[str]) -> None:
    command = load_command(node)
    assert command is not None
    assert command[-len(wanted) :] == wanted


def test_a_node_that_is_neither_kind_nor_k3s_is_left_to_the_person() -> None:
    assert load_command(a_node()) is None


def test_a_stream_of_objects_is_read_one_by_one() -> None:
    wanted = [{"a": {"b": [1, 2]}}, {"c": "}"}]
    text = "".join(json.dumps(each, indent=4) + "\n" for each in wanted)
    assert list(objects_in(io.StringIO(text))) == wanted


def test_a_failed_command_is_named_with_its_last_words() -> None:
    with pytest.raises(CommandError, match="ended with 3: no such thing"):
        output_of(["sh", "-c", "echo no such thing >&2; exit 3"], {})
    lines: list[str] = []
    with pytest.raises(CommandError, match=r"(?s)ended with 4:.*second"):
        stream_output(["sh", "-c", "echo first; echo second; exit 4"], {}, lines.append)
    assert lines == ["first", "second"]


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(CommandError, match="is it installed"):
        output_of(["no-such-program-at-all"], {})


def test_a_wait_that_ends_in_vain_says_what_for_and_what_failed_last() -> None:
    def look() -> None:
        raise CommandError("kubectl said no")

    with pytest.raises(DemoError, match="still not so: pigs fly; last error: kubectl said no"):
        wait_for("pigs fly", look, timeout_s=0.05, every_s=0.01)


def test_steps_are_numbered_and_timed_also_when_they_fail() -> None:
    out = io.StringIO()
    terminal = Terminal(2, out)
    with terminal.step("one", "The first"):
        terminal.line("below")
        terminal.bar(0.5, "not drawn: no real terminal")
    with pytest.raises(DemoError), terminal.step("two", "The second"):
        raise DemoError("stopped")
    assert out.getvalue() == "\n[0:00] 1/2 The first\n        below\n        done in 0:00\n\n[0:00] 2/2 The second\n"
    assert list(terminal.seconds) == ["one", "two"]


def test_times_and_rows_read_well() -> None:
    assert (clock(0), clock(59.9), clock(247)) == ("0:00", "0:59", "4:07")
    assert table_row(("a", "", "message"), (3, 4)) == "a            message"


class ARealTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_real_terminal_a_bar_is_replaced_by_the_next_line() -> None:
    out = ARealTerminal()
    terminal = Terminal(1, out)
    terminal.bar(0.5, "half")
    terminal.line("done")
    assert out.getvalue() == f"\r\033[K        [{'#' * 15}{'.' * 15}]  50 %  half\r\033[K        done\n"


@pytest.mark.parametrize(
    ("line", "matters"),
    [
        ("building docker.io/azaion/operator:0.1.0 with buildah", True),
        ("docker.io/azaion/operator:0.1.0: 235 MB in 40 s", True),
        ("ERROR: no such package", True),
        ("[1/2] STEP 3/7: COPY crds crds", False),
        ("STEP 8/8: LABEL", False),
        ("--> Using cache", False),
        ("--> Using cache 91f5def059b38bb941c860e7b4b60938620c2420a599fa117136cc4fecdc3608", False),
        ("11bfea9f475989e2c0a0a0d0baf643ae369b4ded937e00412eb6c848fb6c2e51", False),
        ("#7 [2/5] RUN pip install", False),
    ],
)
def test_the_chatter_of_an_image_build_is_told_from_what_matters(line: str, matters: bool) -> None:
    assert (CHATTER.match(line) is None) is matters
