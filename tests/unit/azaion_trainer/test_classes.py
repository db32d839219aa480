"""classes.json and the 80 names."""

from __future__ import annotations

from pathlib import Path

import pytest

from azaion_trainer.classes import BaseClass, class_names, read_class_names
from azaion_trainer.failures import BadDataError


def test_seventeen_classes_at_three_offsets_give_exactly_eighty_names() -> None:
    names = class_names([BaseClass(number, f"Kind{number}") for number in range(17)])
    assert len(names) == 80
    assert names[16] == "Kind16"
    assert names[20] == "Kind0(Wint)"
    assert names[56] == "Kind16(Night)"
    assert [names[number] for number in (17, 37, 57, 79)] == ["Class-17", "Class-37", "Class-57", "Class-79"]
    assert len(set(names)) == 80


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"Id": 0, "Name": "a"}, {"Id": 0, "Name": "b"}]', "Id 0 is there twice"),
        ('[{"Id": 20, "Name": "a"}]', "Id 20 .* is not from 0 to 19"),
        ('[{"Id": 1, "Name": " "}]', "Id 1 has no Name"),
        ('{"Id": 1}', "is not a list"),
        ('[{"Id": "1", "Name": "a"}]', "is not a list"),
        ("nonsense", "is not a list"),
    ],
)
def test_a_bad_classes_file_is_said(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(BadDataError, match=reason):
        read_class_names(path)


def test_a_missing_classes_file_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"classes\.json is missing at the top of the storage"):
        read_class_names(tmp_path / "classes.json")
