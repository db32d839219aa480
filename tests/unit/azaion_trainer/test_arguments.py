"""training.parameters: typed, bounded to what changes how a detector learns, and never out of date."""

from __future__ import annotations

import pytest

from azaion_api.ultralytics_arguments import ALLOWED_PARAMETERS
from azaion_trainer.arguments import ALLOWED, GENERATED, REFUSED, generated, parse_parameters
from azaion_trainer.failures import BadSpecError


def test_the_allow_list_is_generated_from_the_installed_ultralytics() -> None:
    assert GENERATED.read_text() == generated(), "run `make generate`"


def test_no_argument_is_both_allowed_and_refused() -> None:
    assert not set(ALLOWED) & set().union(*REFUSED.values())
    assert sum(map(len, REFUSED.values())) == len(set().union(*REFUSED.values()))


def test_values_get_the_type_ultralytics_wants() -> None:
    assert parse_parameters(
        {"lr0": "0.005", "close_mosaic": "5", "cos_lr": "true", "amp": "False", "cache": "RAM", "optimizer": "adamw"}
    ) == {"lr0": 0.005, "close_mosaic": 5, "cos_lr": True, "amp": False, "cache": "ram", "optimizer": "AdamW"}
    assert parse_parameters({"cache": "false"}) == {"cache": False}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr0", "fast", "training.parameters.lr0 is 'fast'; expected a number"),
        ("lr0", "nan", "training.parameters.lr0 is 'nan'; expected a number"),
        ("close_mosaic", "1.5", "training.parameters.close_mosaic is '1.5'; expected a whole number"),
        ("cos_lr", "maybe", "training.parameters.cos_lr is 'maybe'; expected true or false"),
        ("cache", "cloud", "training.parameters.cache is 'cloud'; expected one of disk, false, ram"),
        ("project", "/etc", "training.parameters.project cannot be set: it chooses paths"),
        ("epochs", "3", "training.parameters.epochs cannot be set: it has a field of its own"),
        (
            "tracker",
            "x.yaml",
            "training.parameters.tracker cannot be set: it chooses paths, or files that are read or run",
        ),
        ("leraning_rate", "1", "training.parameters.leraning_rate cannot be set: it is not known to ultralytics"),
    ],
)
def test_a_bad_parameter_is_named_with_what_was_expected(name: str, value: str, message: str) -> None:
    with pytest.raises(BadSpecError) as caught:
        parse_parameters({name: value})
    assert str(caught.value).startswith(message)


def test_every_allowed_parameter_can_be_parsed() -> None:
    samples = {"int": "1", "float": "0.5", "bool": "true"}
    for name, kind in ALLOWED_PARAMETERS.items():
        value = samples.get(kind) or {"cache": "disk", "optimizer": "SGD"}[name]
        assert name in parse_parameters({name: value})
