"""What the API server makes of a TrainingRun: defaults, refusals with a sentence, and what may change later."""

from __future__ import annotations

from typing import Any

import pytest
from real_api import Document, Namespace, cases, resource

from azaion_api.names import Kind
from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS

RUN = Kind.TRAINING_RUN

FOUNDING: Document = {
    "lineRef": {"name": "azaion"},
    "model": {"base": "yolo26m.pt"},
    "dataset": {
        "source": "data",
        "split": {"train": 70, "valid": 20, "test": 10},
        "seed": 0,
        "groupBy": "Name",
        "classes": {"path": "classes.json"},
        "minImages": 1,
    },
    "training": {
        "epochs": 120,
        "batch": 11,
        "imageSize": 1280,
        "savePeriod": 1,
        "workers": 24,
        "patience": 100,
        "device": "GPU",
        "checkpointIntervalSeconds": 900,
    },
    "resources": {"requests": {"cpu": "1", "memory": "4Gi"}},
    "priority": 0,
    "storage": {},
    "suspend": False,
    "smoke": False,
    "budget": {"onExhausted": "Publish"},
    "recovery": {
        "maxRestarts": 10,
        "outOfMemory": {"minBatch": 1},
        "gpuGuard": {"enabled": True, "maxCelsius": 90, "resumeBelowCelsius": 75},
    },
    "evaluation": {"metric": "MAP50To95", "minGain": "0", "confidence": "0.9"},
    "export": {"formats": ["ONNX"], "imageSize": 1280},
    "publish": {
        "promotion": "IfBetter",
        "approved": False,
        "encryption": {"secretKeyRef": {"key": "key"}, "format": "GCM"},
        "notify": {"urlSecretRef": {"key": "url"}},
    },
}


@pytest.mark.parametrize("spec", [None, {}], ids=["no spec", "empty spec"])
def test_an_empty_run_is_a_full_training_with_the_founding_values(namespace: Namespace, spec: Document | None) -> None:
    assert namespace.create(RUN, "full", spec).object["spec"] == FOUNDING
    assert namespace.get(RUN, "full")["spec"] == FOUNDING


def test_a_field_that_is_given_leaves_its_neighbours_their_defaults(namespace: Namespace) -> None:
    found = namespace.create(RUN, "short", {"training": {"epochs": 3}, "dataset": {"split": {"train": 60, "test": 20}}})
    assert found.object["spec"] == {
        **FOUNDING,
        "training": {**FOUNDING["training"], "epochs": 3},
        "dataset": {**FOUNDING["dataset"], "split": {"train": 60, "valid": 20, "test": 20}},
    }


def test_a_field_set_to_nothing_has_its_default(namespace: Namespace) -> None:
    found = namespace.create(RUN, "short", {"training": {"epochs": None}, "dataset": None})
    assert found.object["spec"] == FOUNDING


ACCEPTED: dict[str, Document] = {
    "batch Auto": {"training": {"batch": "Auto"}},
    "the largest batch": {"training": {"batch": 4096}},
    "one epoch": {"training": {"epochs": 1}},
    "an architecture": {"model": {"base": "yolo26n.yaml"}},
    "the current model": {"model": {"base": "Current"}},
    "no test images": {"dataset": {"split": {"train": 80, "valid": 20, "test": 0}}},
    "an existing data set": {"dataset": {"existing": "datasets/azaion-2026-01-31"}},
    "an earlier run to go on from": {"training": {"resumeFrom": "runs/nightly-0b7a8d1e"}},
    "every allowed parameter": {
        "training": {
            "parameters": {
                name: {"int": "3", "float": "0.5", "bool": "true", "str": "x"}[kind]
                for name, kind in ALLOWED_PARAMETERS.items()
            }
        }
    },
    "numbers as people write them": {
        "training": {"parameters": {"lr0": "1e-3", "lrf": ".01", "momentum": "1.", "degrees": "-5", "amp": "False"}}
    },
    "a whole number as a quantity": {"resources": {"limits": {"cpu": 2, "memory": "8Gi", "nvidia.com/gpu": 1}}},
    "a fraction as a quantity": {"resources": {"requests": {"cpu": "0.5"}}},
    "no export": {"export": {"formats": []}},
    "a gain below nothing": {"evaluation": {"minGain": "-0.005", "confidence": "1"}},
    "a directory in another claim": {"storage": {"claimName": "disk-2", "subPath": "team-a/azaion"}},
    "what a scheduler needs": {
        "nodeSelector": {"kubernetes.io/hostname": "node-1", "empty": ""},
        "tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "only", "effect": "NoSchedule"}],
        "runtimeClassName": "nvidia",
        "priority": -5,
        "queueName": "gpu",
    },
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_is_accepted(dry_run: Namespace, spec: Document) -> None:
    assert dry_run.create(RUN, "run", spec, dry_run=True).status == 201


FOR_MODELS = (
    "name a file of models/ such as yolo26m.pt, an architecture such as yolo26n.yaml, or Current for the line's "
    "current model; no directories"
)
FOR_LINES = "use lower-case letters, digits and dashes, for example azaion; the current model is models/<name>.pt"
FOR_BATCHES = "has to be a number of images from 1 to 4096, or Auto to fit the GPU's memory"
FOR_DIRECTORIES = "name a directory at the top of the storage, for example data: letters, digits, - and _, no path"
FOR_SUB_PATHS = "name a directory inside the claim, for example team/azaion: no leading /, no .., no hidden directories"
FOR_RESUMING = "name the directory of an earlier run as its status.directory says it, for example runs/nightly-0b7a8d1e"
FOR_PARAMETERS = (
    "may not be set here: arguments with a field of their own (epochs, batch, imageSize, workers, patience, device, "
    "model.base) are set there, and those that run code, choose paths or belong to other tasks are refused; kubectl "
    "explain trainingrun.spec.training.parameters lists the allowed ones"
)
FOR_RESOURCES = (
    "name cpu or memory in requests or limits, or leave resources out for the defaults; a pod with neither is the "
    "first to be killed when memory is short"
)


def training(**fields: Any) -> Document:
    return {"training": fields}


#: What is written, the field and the sentence that come back.
REFUSED: list[tuple[Document, str, str]] = [
    (
        {"dataset": {"split": {"train": 80}}},
        "dataset.split",
        "train 80, valid 20 and test 10 have to sum to 100 percent",
    ),
    (
        {"dataset": {"split": {"train": 50, "valid": 20, "test": 20}}},
        "dataset.split",
        "train 50, valid 20 and test 20 have to sum to 100 percent",
    ),
    (
        {"dataset": {"split": {"train": 100, "valid": 0, "test": 0}}},
        "dataset.split",
        "train and valid need at least 1 percent each, training cannot do without them",
    ),
    ({"dataset": {"source": "../data"}}, "dataset.source", f'"../data": {FOR_DIRECTORIES}'),
    ({"dataset": {"source": "/data"}}, "dataset.source", f'"/data": {FOR_DIRECTORIES}'),
    (
        {"dataset": {"existing": "datasets/../models"}},
        "dataset.existing",
        '"datasets/../models": name a data set as datasets/NAME, for example datasets/azaion-2026-01-31',
    ),
    (
        {"dataset": {"existing": "azaion-2026-01-31"}},
        "dataset.existing",
        '"azaion-2026-01-31": name a data set as datasets/NAME, for example datasets/azaion-2026-01-31',
    ),
    (
        {"dataset": {"classes": {"path": "../classes.json"}}},
        "dataset.classes.path",
        '"../classes.json": name a .json file at the top of the storage, for example classes.json',
    ),
    (
        {"dataset": {"minImages": 0}},
        "dataset.minImages",
        "0: spec.dataset.minImages in body should be greater than or equal to 1",
    ),
    ({"model": {"base": "../yolo26m.pt"}}, "model.base", f'"../yolo26m.pt": {FOR_MODELS}'),
    ({"model": {"base": "models/yolo26m.pt"}}, "model.base", f'"models/yolo26m.pt": {FOR_MODELS}'),
    ({"model": {"base": "yolo26m.onnx"}}, "model.base", f'"yolo26m.onnx": {FOR_MODELS}'),
    ({"model": {"base": "current"}}, "model.base", f'"current": {FOR_MODELS}'),
    (training(epochs=0), "training.epochs", "0: spec.training.epochs in body should be greater than or equal to 1"),
    (
        training(epochs=10001),
        "training.epochs",
        "10001: spec.training.epochs in body should be less than or equal to 10000",
    ),
    (training(batch=0), "training.batch", f"0: {FOR_BATCHES}"),
    (training(batch=-1), "training.batch", f"-1: {FOR_BATCHES}"),
    (training(batch=4097), "training.batch", f"4097: {FOR_BATCHES}"),
    (training(batch="auto"), "training.batch", f'"auto": {FOR_BATCHES}'),
    (training(batch="11"), "training.batch", f'"11": {FOR_BATCHES}'),
    (training(batch="5x"), "training.batch", f'"5x": {FOR_BATCHES}'),
    (
        training(imageSize=1000),
        "training.imageSize",
        "1000: spec.training.imageSize in body should be a multiple of 32",
    ),
    (
        training(checkpointIntervalSeconds=9),
        "training.checkpointIntervalSeconds",
        "9: spec.training.checkpointIntervalSeconds in body should be greater than or equal to 10",
    ),
    (training(parameters={"epochs": "3"}), "training.parameters", f'["epochs"] {FOR_PARAMETERS}'),
    (training(parameters={"lr0": "0.1", "project": "/tmp"}), "training.parameters", f'["project"] {FOR_PARAMETERS}'),
    (
        training(parameters={"lr0": "fast"}),
        "training.parameters",
        '["lr0"]: give a number in quotes, for example "0.01"',
    ),
    (
        training(parameters={"seed": "1.5"}),
        "training.parameters",
        '["seed"]: give a whole number in quotes, for example "3"',
    ),
    (training(parameters={"amp": "yes"}), "training.parameters", '["amp"]: give true or false in quotes: "true"'),
    (training(resumeFrom="runs/../models"), "training.resumeFrom", f'"runs/../models": {FOR_RESUMING}'),
    (training(resumeFrom="/azaion/runs/a"), "training.resumeFrom", f'"/azaion/runs/a": {FOR_RESUMING}'),
    (
        {"lineRef": {"name": "Azaion"}},
        "lineRef.name",
        f'"Azaion": {FOR_LINES}',
    ),
    ({"resources": {}}, "resources", FOR_RESOURCES),
    ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, "resources", FOR_RESOURCES),
    (
        {"resources": {"limits": {"memory": "lots"}}},
        "resources.limits[memory]",
        '"lots": is no quantity; give one such as 500m, 4 or 8Gi',
    ),
    (
        {"nodeSelector": {"disk": "very fast"}},
        "nodeSelector[disk]",
        '"very fast": is no value of a label: use letters, digits, -, _ and .',
    ),
    ({"tolerations": [{"operator": "Is"}]}, "tolerations[0].operator", '"Is": use Exists or Equal'),
    (
        {"tolerations": [{"effect": "NoWay"}]},
        "tolerations[0].effect",
        '"NoWay": use NoSchedule, PreferNoSchedule or NoExecute',
    ),
    (
        {"runtimeClassName": "NVIDIA"},
        "runtimeClassName",
        '"NVIDIA": name a RuntimeClass, for example nvidia: lower-case letters, digits, - and .',
    ),
    (
        {"queueName": "GPU"},
        "queueName",
        '"GPU": name a LocalQueue of Kueue: lower-case letters, digits, - and .',
    ),
    ({"storage": {"subPath": "../x"}}, "storage.subPath", f'"../x": {FOR_SUB_PATHS}'),
    ({"storage": {"subPath": "a/../b"}}, "storage.subPath", f'"a/../b": {FOR_SUB_PATHS}'),
    ({"storage": {"subPath": "/azaion"}}, "storage.subPath", f'"/azaion": {FOR_SUB_PATHS}'),
    (
        {"storage": {"claimName": "My Disk"}},
        "storage.claimName",
        '"My Disk": name a PersistentVolumeClaim: lower-case letters, digits, - and .',
    ),
    ({"priority": 1001}, "priority", "1001: spec.priority in body should be less than or equal to 1000"),
    (
        {"recovery": {"stallTimeoutSeconds": 5}},
        "recovery.stallTimeoutSeconds",
        "5: spec.recovery.stallTimeoutSeconds in body should be greater than or equal to 60",
    ),
    (
        {"evaluation": {"minGain": "2"}},
        "evaluation.minGain",
        '"2": give a decimal number from -1 to 1 in quotes, for example "0.005"',
    ),
    (
        {"evaluation": {"confidence": "90%"}},
        "evaluation.confidence",
        '"90%": give a decimal number from 0 to 1 in quotes, for example "0.9"',
    ),
]


@pytest.mark.parametrize(("spec", "field", "sentence"), REFUSED, ids=cases(REFUSED))
def test_is_refused_with_a_sentence(dry_run: Namespace, spec: Document, field: str, sentence: str) -> None:
    answer = dry_run.create(RUN, "run", spec, dry_run=True)
    assert answer.sentence == f"spec.{field}: Invalid value: {sentence}"


#: Wrong types and words: what is written, the field, and how the API server's own sentence begins.
MISTYPED: list[tuple[Document, str, str]] = [
    (training(epochs="3"), "training.epochs", 'Invalid value: "string": {} in body must be of type integer'),
    (training(epochs=3.5), "training.epochs", 'Invalid value: "float64": {} in body must be of type int64'),
    (training(batch=1.5), "training.batch", 'Invalid value: "number": {} in body must be of type integer,string'),
    (training(batch="a" * 17), "training.batch", "Too long: may not be more than 16 bytes"),
    (training(device="gpu"), "training.device", 'Unsupported value: "gpu": supported values: "GPU", "CPU"'),
    (
        training(parameters={"lr0": 0.1}),
        "training.parameters.lr0",
        'Invalid value: "number": {} in body must be of type string',
    ),
    ({"training": 3}, "training", 'Invalid value: "integer": {} in body must be of type object'),
    ({"suspend": "true"}, "suspend", 'Invalid value: "string": {} in body must be of type boolean'),
    ({"lineRef": {"name": "a" * 41}}, "lineRef.name", "Too long: may not be more than 40 bytes"),
    (
        {"export": {"formats": ["TFLite"]}},
        "export.formats[0]",
        'Unsupported value: "TFLite": supported values: "ONNX", "TensorRT", "RKNN"',
    ),
    ({"export": {"formats": ["ONNX", "ONNX"]}}, "export.formats[1]", 'Duplicate value: "ONNX"'),
    (
        {"publish": {"promotion": "Never"}},
        "publish.promotion",
        'Unsupported value: "Never": supported values: "IfBetter", "Always", "Manual"',
    ),
    (
        {"evaluation": {"metric": "mAP"}},
        "evaluation.metric",
        'Unsupported value: "mAP": supported values: "MAP50", "MAP50To95"',
    ),
    (
        {"evaluation": {"minGain": 0.5}},
        "evaluation.minGain",
        'Invalid value: "number": {} in body must be of type string',
    ),
]


@pytest.mark.parametrize(("spec", "field", "sentence"), MISTYPED, ids=cases(MISTYPED))
def test_what_is_of_the_wrong_type_is_refused_with_the_right_one(
    dry_run: Namespace, spec: Document, field: str, sentence: str
) -> None:
    answer = dry_run.create(RUN, "run", spec, dry_run=True)
    assert answer.sentence.removeprefix("[").startswith(f"spec.{field}: {sentence.format(f'spec.{field}')}")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"epochs": 3}, "spec.epochs"),
        (training(epoch=3), "spec.training.epoch"),
        (training(image_size=640), "spec.training.image_size"),
        ({"dataset": {"split": {"validation": 20}}}, "spec.dataset.split.validation"),
        ({"tolerations": [{"name": "x"}]}, "spec.tolerations[0].name"),
        ({"publish": {"image": "evil"}}, "spec.publish.image"),
    ],
)
def test_an_unknown_field_is_refused_by_its_name(dry_run: Namespace, spec: Document, field: str) -> None:
    answer = dry_run.create(RUN, "run", spec, dry_run=True)
    assert answer.status == 400
    assert answer.sentence.endswith(f'strict decoding error: unknown field "{field}"')


LONGEST = "a" * 40


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("name", [LONGEST + "a", "a.b"])
def test_a_name_that_children_cannot_be_named_after_is_refused(dry_run: Namespace, kind: Kind, name: str) -> None:
    assert dry_run.create(kind, name, {}, dry_run=True).sentence == (
        "metadata.name: Invalid value: use at most 40 lower-case letters, digits and dashes; "
        "the names of Jobs and Pods are made from it"
    )


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("name", [LONGEST, "1", "a-1"])
def test_a_name_of_40_characters_is_accepted(dry_run: Namespace, kind: Kind, name: str) -> None:
    assert dry_run.create(kind, name, {}, dry_run=True).status == 201


# Changes

EVERYTHING: Document = {
    "model": {"base": "yolo26n.yaml"},
    "dataset": {"existing": "datasets/azaion-2026-01-31"},
    "training": {"epochs": 3, "parameters": {"lr0": "0.1"}, "resumeFrom": "runs/nightly-0b7a8d1e"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"operator": "Exists"}],
    "runtimeClassName": "nvidia",
    "queueName": "gpu",
    "storage": {"claimName": "disk-2", "subPath": "azaion"},
    "recovery": {"stallTimeoutSeconds": 600},
    "ttlSecondsAfterFinished": 10,
}

#: A change of an empty run or of EVERYTHING, and the field that says no.
FORBIDDEN: list[tuple[Document, Document, str]] = [
    ({}, {"lineRef": {"name": "other"}}, "lineRef"),
    ({}, {"model": {"base": "yolo26n.pt"}}, "model"),
    ({}, {"dataset": {"source": "data-seed"}}, "dataset"),
    ({}, {"dataset": {"existing": "datasets/azaion-2026-01-31"}}, "dataset"),
    ({}, {"dataset": {"split": {"train": 60, "test": 20}}}, "dataset"),
    ({}, {"dataset": {"seed": 1}}, "dataset"),
    ({}, {"dataset": {"groupBy": "Media"}}, "dataset"),
    ({}, {"dataset": {"classes": {"path": "other.json"}}}, "dataset"),
    ({}, {"dataset": {"minImages": 100}}, "dataset"),
    ({}, training(batch=8), "training.batch"),
    ({}, training(batch="Auto"), "training.batch"),
    ({}, training(imageSize=640), "training.imageSize"),
    ({}, training(savePeriod=2), "training.savePeriod"),
    ({}, training(workers=2), "training.workers"),
    ({}, training(patience=0), "training.patience"),
    ({}, training(device="CPU"), "training.device"),
    ({}, training(parameters={"lr0": "0.1"}), "training.parameters"),
    ({}, training(resumeFrom="runs/nightly-0b7a8d1e"), "training.resumeFrom"),
    ({}, training(checkpointIntervalSeconds=60), "training.checkpointIntervalSeconds"),
    ({}, {"resources": {"limits": {"memory": "8Gi"}}}, "resources"),
    ({}, {"nodeSelector": {"disk": "fast"}}, "nodeSelector"),
    ({}, {"tolerations": [{"operator": "Exists"}]}, "tolerations"),
    ({}, {"runtimeClassName": "nvidia"}, "runtimeClassName"),
    ({}, {"queueName": "gpu"}, "queueName"),
    ({}, {"storage": {"claimName": "disk-2"}}, "storage"),
    ({}, {"storage": {"subPath": "azaion"}}, "storage"),
    ({}, {"smoke": True}, "smoke"),
    ({}, {"budget": {"activeSeconds": 3600}}, "budget"),
    ({}, {"budget": {"onExhausted": "Fail"}}, "budget"),
    ({}, {"recovery": {"maxRestarts": 11}}, "recovery"),
    ({}, {"recovery": {"outOfMemory": {"minBatch": 2}}}, "recovery"),
    ({}, {"recovery": {"stallTimeoutSeconds": 600}}, "recovery"),
    ({}, {"evaluation": {"metric": "MAP50"}}, "evaluation"),
    ({}, {"evaluation": {"minGain": "0.005"}}, "evaluation"),
    ({}, {"evaluation": {"confidence": "0.5"}}, "evaluation"),
    ({}, {"export": {"formats": []}}, "export"),
    ({}, {"export": {"imageSize": 640}}, "export"),
    (EVERYTHING, {"model": None}, "model"),
    (EVERYTHING, {"dataset": {"existing": None}}, "dataset"),
    (EVERYTHING, training(parameters=None), "training.parameters"),
    (EVERYTHING, training(parameters={"lr0": "0.2"}), "training.parameters"),
    (EVERYTHING, training(parameters={"lr0": None}), "training.parameters"),
    (EVERYTHING, training(resumeFrom=None), "training.resumeFrom"),
    (EVERYTHING, {"nodeSelector": None}, "nodeSelector"),
    (EVERYTHING, {"tolerations": None}, "tolerations"),
    (EVERYTHING, {"runtimeClassName": None}, "runtimeClassName"),
    (EVERYTHING, {"queueName": None}, "queueName"),
    (EVERYTHING, {"storage": None}, "storage"),
    (EVERYTHING, {"storage": {"subPath": None}}, "storage"),
    (EVERYTHING, {"recovery": {"stallTimeoutSeconds": None}}, "recovery"),
    (EVERYTHING, {"recovery": {"gpuGuard": {"enabled": False}}}, "recovery"),
]


@pytest.fixture(scope="module")
def kept(dry_run: Namespace) -> dict[str, Document]:
    """The stored specs of an empty run, `bare`, and of one with EVERYTHING, `full`; refused changes leave them."""
    return {
        "bare": dry_run.create(RUN, "bare", {}).object["spec"],
        "full": dry_run.create(RUN, "full", EVERYTHING).object["spec"],
    }


@pytest.mark.parametrize(
    ("before", "change", "field"), FORBIDDEN, ids=cases((change, field, before) for before, change, field in FORBIDDEN)
)
def test_a_change_after_creation_is_refused(
    dry_run: Namespace, kept: dict[str, Document], before: Document, change: Document, field: str
) -> None:
    name = "full" if before else "bare"
    assert dry_run.patch(RUN, name, {"spec": change}).sentence == (
        f"spec.{field}: Forbidden: cannot change after creation; make a new TrainingRun "
        "(its training.resumeFrom takes over this run's checkpoints)"
    )
    assert dry_run.get(RUN, name)["spec"] == kept[name]


def test_every_field_is_frozen_or_known_to_be_free(namespace: Namespace) -> None:
    """A field that comes later has to be in one of the two tables."""
    free = {"suspend", "priority", "ttlSecondsAfterFinished", "publish"}
    frozen = {field.split(".")[0] for _, _, field in FORBIDDEN}
    in_training = {field.split(".")[1] for _, _, field in FORBIDDEN if field.startswith("training.")}
    stored = namespace.create(RUN, "run", EVERYTHING).object["spec"]
    assert set(stored) == free | frozen
    assert set(stored["training"]) == in_training | {"epochs"}
    assert set(stored["publish"]) == {"promotion", "approved", "encryption", "notify"}


ALLOWED: dict[str, Document] = {
    "suspended": {"suspend": True},
    "put forward": {"priority": 10},
    "trained longer": training(epochs=200),
    "deleted later": {"ttlSecondsAfterFinished": 3600},
    "never deleted": {"ttlSecondsAfterFinished": None},
    "promoted by hand": {"publish": {"promotion": "Manual"}},
    "approved": {"publish": {"approved": True}},
    "all at once": {"suspend": True, "priority": -1, "training": {"epochs": 121}, "publish": {"promotion": "Always"}},
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED.keys())
def test_a_run_may_be(namespace: Namespace, change: Document) -> None:
    before = namespace.create(RUN, "run", EVERYTHING).object
    after = namespace.patch(RUN, "run", {"spec": change}).object
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


def test_the_same_document_may_be_applied_again(namespace: Namespace) -> None:
    first = namespace.apply(RUN, "run", EVERYTHING).object
    again = namespace.apply(RUN, "run", EVERYTHING).object
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_a_field_taken_out_of_an_applied_document_is_a_change_as_well(namespace: Namespace) -> None:
    assert namespace.apply(RUN, "run", {"queueName": "gpu"}).status == 201
    assert namespace.apply(RUN, "run", {}).sentence.startswith(
        "spec.queueName: Forbidden: cannot change after creation"
    )


def test_epochs_cannot_be_lowered(namespace: Namespace) -> None:
    assert namespace.create(RUN, "run", training(epochs=3)).status == 201
    assert namespace.patch(RUN, "run", {"spec": training(epochs=2)}).sentence == (
        "spec.training.epochs: Forbidden: can only be raised, it is 3 now; "
        "to end a run early suspend or delete it, its checkpoints stay"
    )


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Running", "stage": "Evaluating"},
        {"phase": "Running", "stage": "Exporting"},
        {"phase": "Running", "stage": "Publishing"},
        {"phase": "AwaitingApproval"},
        {"phase": "Succeeded"},
        {"phase": "Failed", "stage": "Training"},
    ],
    ids=str,
)
def test_epochs_cannot_be_raised_once_training_has_ended(namespace: Namespace, status: Document) -> None:
    assert namespace.create(RUN, "run", training(epochs=3)).status == 201
    assert namespace.patch_status(RUN, "run", {**status, "directory": "runs/run-0b7a8d1e"}).status == 200
    assert namespace.patch(RUN, "run", {"spec": training(epochs=4)}).sentence == (
        "spec.training.epochs: Forbidden: cannot change any more, the training has ended; "
        "make a new TrainingRun with training.resumeFrom: runs/run-0b7a8d1e"
    )
    assert namespace.patch(RUN, "run", {"spec": {"priority": 1}}).status == 200


@pytest.mark.parametrize("phase", ["Pending", "Queued", "Running", "Suspended"])
def test_epochs_can_be_raised_until_then(namespace: Namespace, phase: str) -> None:
    assert namespace.create(RUN, "run", training(epochs=3)).status == 201
    assert namespace.patch_status(RUN, "run", {"phase": phase, "stage": "Training"}).status == 200
    assert namespace.patch(RUN, "run", {"spec": training(epochs=4)}).status == 200


# Status

STATUS: Document = {
    "phase": "Running",
    "stage": "Training",
    "message": "epoch 31 of 120",
    "metrics": {"map50to95": "0.4321", "losses": {"train/box": "1.25"}},
    "attempts": [{"pod": "run-train-1-abcde", "podUid": "u", "stage": "train", "number": 1}],
    "conditions": [
        {
            "type": "Training",
            "status": "True",
            "reason": "Running",
            "message": "",
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }
    ],
}


def test_a_change_of_the_spec_leaves_the_status_and_the_other_way_round(namespace: Namespace) -> None:
    created = namespace.create(RUN, "run", {}).object
    reported = namespace.patch_status(RUN, "run", STATUS).object
    assert reported["spec"] == created["spec"]
    assert reported["metadata"]["generation"] == created["metadata"]["generation"]
    status = reported["status"]
    assert {name: status[name] for name in STATUS if name != "attempts"} == {
        name: value for name, value in STATUS.items() if name != "attempts"
    }
    changed = namespace.patch(RUN, "run", {"spec": {"priority": 1}, "status": {"phase": "Failed"}}).object
    assert changed["status"] == status
    assert changed["spec"]["priority"] == 1


def test_a_status_given_at_creation_is_dropped(namespace: Namespace) -> None:
    assert namespace.api.request("POST", namespace.path(RUN), {**resource(RUN, "run"), "status": STATUS}).status == 201
    assert "status" not in namespace.get(RUN, "run")


def test_who_wrote_a_status_is_kept_in_one_word(namespace: Namespace) -> None:
    """It has one writer; who wrote each of its fields would be half of a stored run."""
    assert namespace.create(RUN, "run", {}).status == 201
    stored = namespace.patch_status(RUN, "run", STATUS).object
    (writer,) = (entry for entry in stored["metadata"]["managedFields"] if entry.get("subresource") == "status")
    assert writer["fieldsV1"] == {"f:status": {}}


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"phase": "Resting"}, 'status.phase: Unsupported value: "Resting"'),
        ({"metrics": {"map50": "NaN"}}, 'status.metrics.map50: Invalid value: "NaN"'),
        ({"message": "x" * 1025}, "status.message: Too long: may not be more than 1024 bytes"),
        ({"attempts": [STATUS["attempts"][0]] * 21}, "status.attempts: Too many: 21: must have at most 20 items"),
        (
            {"conditions": [{**STATUS["conditions"][0], "reason": "two words"}]},
            'status.conditions[0].reason: Invalid value: "two words"',
        ),
        ({"conditions": STATUS["conditions"] * 2}, 'status.conditions[1]: Duplicate value: {"type":"Training"}'),
    ],
)
def test_a_status_that_cannot_be_is_refused(namespace: Namespace, status: Document, sentence: str) -> None:
    assert namespace.create(RUN, "run", {}).status == 201
    assert namespace.patch_status(RUN, "run", status).sentence.removeprefix("[").startswith(sentence)
