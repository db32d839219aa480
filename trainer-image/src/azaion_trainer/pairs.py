"""Whether one image and its label file can be trained on. Nothing is believed from names: images are decoded."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import struct
import threading
import zlib
from pathlib import Path

import msgspec
from PIL import Image, UnidentifiedImageError

#: Extensions ultralytics reads and the annotation contract allows, lower case.
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff"})
#: Decoders that are let near files from outside, by Pillow's names; a file's extension does not choose one.
_DECODERS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
#: More pixels than this are not decoded: 8192 x 8192, a few hundred megabytes of memory in every loader process.
MAX_PIXELS = 8192 * 8192
#: ultralytics ignores images with a shorter side.
MIN_SIDE_PIXELS = 10
_MAX_LABEL_BYTES = 4 << 20
_JPEG_END = b"\xff\xd9"
#: What Pillow's decoders answer broken data with.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_CLASS = re.compile(r"\d{1,4}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


class UnusableError(Exception):
    """An image or label that cannot be trained on; the message is the reason, for people."""


class MissingLabelError(UnusableError):
    """There is an image, but no label file."""


class FileVersion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which version of a file was looked at: files of data/ are replaced by renaming, never written into."""

    inode: int
    size_bytes: int
    modified_ns: int

    @staticmethod
    def of(status: os.stat_result) -> FileVersion:
        return FileVersion(status.st_ino, status.st_size, status.st_mtime_ns)


class Pair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A good pair as it was read. An array where it is stored, for there are hundreds of thousands."""

    image: str
    image_version: FileVersion
    label_version: FileVersion
    image_sha256: bytes
    label_sha256: bytes
    #: Class of every object, one byte each.
    classes: bytes

    @property
    def label(self) -> str:
        """The label file's name."""
        return label_of(self.image)


def label_of(image: str) -> str:
    """The name of the label file that belongs to an image."""
    return f"{os.path.splitext(image)[0]}.txt"


def check_pair(images: Path, labels: Path, image: str, class_count: int) -> Pair:
    """Read and judge the image `image` and its label.

    Raises UnusableError with the reason, FileNotFoundError when the image is gone, OSError when the storage fails.
    """
    image_bytes, image_version = _read(images / image)
    check_image(image_bytes)
    try:
        label_bytes, label_version = _read(labels / label_of(image))
    except FileNotFoundError:
        raise MissingLabelError("the label file is missing") from None
    classes = parse_label(label_bytes, class_count)
    return Pair(
        image=image,
        image_version=image_version,
        label_version=label_version,
        image_sha256=hashlib.sha256(image_bytes).digest(),
        label_sha256=hashlib.sha256(label_bytes).digest(),
        classes=classes,
    )


def _read(path: Path) -> tuple[bytes, FileVersion]:
    """A file's contents and the version they are of, from one descriptor. Raises UnusableError, OSError.

    A symbolic link is not followed: it could lead to a file of the pod, whose contents a reason would then tell.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnusableError(f"{path.name} is a symbolic link") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        version = FileVersion.of(os.fstat(file.fileno()))
        return file.read(), version


def check_image(data: bytes) -> None:
    """Decode the whole image. Raises UnusableError.

    A JPEG also has to end with its end marker: without it ultralytics would write the file anew when it first reads it,
    and the data set's digest would no longer be true.
    """
    if not data:
        raise UnusableError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_DECODERS) as image:
            _check_size(image.size)
            kind = image.format
            if kind == "JPEG":
                # An eighth of the size: all data is still read and checked, at a fraction of the time.
                image.draft(image.mode, (1, 1))
            image.load()
    except (UnidentifiedImageError, ModuleNotFoundError):
        # In a process that has imported ultralytics, Pillow's open then looks for a HEIF decoder that is not installed.
        raise UnusableError("the file is no image of a kind that is read (JPEG, PNG, BMP, WebP, TIFF)") from None
    except Image.DecompressionBombError:
        raise UnusableError(f"the image has more than {MAX_PIXELS} pixels") from None
    except _BROKEN as error:
        raise UnusableError(f"the image cannot be decoded: {error}") from error
    if kind == "JPEG" and not data.endswith(_JPEG_END):
        raise UnusableError("the JPEG is truncated: its end marker is missing")
    if kind == "TIFF":
        _check_as_training_reads(data)


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnusableError(f"the image has {width} x {height} pixels, more than {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE_PIXELS:
        raise UnusableError(f"the image has {width} x {height} pixels, a side is shorter than {MIN_SIDE_PIXELS}")


_opencv = threading.Lock()


def _check_as_training_reads(data: bytes) -> None:
    """TIFF has kinds that Pillow reads and OpenCV, which feeds the training, does not."""
    with _opencv:  # the first import from several threads at once fails
        import cv2
        import numpy as np
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # a size beyond its bounds
        decoded = None
    if decoded is None:
        raise UnusableError("this kind of TIFF cannot be read by the training")


def parse_label(data: bytes, class_count: int) -> bytes:
    """Classes of a label file's objects, one byte each; an empty file is a background image.

    A line is `class centre-x centre-y width height`, the class a whole number below `class_count`, the others between 0
    and 1. Raises UnusableError naming the first bad line, which condemns the file.
    """
    if len(data) > _MAX_LABEL_BYTES:
        raise UnusableError(f"the label file has {len(data)} bytes, more than {_MAX_LABEL_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableError("the label file is not text") from None
    found = bytearray()
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if fields:
            found.append(_parse_line(fields, number, class_count))
    return bytes(found)


def _parse_line(fields: list[str], number: int, class_count: int) -> int:
    if len(fields) != 5:
        raise UnusableError(f"label line {number} has {len(fields)} fields instead of 5")
    if not _CLASS.fullmatch(fields[0]) or int(fields[0]) >= class_count:
        shown = fields[0][:32]
        raise UnusableError(f"label line {number}: class {shown} is not a whole number from 0 to {class_count - 1}")
    for name, field in zip(("x", "y", "width", "height"), fields[1:], strict=True):
        if not _NUMBER.fullmatch(field) or not 0.0 <= float(field) <= 1.0:
            raise UnusableError(f"label line {number}: {name} {field[:32]} is not between 0 and 1")
    return int(fields[0])
