"""Which image goes into which split: stable as the data grows, and in exact shares."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from azaion_api.training_run import GroupBy, Split

SPLITS = ("train", "valid", "test")
_FRAME = re.compile(r"(?P<media>.+)_\d+")


def media_of(stem: str) -> str:
    """The medium (video) an image was taken from, by the naming convention `<media>_<digits>`; else the stem itself."""
    found = _FRAME.fullmatch(stem)
    return found["media"] if found else stem


def group_of(stem: str, group_by: GroupBy) -> str:
    """What stays together in one split: the image, or its medium."""
    return media_of(stem) if group_by is GroupBy.MEDIA else stem


def place(seed: int, group: str) -> int:
    """A 64-bit hash that depends on nothing but the seed and the group's name, on any machine, for ever."""
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def shares(total: int, split: Split) -> dict[str, int]:
    """Images per split: the percentages to the nearest image (largest remainder), summing to `total`.

    Training cannot do without a validation image, so from two images on train and valid have one each.
    """
    percents = {"train": split.train, "valid": split.valid, "test": split.test}
    counts = {name: total * percent // 100 for name, percent in percents.items()}
    by_remainder = sorted(SPLITS, key=lambda name: (-(total * percents[name] % 100), SPLITS.index(name)))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for needed in ("train", "valid"):
        if total >= 2 and counts[needed] == 0 and percents[needed] > 0:
            giver = max(SPLITS, key=lambda name: counts[name])
            counts[giver] -= 1
            counts[needed] += 1
    return counts


@dataclass(frozen=True)
class SplitPlan:
    """How to split; two data sets with equal plans agree on every image they share."""

    seed: int
    split: Split
    group_by: GroupBy


def assign(stems: Iterable[str], plan: SplitPlan, earlier: Mapping[str, str]) -> dict[str, str]:
    """The split of every image, by its stem.

    An image that `earlier` (the newest data set formed by the same plan) holds stays where it was, so it never moves
    between training and test as the data grows. New images are lined up by their hash and dealt out so that the counts
    reach `shares`: without an earlier data set 100 images become exactly 70, 20 and 10. Where deleted images leave a
    split over its share, it just gets no new ones, so counts may then differ from the percentages by what was deleted.
    With GroupBy.MEDIA a medium stays in one split, and the counts come as near as whole media allow.
    """
    stems = list(stems)
    groups: dict[str, list[str]] = {}
    for stem in stems:
        groups.setdefault(group_of(stem, plan.group_by), []).append(stem)
    found: dict[str, str] = {}
    new: list[str] = []
    for group, members in groups.items():
        known = earlier.get(group)
        if known is None:
            new.append(group)
        else:
            found.update(dict.fromkeys(members, known))
    missing = _missing(shares(len(stems), plan.split), found)
    new.sort(key=lambda group: (place(plan.seed, group), group))
    dealt = 0
    to_deal = sum(len(groups[group]) for group in new)
    for group in new:
        size = len(groups[group])
        # A group goes where its middle falls when all new images lie in one row, train first, then valid, then test.
        name = _at(dealt + size / 2, missing, to_deal)
        found.update(dict.fromkeys(groups[group], name))
        dealt += size
    return found


def earlier_groups(split_of_stem: Iterable[tuple[str, str]], group_by: GroupBy) -> dict[str, str]:
    """`earlier` for `assign`, from the (stem, split) pairs of a formed data set."""
    return {group_of(stem, group_by): split for stem, split in split_of_stem}


def _missing(wanted: dict[str, int], placed: dict[str, str]) -> dict[str, int]:
    """Images each split still lacks."""
    have = dict.fromkeys(SPLITS, 0)
    for split in placed.values():
        have[split] += 1
    return {name: max(0, wanted[name] - have[name]) for name in SPLITS}


def _at(position: float, missing: dict[str, int], to_deal: int) -> str:
    """The split at `position` of a row in which each split has a stretch of its missing images."""
    row = sum(missing.values())
    # Splits over their share make the row longer than what there is to deal: stretch evenly.
    scaled = position * (row / to_deal) if to_deal else position
    end = 0
    for name in SPLITS:
        end += missing[name]
        if scaled < end:
            return name
    return next(name for name in reversed(SPLITS) if missing[name])
