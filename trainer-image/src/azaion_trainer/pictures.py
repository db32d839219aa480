"""Sheets of images for people: what annotators marked beside what the model finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from azaion_trainer import files
from azaion_trainer.judging import Box, JudgedImage

_TILE_PIXELS = 300
_GAP_PIXELS = 12
_COLUMNS = 4
_ROWS = 3
#: Images on a sheet.
SHEET_IMAGES = _COLUMNS * _ROWS
_PAPER, _INK, _FAINT = (250, 250, 248), (32, 33, 36), (110, 112, 118)
#: Colours that are told apart by people who see colours differently too (Okabe and Ito).
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """What a sheet says above its images."""

    title: str
    subtitle: str
    names: tuple[str, ...]


def spread(images: Sequence[JudgedImage], count: int) -> list[JudgedImage]:
    """`count` images evenly spread over the split, those with something to see first."""
    marked = [image for image in images if image.marked] or list(images)
    if len(marked) <= count:
        return marked
    return [marked[round(i * (len(marked) - 1) / (count - 1))] for i in range(count)]


def worst(images: Sequence[JudgedImage], count: int) -> list[JudgedImage]:
    """The `count` images with the most missed, then the most unsure objects; only hard ones."""
    hard = [image for image in images if image.is_hard]
    return sorted(hard, key=lambda image: (-image.missed, -image.unsure, image.path.name))[:count]


def draw_sheet(path: Path, sheet: Sheet, images: Sequence[JudgedImage]) -> None:
    """Write a PNG. Every image stands twice: annotations on the left, detections on the right. Raises OSError."""
    columns = min(_COLUMNS, max(1, len(images)))
    rows = -(-len(images) // columns) if images else 1
    pair_width = 2 * _TILE_PIXELS + 2
    head = 92
    row_height = _TILE_PIXELS + 26
    width = columns * pair_width + (columns + 1) * _GAP_PIXELS
    height = head + rows * (row_height + _GAP_PIXELS) + _GAP_PIXELS
    page = Image.new("RGB", (max(width, 760), height), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP_PIXELS, 12), sheet.title, _INK, _font(26))
    draw.text((_GAP_PIXELS, 50), sheet.subtitle, _FAINT, _font(17))
    colours = _class_colours(images)
    for number, image in enumerate(images):
        left = _GAP_PIXELS + number % columns * (pair_width + _GAP_PIXELS)
        top = head + number // columns * (row_height + _GAP_PIXELS)
        page.paste(_tile(image, image.marked, sheet.names, colours, confidences=False), (left, top))
        page.paste(_tile(image, image.found, sheet.names, colours, confidences=True), (left + _TILE_PIXELS + 2, top))
        draw.text((left, top + _TILE_PIXELS + 4), _caption(image), _FAINT, _font(14))
    if not images:
        draw.text((_GAP_PIXELS, head), "no image to show", _FAINT, _font(17))
    with files.replacing(path) as file:
        page.save(file, "PNG", optimize=True)


def _caption(image: JudgedImage) -> str:
    name = image.path.name if len(image.path.name) <= 44 else f"{image.path.name[:41]}..."
    parts = [f"{len(image.marked)} marked, {len(image.found)} found"]
    if image.missed:
        parts.append(f"{image.missed} missed")
    if image.unsure:
        parts.append(f"{image.unsure} unsure")
    return f"{name}: {', '.join(parts)}"


def _class_colours(images: Sequence[JudgedImage]) -> dict[int, tuple[int, int, int]]:
    """Colours for the classes there are, so that few classes never share one."""
    present = sorted({box.class_number for image in images for box in (*image.marked, *image.found)})
    return {number: _COLOURS[i % len(_COLOURS)] for i, number in enumerate(present)}


def _tile(
    image: JudgedImage,
    boxes: Sequence[Box],
    names: tuple[str, ...],
    colours: dict[int, tuple[int, int, int]],
    confidences: bool,
) -> Image.Image:
    """The image with boxes, in the middle of a square."""
    tile = Image.new("RGB", (_TILE_PIXELS, _TILE_PIXELS), (228, 228, 226))
    with Image.open(image.path) as opened:
        # As training sees it: turned by its EXIF orientation.
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = _TILE_PIXELS / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (_TILE_PIXELS - size[0]) // 2, (_TILE_PIXELS - size[1]) // 2
    tile.paste(picture, (left, top))
    draw = ImageDraw.Draw(tile)
    for box in sorted(boxes, key=lambda box: box.confidence):
        corners = [value * scale + (left, top)[i % 2] for i, value in enumerate(box.corners)]
        label = names[box.class_number] if box.class_number < len(names) else str(box.class_number)
        if confidences:
            label = f"{label} {box.confidence:.2f}"
        _box(draw, corners, label, colours[box.class_number])
    return tile


def _box(draw: ImageDraw.ImageDraw, corners: list[float], label: str, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = corners
    draw.rectangle((x1 - 1, y1 - 1, max(x2, x1) + 1, max(y2, y1) + 1), outline=(0, 0, 0), width=1)
    draw.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=2)
    font = _font(13)
    width = draw.textlength(label, font)
    y = y1 - 17 if y1 >= 17 else y1
    x = min(max(0.0, x1), _TILE_PIXELS - width - 6)
    draw.rectangle((x, y, x + width + 6, y + 17), fill=colour)
    dark = sum(colour) > 330
    draw.text((x + 3, y + 1), label, (0, 0, 0) if dark else (255, 255, 255), font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
