"""One picture of many: a row a caption, a column a conditioning."""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

MIN_TILE_PX = 96
GAP_PX = 6
TEXT_PX = 230  # width of the captions
HEAD_PX = 24
FONT_PX = 13
INK, PAPER = (40, 44, 50), (251, 250, 248)


def sample_grid(columns: dict[str, Pixels], captions: Sequence[str]) -> Image.Image:
    """The pictures of each column (N, P, P, 3) beside their N captions, enlarged by whole numbers to be seen."""
    px = next(iter(columns.values())).shape[1]
    tile = px * max(1, -(-MIN_TILE_PX // px))
    size = (TEXT_PX + len(columns) * (tile + GAP_PX), HEAD_PX + len(captions) * (tile + GAP_PX))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for number, (name, pictures) in enumerate(columns.items()):
        left = TEXT_PX + number * (tile + GAP_PX)
        draw.text((left, 4), name.replace("_", " "), INK, font)
        for row in range(len(captions)):
            picture = Image.fromarray(pictures[row]).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, HEAD_PX + row * (tile + GAP_PX)))
    for row, caption in enumerate(captions):
        lines = "\n".join(textwrap.wrap(caption, 32)[:6])
        draw.multiline_text((8, HEAD_PX + row * (tile + GAP_PX) + 4), lines, INK, font)
    return sheet
