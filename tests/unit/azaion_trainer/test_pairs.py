"""Which images and labels can be trained on."""

from __future__ import annotations

import contextlib
import io
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from trainer_make import add_pair, encoded, jpeg

from azaion_api.layout import Layout
from azaion_trainer.pairs import MissingLabelError, UnusableError, check_image, check_pair, parse_label

#: Pillow warns of the damage it finds.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ("0 0.5 0.5 0.1 0.1", [0]),
        ("0 0.5 0.5 0.1 0.1\n79 0 1 1.0 0.25\n", [0, 79]),
        ("", []),
        ("\n\n", []),
        ("\ufeff3 .5 5e-1 1e-3 0.2\r\n", [3]),
    ],
)
def test_good_labels(label: str, classes: list[int]) -> None:
    assert list(parse_label(label.encode(), 80)) == classes


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("0 1.5 0.5 0.1 0.1", "x 1.5 is not between 0 and 1"),
        ("0 0.5 0.5 0.1 1.2", "height 1.2 is not between 0 and 1"),
        ("0 0.5 -0.1 0.1 0.2", "y -0.1 is not between 0 and 1"),
        ("0 nan 0.5 0.1 0.1", "x nan is not between 0 and 1"),
        ("0 0.5 inf 0.1 0.1", "y inf is not between 0 and 1"),
        ("80 0.5 0.5 0.1 0.1", "class 80 is not a whole number from 0 to 79"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not a whole number"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not a whole number"),
        ("tank 0.5 0.5 0.1 0.1", "class tank is not a whole number"),
        ("0 0.5 0.5 0.1", "has 4 fields instead of 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 6 fields instead of 5"),
        ("0 0.5 0.5 0.1 0.1\n" * 9 + "0 0.5 0.5 0.1 1.1", "line 10: height"),
        ("0 0_5 0.5 0.1 0.1", "x 0_5 is not between"),
    ],
)
def test_one_bad_line_condemns_the_label_and_is_named(label: str, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason.replace(".", r"\.")):
        parse_label(label.encode(), 80)


def test_a_label_that_is_no_text_is_bad() -> None:
    with pytest.raises(UnusableError, match="not text"):
        parse_label(b"\xff\xfe\x00", 80)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_every_kind_of_image_the_contract_names_is_good(kind: str) -> None:
    check_image(encoded(kind, 40, 30))


def test_cmyk_and_sixteen_bit_images_are_good() -> None:
    check_image(encoded("JPEG", mode="CMYK"))
    buffer = io.BytesIO()
    Image.new("I;16", (20, 20), 40000).save(buffer, "PNG")
    check_image(buffer.getvalue())


def test_an_image_turned_by_exif_is_good() -> None:
    buffer = io.BytesIO()
    image = Image.new("RGB", (40, 20), (9, 9, 9))
    exif = image.getexif()
    exif[274] = 6
    image.save(buffer, "JPEG", exif=exif)
    check_image(buffer.getvalue())


def test_broken_exif_does_not_spoil_a_good_image() -> None:
    good = jpeg(40, 20)
    garbage = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xee" * 40
    segment = b"\xff\xe1" + (len(garbage) + 2).to_bytes(2, "big") + garbage
    check_image(good[:2] + segment + good[2:])


def _noise(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "no image of a kind"),
        (b"GIF89a" + bytes(100), "no image of a kind"),
        (_noise(64, 64)[:-200], "truncated|cannot be decoded"),
        (_noise(64, 64)[:-2], "truncated|end marker is missing"),
        (_noise(64, 64) + b"\0\0", "end marker is missing"),
        (encoded("PNG", 64, 64)[:60], "cannot be decoded"),
        (jpeg(64, 9), "a side is shorter than 10"),
    ],
)
def test_bad_images_and_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        check_image(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_hundred_megapixels_are_refused_before_they_are_decoded(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, kind)
    with pytest.raises(UnusableError, match="10000 x 10000 pixels"):
        check_image(buffer.getvalue())


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "TIFF"]))
@example(seed=143, kind="TIFF")  # OpenCV raises instead of saying that it cannot
def test_damaged_files_are_good_or_unusable_and_nothing_else(seed: int, kind: str) -> None:
    damage = random.Random(seed)
    data = bytearray(encoded(kind, 24, 24, colour=seed))
    for _ in range(damage.randrange(1, 12)):
        data[damage.randrange(len(data))] = damage.randrange(256)
    if damage.random() < 0.3:
        del data[damage.randrange(len(data)) :]
    with contextlib.suppress(UnusableError):
        check_image(bytes(data))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_label_or_unusable(data: bytes) -> None:
    with contextlib.suppress(UnusableError):
        assert all(number < 80 for number in parse_label(data, 80))


def test_a_pair_tells_what_it_holds(layout: Layout) -> None:
    add_pair(layout, "a", jpeg(), "1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n1 0.2 0.5 0.1 0.1\n")
    pair = check_pair(layout.images("data"), layout.labels("data"), "a.jpg", 80)
    assert list(pair.classes) == [1, 0, 1]
    assert pair.image_version.size_bytes == len(jpeg())


def test_a_missing_label_is_bad_and_a_missing_image_is_gone(layout: Layout) -> None:
    add_pair(layout, "a", label=None)
    with pytest.raises(MissingLabelError, match="label file is missing"):
        check_pair(layout.images("data"), layout.labels("data"), "a.jpg", 80)
    with pytest.raises(FileNotFoundError):
        check_pair(layout.images("data"), layout.labels("data"), "b.jpg", 80)
