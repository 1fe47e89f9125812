"""One picture of dropped samples: each with what is known of it, beside the one that it was too near to."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

from unclip.data.contact_sheet import font, wrapped
from unclip.data.dropped import Dropped, Losses
from unclip.data.shards import ShardReader

NUM_SHOWN = 16
NUMBER_CHARS = 6  # of a key: unclip.data.shards.sample_key
TILE_PX, GAP_PX, LINE_PX, FONT_PX, NUM_LINES = 128, 10, 14, 10, 3
ROW_TILES = 8
INK, SOFT, PAPER, EMPTY = (40, 44, 50), (110, 116, 124), (251, 250, 248), (228, 225, 218)

Finder = Callable[[str], Image.Image]  # the picture of a key; ValueError where there is none


def write_sheets(losses: Losses, out: Path, seed: int = 0, reason: str | None = None) -> list[Path]:
    """Write one PNG a stage and reason into `out`, in the order of the funnel; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths, find = [], picture_finder(losses.shards)
    for (stage, why), rows in losses.samples(NUM_SHOWN, seed, reason).items():
        paths.append(out / f"{stage}-{why}.png")
        sheet = dropped_sheet(rows, find)
        sheet.quantize(256).save(paths[-1])  # a quarter of the bytes
    return paths


def picture_finder(shards: Sequence[Path]) -> Finder:
    """Looks pictures up by key in the folders of the shards."""

    @lru_cache(maxsize=1)
    def folders() -> dict[str, Path]:
        return {number: folder for folder in shards if (number := number_of(folder))}

    @lru_cache(maxsize=4)
    def reader(folder: Path) -> ShardReader:
        return ShardReader(folder / "shard.tar")

    def find(key: str) -> Image.Image:
        folder = folders().get(key[:NUMBER_CHARS])
        shard = reader(folder) if folder else None
        if shard is None or key not in shard.keys:
            raise ValueError(f"no picture: no shard holds {key}")
        return shard.image(shard.keys.index(key))

    return find


def number_of(folder: Path) -> str | None:
    """The number in a shard's own keys, which of rows that were asked again is not its place; None without a sample."""
    keys = pq.read_table(folder / "rows.parquet", columns=["key"])["key"]
    place: int = pc.index(pc.is_valid(keys), True).as_py()
    return None if place < 0 else keys[place].as_py()[:NUMBER_CHARS]


def dropped_sheet(rows: Sequence[Dropped], find: Finder) -> Image.Image:
    """A tile a row, or two where it was too near to a row of ours; what has no picture says why."""
    tiles = [tiles_of(row) for row in rows]
    wide = max((len(some) for some in tiles), default=1)
    across = min(ROW_TILES // wide, max(1, len(rows)))
    step = (wide * TILE_PX + (wide - 1) * 2 + GAP_PX, TILE_PX + NUM_LINES * LINE_PX + GAP_PX)
    size = (across * step[0] + GAP_PX, -(-len(rows) // across) * step[1] + GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    for number, (row, keys) in enumerate(zip(rows, tiles, strict=True)):
        left, top = GAP_PX + number % across * step[0], GAP_PX + number // across * step[1]
        for place, key in enumerate(keys):
            sheet.paste(tile(key, row, find), (left + place * (TILE_PX + 2), top))
        write_lines(sheet, (left, top + TILE_PX), step[0] - GAP_PX, row)
    return sheet


def tiles_of(row: Dropped) -> list[str | None]:
    """The keys of the pictures that show a row: its own, and that of the row of ours that it was too near to."""
    return [row.key] if row.near_ours is None else [row.key, row.near_ours]


def tile(key: str | None, row: Dropped, find: Finder) -> Image.Image:
    """A picture within a square; where there is none, or it does not decode, a plain one that says so."""
    square = Image.new("RGB", (TILE_PX, TILE_PX), EMPTY)
    try:
        if key is None:
            raise ValueError(f"no picture: {row.said or row.reason.replace('_', ' ')}")
        picture = ImageOps.contain(find(key), (TILE_PX, TILE_PX))
    except ValueError as error:
        text = "\n".join(wrapped(str(error), TILE_PX - 12, 7, FONT_PX))
        ImageDraw.Draw(square).multiline_text((6, 6), text, SOFT, font(FONT_PX))
        return square
    square.paste(picture, ((TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2))
    return square


def write_lines(sheet: Image.Image, at: tuple[int, int], width_px: int, row: Dropped) -> None:
    """What was found, which row it is, and its caption: a line each."""
    first = [row.said if row.key else "", (row.file or row.key or "")[-60:], row.caption]
    for line, text in enumerate(text for text in first if text.strip()):
        shown = next(iter(wrapped(text, width_px, 1, FONT_PX)), "")
        ImageDraw.Draw(sheet).text((at[0], at[1] + 2 + line * LINE_PX), shown, SOFT if line else INK, font(FONT_PX))
