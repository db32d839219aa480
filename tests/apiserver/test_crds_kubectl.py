"""What a person at kubectl sees: explanations, columns, names, and refusals in words."""

from __future__ import annotations

import re

import pytest
from real_api import Document, Namespace, RealApi, resource

from azaion_api.crd import DEFINITIONS, Definition
from azaion_api.names import Kind

RUN = Kind.TRAINING_RUN


def table(text: str) -> list[list[str]]:
    """Rows of `kubectl get`, which writes headings in capitals; columns are two spaces or more apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_explain_describes_a_training_in_sentences(api: RealApi) -> None:
    text = api.output("explain", "trainingrun.spec.training")
    assert "How the model is trained; the defaults are the founding values." in text
    fields = re.findall(r"^  (\w+)\t<([^>]+)>", text, re.MULTILINE)
    assert dict(fields) == {
        "batch": "Object",
        "checkpointIntervalSeconds": "integer",
        "device": "string",
        "epochs": "integer",
        "imageSize": "integer",
        "parameters": "map[string]string",
        "patience": "integer",
        "resumeFrom": "string",
        "savePeriod": "integer",
        "workers": "integer",
    }
    words = " ".join(text.split())
    assert "epochs <integer> Epochs in all. May be raised while the run trains. Defaults to 120." in words
    assert 'enum: GPU, CPU GPU asks for one nvidia.com/gpu; CPU asks for none. Defaults to "GPU".' in words
    assert "<no description>" not in text


@pytest.mark.parametrize("definition", DEFINITIONS, ids=[d.kind.value for d in DEFINITIONS])
def test_explain_leaves_no_field_of_ours_without_a_description(api: RealApi, definition: Definition) -> None:
    for part in ("", ".spec", ".status"):
        text = api.output("explain", f"{definition.kind.value.lower()}{part}", "--recursive=false")
        assert "<no description>" not in text, text
        assert "<empty>" not in text, text


def test_short_names_and_the_category_find_our_resources(namespace: Namespace) -> None:
    for kind, name in ((RUN, "full"), (Kind.ANNOTATION_INGEST, "annotations"), (Kind.MODEL_LINE, "azaion")):
        assert namespace.create(kind, name).status == 201

    def found(resources: str) -> list[str]:
        return namespace.api.output("-n", namespace.name, "get", resources, "-o", "name").split()

    assert found("tr") == ["trainingrun.azaion.com/full"]
    assert found("ingest") == ["annotationingest.azaion.com/annotations"]
    assert sorted(found("azaion")) == [
        "annotationingest.azaion.com/annotations",
        "modelline.azaion.com/azaion",
        "trainingrun.azaion.com/full",
    ]


def test_a_run_is_one_line_that_says_how_far_it_is(namespace: Namespace) -> None:
    assert namespace.create(RUN, "full").status == 201
    get = ("-n", namespace.name, "get", "tr")
    headings = ["NAME", "PHASE", "STAGE", "EPOCH", "MAP50-95", "ETA", "AGE"]
    fresh = table(namespace.api.output(*get))
    assert fresh[0] == headings
    assert fresh[1][0] == "full"
    assert len(fresh[1]) == 2, "nothing but the name and the age before the first pass"
    namespace.patch_status(
        RUN,
        "full",
        {
            "phase": "Running",
            "stage": "Training",
            "message": "epoch 31 of 120, 8 days left",
            "epochColumn": "30/120",
            "timeLeft": "8d14h",
            "metrics": {"map50to95": "0.4321"},
            "best": {"epoch": 29, "map50to95": "0.4400"},
            "dataset": {"path": "datasets/azaion-2026-01-31", "train": 252000, "valid": 72000, "test": 36000},
            "restarts": 2,
            "models": [
                {"role": "trained", "format": "PyTorch", "path": "runs/a/best.pt", "sha256": "0" * 64},
                {"role": "deployed", "format": "PyTorch", "path": "models/azaion-2026-01-31/azaion.pt", "sha256": "0"},
            ],
        },
    )
    (row,) = table(namespace.api.output(*get, "--no-headers"))
    assert row[:6] == ["full", "Running", "Training", "30/120", "0.4321", "8d14h"]
    assert re.fullmatch(r"\d+[sm]|\d+m\d+s", row[6])
    wide = table(namespace.api.output(*get, "-o", "wide"))
    assert wide[0] == [*headings, "BEST", "IMAGES", "RESTARTS", "MODEL", "MESSAGE"]
    assert wide[1][7:] == [
        "0.4400",
        "252000",
        "2",
        "models/azaion-2026-01-31/azaion.pt",
        "epoch 31 of 120, 8 days left",
    ]


def test_an_ingest_is_one_line_that_says_whether_it_keeps_up(namespace: Namespace) -> None:
    kind = Kind.ANNOTATION_INGEST
    assert namespace.create(kind, "annotations").status == 201
    namespace.patch_status(
        kind,
        "annotations",
        {
            "committedOffset": 41_234,
            "lag": 7,
            "imagesTotal": 360_000,
            "lastMessageTime": "2026-01-31T12:00:00Z",
            "message": "filing 12 messages a second",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Filing",
                    "lastTransitionTime": "2026-01-31T12:00:00Z",
                }
            ],
        },
    )
    found = table(namespace.api.output("-n", namespace.name, "get", "ingest", "-o", "wide"))
    assert found[0] == ["NAME", "READY", "OFFSET", "LAG", "IMAGES", "LAST-MESSAGE", "AGE", "MESSAGE"]
    assert found[1][:5] == ["annotations", "True", "41234", "7", "360000"]
    assert re.fullmatch(r"\d+[smhdy]\w*", found[1][5])
    assert found[1][7] == "filing 12 messages a second"


def test_a_line_is_one_line_that_names_its_current_model(namespace: Namespace) -> None:
    assert namespace.create(Kind.MODEL_LINE, "azaion").status == 201
    current = {
        "name": "azaion-2026-01-31",
        "path": "models/azaion-2026-01-31/azaion.pt",
        "sha256": "0" * 64,
        "run": "full",
        "runUid": "u",
        "time": "2026-01-31T12:00:00Z",
        "map50to95": "0.6123",
    }
    namespace.patch_status(Kind.MODEL_LINE, "azaion", {"current": current, "iteration": 4})
    found = table(namespace.api.output("-n", namespace.name, "get", "modellines"))
    assert found[0] == ["NAME", "CURRENT", "MAP50-95", "ITERATION", "SINCE"]
    assert found[1][:4] == ["azaion", "azaion-2026-01-31", "0.6123", "4"]


#: What is written, and how what kubectl says ends when it applies on its own and on the server's side.
MISTAKES: dict[str, tuple[Document, str, str]] = {
    "split": (
        {"dataset": {"split": {"train": 80}}},
        "spec.dataset.split: Invalid value: train 80, valid 20 and test 10 have to sum to 100 percent",
        "spec.dataset.split: Invalid value: train 80, valid 20 and test 10 have to sum to 100 percent",
    ),
    "epochs": (
        {"training": {"epochs": 0}},
        "spec.training.epochs: Invalid value: 0: spec.training.epochs in body should be greater than or equal to 1",
        "spec.training.epochs: Invalid value: 0: spec.training.epochs in body should be greater than or equal to 1",
    ),
    "unknown field": (
        {"training": {"epoch": 3}},
        'strict decoding error: unknown field "spec.training.epoch"',
        ".spec.training.epoch: field not declared in schema",
    ),
    "path": (
        {"model": {"base": "../yolo26m.pt"}},
        """spec.model.base: Invalid value: "../yolo26m.pt": name a file of models/ such as yolo26m.pt, an architecture \
such as yolo26n.yaml, or Current for the line's current model; no directories""",
        """spec.model.base: Invalid value: "../yolo26m.pt": name a file of models/ such as yolo26m.pt, an architecture \
such as yolo26n.yaml, or Current for the line's current model; no directories""",
    ),
}


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_after_kubectl_apply(
    namespace: Namespace, side: str, case: tuple[Document, str, str]
) -> None:
    spec, *sentences = case
    done = namespace.api.kubectl(
        "-n", namespace.name, "apply", f"--server-side={str(side == 'server').lower()}", "-f", "-",
        stdin=resource(RUN, "full", spec),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().endswith(sentences[side == "server"]), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_forbidden_change_is_one_sentence_after_kubectl_apply(namespace: Namespace, side: str) -> None:
    apply = ("-n", namespace.name, "apply", f"--server-side={str(side == 'server').lower()}", "-f", "-")
    namespace.api.output(*apply, stdin=resource(RUN, "full", {"queueName": "gpu"}))
    done = namespace.api.kubectl(*apply, stdin=resource(RUN, "full", {"queueName": "other"}))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'The TrainingRun "full" is invalid: spec.queueName: Forbidden: cannot change after creation; '
        "make a new TrainingRun (its training.resumeFrom takes over this run's checkpoints)"
    )


def test_one_field_is_enough_to_suspend_and_go_on(namespace: Namespace) -> None:
    assert namespace.create(RUN, "full").status == 201
    patch = ("-n", namespace.name, "patch", "tr", "full", "--type=merge", "-p")
    namespace.api.output(*patch, '{"spec":{"suspend":true}}')
    assert namespace.get(RUN, "full")["spec"]["suspend"] is True
    namespace.api.output(*patch, '{"spec":{"suspend":false}}')
    assert namespace.get(RUN, "full")["spec"]["suspend"] is False


def test_waiting_for_the_end_needs_no_other_tool(namespace: Namespace) -> None:
    assert namespace.create(RUN, "full").status == 201
    condition = {
        "type": "Finished",
        "status": "True",
        "reason": "Succeeded",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }
    namespace.patch_status(RUN, "full", {"conditions": [condition]})
    wait = ("-n", namespace.name, "wait", "--for=condition=Finished", "tr/full", "--timeout=20s")
    assert namespace.api.output(*wait) == "trainingrun.azaion.com/full condition met\n"
