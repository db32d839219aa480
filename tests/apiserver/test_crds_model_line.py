"""What the API server makes of a ModelLine."""

from __future__ import annotations

import pytest
from real_api import Document, Namespace

from azaion_api.names import Kind

LINE = Kind.MODEL_LINE

RECORD: Document = {
    "name": "azaion-2026-11-22",
    "path": "models/azaion-2026-11-22/azaion.pt",
    "sha256": "0" * 64,
    "run": "nightly",
    "runUid": "0b7a8d1e-5f0c-4c3e-9c55-1f5a54d1c001",
    "time": "2026-11-22T12:00:00Z",
    "map50to95": "0.61",
}


@pytest.mark.parametrize("spec", [None, {}, {"description": "17 classes, three weathers"}], ids=str)
def test_is_accepted_and_may_be_described_later(namespace: Namespace, spec: Document | None) -> None:
    stored = namespace.create(LINE, "azaion", spec).object["spec"]
    assert {name: stored[name] for name in spec or {}} == (spec or {})
    assert stored["retention"]["dryRun"] is False
    assert "count" not in stored["retention"]["models"], "nothing is removed unless somebody says so"
    assert "schedule" not in stored["retrain"]
    assert stored["retrain"]["template"]["model"] == {"base": "Current"}
    assert namespace.patch(LINE, "azaion", {"spec": {"description": "other words"}}).status == 200


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"description": 3}, 'spec.description: Invalid value: "integer": spec.description in body must be of type'),
        ({"description": "x" * 513}, "spec.description: Too long: may not be more than 512 bytes"),
        ({"pinnedModel": "../runs"}, 'spec.pinnedModel: Invalid value: "../runs": name a directory of models/'),
        ({"pinnedModel": "models/x"}, 'spec.pinnedModel: Invalid value: "models/x": name a directory of models/'),
        ({"retention": {"models": {"count": 0}}}, "spec.retention.models.count: Invalid value: 0"),
        ({"retrain": {"schedule": "at noon"}}, 'spec.retrain.schedule: Invalid value: "at noon": give five fields'),
        ({"retrain": {"newImages": 0}}, "spec.retrain.newImages: Invalid value: 0"),
        (
            {"retrain": {"template": {"dataset": {"split": {"train": 80}}}}},
            "spec.retrain.template.dataset.split: Invalid value: train 80, valid 20 and test 10 have to sum",
        ),
    ],
    ids=["a number", "too long", "a path out", "a path", "nothing kept", "words", "no images", "a wrong template"],
)
def test_is_refused_with_a_sentence(dry_run: Namespace, spec: Document, sentence: str) -> None:
    assert dry_run.create(LINE, "azaion", spec, dry_run=True).sentence.removeprefix("[").startswith(sentence)


def test_the_template_may_change_where_a_run_may_not(namespace: Namespace) -> None:
    wanted = {"retrain": {"schedule": "0 3 * * 6", "template": {"training": {"epochs": 60, "batch": 8}}}}
    assert namespace.create(LINE, "azaion", wanted).status == 201
    changed = {"spec": {"retrain": {"template": {"training": {"epochs": 30, "batch": 4}}}, "pinnedModel": "azaion-1"}}
    assert namespace.patch(LINE, "azaion", changed).object["spec"]["retrain"]["template"]["training"]["epochs"] == 30


def test_an_unknown_field_is_refused_by_its_name(dry_run: Namespace) -> None:
    answer = dry_run.create(LINE, "azaion", {"current": "azaion-2026-11-22"}, dry_run=True)
    assert answer.sentence.endswith('strict decoding error: unknown field "spec.current"')


def test_the_history_holds_50_models(namespace: Namespace) -> None:
    assert namespace.create(LINE, "azaion", {}).status == 201
    full = {"current": RECORD, "previous": RECORD, "history": [RECORD] * 50, "iteration": 51}
    assert namespace.patch_status(LINE, "azaion", full).object["status"]["history"] == [RECORD] * 50
    answer = namespace.patch_status(LINE, "azaion", {"history": [RECORD] * 51})
    assert answer.sentence.removeprefix("[").startswith("status.history: Too many: 51: must have at most 50 items")


def test_a_record_without_its_digest_is_refused(namespace: Namespace) -> None:
    assert namespace.create(LINE, "azaion", {}).status == 201
    answer = namespace.patch_status(LINE, "azaion", {"current": {k: v for k, v in RECORD.items() if k != "sha256"}})
    assert answer.sentence.removeprefix("[").startswith("status.current.sha256: Required value")
