"""Many pictures on one sheet, each with a line above it and its caption below."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

TILE_PX, GAP_PX, LINE_PX, FONT_PX = 176, 12, 17, 13
TEXT_LINES, LINE_CHARS = 3, 25  # of a caption
MAX_COLUMNS = 6
INK, FAINT, PAPER, BLANK = (40, 44, 50), (120, 124, 130), (251, 250, 248), (226, 224, 220)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a sheet; without a picture, the reason stands in its place."""

    title: str
    caption: str
    picture: Image.Image | None = None
    why: str = ""


def contact_sheet(tiles: Sequence[Tile], heading: str) -> Image.Image:
    """The tiles in rows under a heading, each picture whole within its square."""
    columns = max(1, min(MAX_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    height = TILE_PX + LINE_PX * (1 + TEXT_LINES) + GAP_PX
    head = 2 * LINE_PX
    sheet = Image.new("RGB", (GAP_PX + columns * (TILE_PX + GAP_PX), head + rows * height + GAP_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    shown = textwrap.shorten(one_line(heading), columns * LINE_CHARS, placeholder="…")
    draw.text((GAP_PX, LINE_PX // 2), shown, INK, font(FONT_PX + 2))
    for number, tile in enumerate(tiles):
        left = GAP_PX + number % columns * (TILE_PX + GAP_PX)
        top = head + number // columns * height
        draw_tile(sheet, draw, tile, left, top)
    return sheet


def draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    """Draw a tile with its upper left corner at (left, top)."""
    draw.text((left, top), tile.title, FAINT, font(FONT_PX))
    top += LINE_PX
    if tile.picture is None:
        draw.rectangle((left, top, left + TILE_PX - 1, top + TILE_PX - 1), BLANK)
        draw.multiline_text((left + 8, top + 8), lines_of(tile.why, 8, TILE_PX - 16), FAINT, font(FONT_PX))
    else:
        scale = TILE_PX / max(tile.picture.size)
        size = (max(1, round(tile.picture.width * scale)), max(1, round(tile.picture.height * scale)))
        small = tile.picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
        sheet.paste(small, (left + (TILE_PX - size[0]) // 2, top + (TILE_PX - size[1]) // 2))
    draw.multiline_text((left, top + TILE_PX + 2), lines_of(tile.caption, TEXT_LINES), INK, font(FONT_PX))


def lines_of(text: str, num_lines: int, width_px: int = TILE_PX) -> str:
    """The text in lines that fit on a tile."""
    return "\n".join(wrapped(text, width_px, num_lines, FONT_PX))


def wrapped(text: str, width_px: int, num_lines: int, size_px: int) -> list[str]:
    """The first lines of a text, at most `width_px` wide each, broken at spaces if there are; then an ellipsis."""
    lines: list[str] = []
    rest = " ".join(one_line(text).split())
    while rest and len(lines) < num_lines:
        fits = next((n for n in range(min(len(rest), 80), 0, -1) if font(size_px).getlength(rest[:n]) <= width_px), 1)
        space = rest.rfind(" ", 0, fits + 1)
        fits = space if space > 0 and fits < len(rest) and num_lines > 1 else fits
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip()
    if rest and lines:
        lines[-1] = lines[-1][:-1] + "…"
    return lines


def one_line(text: str) -> str:
    """The first characters of a text, controls and line breaks as spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:1_000])


@lru_cache(maxsize=4)
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: Latin, Cyrillic, Greek, Arabic, Hebrew and many signs."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)
