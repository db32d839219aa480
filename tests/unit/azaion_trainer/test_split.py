"""The split: exact shares, and an image never changes sides."""

from __future__ import annotations

from collections import Counter

import pytest

from azaion_api.training_run import GroupBy, Split
from azaion_trainer.split import SplitPlan, assign, earlier_groups, media_of, place, shares

PLAN = SplitPlan(seed=0, split=Split(), group_by=GroupBy.NAME)


def stems(count: int, prefix: str = "image") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def test_a_hundred_images_become_seventy_twenty_and_ten() -> None:
    assert Counter(assign(stems(100), PLAN, {}).values()) == {"train": 70, "valid": 20, "test": 10}


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7, 10, 99, 101, 1003])
@pytest.mark.parametrize("split", [(70, 20, 10), (80, 20, 0), (34, 33, 33), (98, 1, 1)])
def test_the_counts_always_sum_to_the_images_there_are(total: int, split: tuple[int, int, int]) -> None:
    train, valid, test = split
    assert sum(shares(total, Split(train=train, valid=valid, test=test)).values()) == total


@pytest.mark.parametrize("total", range(2, 12))
def test_few_images_still_give_train_and_valid_one_each(total: int) -> None:
    found = shares(total, Split(train=98, valid=1, test=1))
    assert found["train"] >= 1
    assert found["valid"] >= 1


def test_the_split_depends_on_nothing_but_seed_and_name() -> None:
    # Written down: another machine, Python or year has to give the same.
    assert place(0, "image-0") == 0x7E0FB3A88F584D6A
    assert assign(stems(50), PLAN, {}) == assign(list(reversed(stems(50))), PLAN, {})


def test_another_seed_gives_another_split() -> None:
    other = SplitPlan(seed=1, split=Split(), group_by=GroupBy.NAME)
    assert assign(stems(100), PLAN, {}) != assign(stems(100), other, {})


def test_no_image_changes_its_split_as_the_data_grows_and_the_shares_stay_exact() -> None:
    names = stems(100)
    known = assign(names, PLAN, {})
    for size in (150, 151, 400, 1000):
        names = stems(size)
        grown = assign(names, PLAN, earlier_groups(known.items(), PLAN.group_by))
        assert {name: grown[name] for name in known} == known
        assert Counter(grown.values()) == Counter({k: v for k, v in shares(size, Split()).items() if v})
        known = grown


def test_deleted_images_move_no_other_one() -> None:
    known = assign(stems(100), PLAN, {})
    left = [name for name in stems(100) if known[name] != "test"]
    again = assign(left, PLAN, known)
    assert again == {name: known[name] for name in left}


def test_new_images_fill_what_deletions_left_short() -> None:
    known = assign(stems(100), PLAN, {})
    left = [name for name in known if known[name] != "test"] + stems(10, "new")
    again = assign(left, PLAN, known)
    assert Counter(again[name] for name in stems(10, "new")) == {"test": 10}


def test_without_an_earlier_data_set_nearly_all_images_come_where_they_were() -> None:
    known = assign(stems(5000), PLAN, {})
    grown = assign(stems(6000), PLAN, {})
    moved = sum(grown[name] != known[name] for name in known)
    assert moved < 5000 * 0.02


@pytest.mark.parametrize(
    ("stem", "media"),
    [("video_000123", "video"), ("a_b_7", "a_b"), ("plain", "plain"), ("_12", "_12"), ("film_12a", "film_12a")],
)
def test_the_medium_is_what_stands_before_the_frame_number(stem: str, media: str) -> None:
    assert media_of(stem) == media


def test_the_frames_of_one_video_stay_together() -> None:
    plan = SplitPlan(seed=3, split=Split(), group_by=GroupBy.MEDIA)
    frames = [f"video{video}_{frame:04d}" for video in range(40) for frame in range(5 + video % 7)]
    found = assign(frames, plan, {})
    splits_of_video = {video: {found[f] for f in frames if media_of(f) == f"video{video}"} for video in range(40)}
    assert all(len(splits) == 1 for splits in splits_of_video.values())
    counts = Counter(found.values())
    wanted = shares(len(frames), Split())
    assert all(abs(counts[split] - wanted[split]) <= 11 for split in wanted), (counts, wanted)


def test_a_new_frame_joins_its_video() -> None:
    plan = SplitPlan(seed=3, split=Split(), group_by=GroupBy.MEDIA)
    known = {"video_1": "valid", "other_1": "train"}
    found = assign(["video_1", "video_2", "other_1"], plan, earlier_groups(known.items(), plan.group_by))
    assert found["video_2"] == "valid"
