"""A pod's last word reaches the operator whole, or cut where a reader can tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion_api.outcome import (
    MAX_TERMINATION_BYTES,
    REASON_BY_EXIT_CODE,
    AttemptReason,
    ExitCode,
    Termination,
    parse_termination,
)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "the labels of 12 images name class 80, but data.yaml has 80 classes",
        'quotes " and \\ and\nnew lines',
        "Bilder für Straße 東京 🚁",
        "x" * 4000,
    ],
)
def test_a_message_that_fits_comes_back_unchanged(message: str) -> None:
    said = Termination(AttemptReason.BAD_DATA, message)
    assert parse_termination(said.encode().decode()) == said


@pytest.mark.parametrize("character", ["x", "ü", "東", "🚁", "\n", "\x1b", '"', "\\", "\x7f", "\u2028"])
def test_a_message_too_long_is_cut_to_what_the_kubelet_keeps(character: str) -> None:
    body = Termination(AttemptReason.HOST_OUT_OF_MEMORY, character * 20_000).encode()
    assert len(body) <= MAX_TERMINATION_BYTES
    found = parse_termination(body.decode())
    assert found is not None
    assert found.reason is AttemptReason.HOST_OUT_OF_MEMORY
    assert found.message.endswith("…")
    assert set(found.message[:-1]) == {character}
    assert len(body) > MAX_TERMINATION_BYTES - 32, "no more is cut than has to be"


@given(st.text(max_size=6000), st.sampled_from(list(AttemptReason)))
def test_any_text_is_encoded_within_the_limit_and_read_again(message: str, reason: AttemptReason) -> None:
    body = Termination(reason, message).encode()
    assert len(body) <= MAX_TERMINATION_BYTES
    found = parse_termination(body.decode("utf-8"))
    assert found is not None
    assert found.reason is reason
    assert found.message == message or found.message.endswith("…")


def test_a_file_name_that_is_not_utf_8_does_not_lose_the_last_word() -> None:
    name = b"frame-\xff.jpg".decode("utf-8", "surrogateescape")
    found = parse_termination(Termination(AttemptReason.BAD_DATA, f"{name} is no image").encode().decode())
    assert found == Termination(AttemptReason.BAD_DATA, "frame-\\udcff.jpg is no image")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "{}",
        "null",
        "[]",
        '{"reason": "BadData"}',
        '{"reason": "NewerThanWeAre", "message": "x"}',
        '{"reason": "BadData", "message": 3}',
        '{"reason": "BadData", "message": "cut o',
        '{"message":' + "[" * 4000,
        "\ud800",
        "Traceback (most recent call last):\n  File ...",
    ],
)
def test_what_is_no_last_word_of_ours_is_none(text: str) -> None:
    assert parse_termination(text) is None


def test_every_exit_code_has_its_reason() -> None:
    assert set(REASON_BY_EXIT_CODE) == set(ExitCode)
    assert len(set(REASON_BY_EXIT_CODE.values())) == len(ExitCode)


def test_exit_codes_never_change() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "COMPLETED": 0,
        "CRASHED": 1,
        "BAD_SPEC": 10,
        "BAD_DATA": 11,
        "GPU_OUT_OF_MEMORY": 12,
        "HOST_OUT_OF_MEMORY": 13,
        "LOSS_NOT_FINITE": 14,
        "STALLED": 15,
        "STORAGE_FULL": 16,
        "PREEMPTED": 17,
        "OVERHEATED": 18,
        "UPLOAD_FAILED": 20,
    }
