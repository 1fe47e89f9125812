"""Facts about contact sheets, and about the pictures of what a search finds."""

import numpy as np
from PIL import Image

from tests.unclip.data.data_fixtures import TinyEncoder, picture, sample, write_source
from tests.unclip.data.dump_fixtures import folder_dump, tar_dump
from unclip.data.contact_sheet import FONT_PX, PAPER, TILE_PX, Tile, contact_sheet, font, lines_of, one_line
from unclip.data.dump_pictures import ShardPictures
from unclip.data.dump_queries import search_table, searchable_dump, sheet_of


def holds(sheet, pixels):
    """Whether a sheet shows a picture, enlarged by whole pixels, somewhere."""
    size = TILE_PX - TILE_PX % pixels.shape[0]
    want = np.asarray(Image.fromarray(pixels).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST))
    array, probe = np.asarray(sheet), want[size // 2]
    return any((array[y : y + 1, x : x + TILE_PX] == probe).all() for y in range(len(array)) for x in range(12, 13))


def test_a_sheet_shows_every_picture_whole_in_rows():
    tiles = [Tile(title=str(n), caption=f"caption {n}", picture=Image.fromarray(picture(n))) for n in range(8)]
    sheet = contact_sheet(tiles, "what was asked")
    assert sheet.width == contact_sheet(tiles[:6], "").width and sheet.height > contact_sheet(tiles[:6], "").height
    assert holds(sheet, picture(0)) and holds(sheet, picture(6)) and not holds(sheet, picture(9))


def test_a_wide_picture_keeps_its_shape():
    wide = Image.new("RGB", (400, 100), (200, 0, 0))
    array = np.asarray(contact_sheet([Tile(title="", caption="", picture=wide)], ""))
    red = (array == (200, 0, 0)).all(-1)
    assert red.any(1).sum() == TILE_PX // 4 and red.any(0).sum() == TILE_PX


def test_a_missing_picture_says_why():
    blank = contact_sheet([Tile(title="1", caption="a", why="it is gone")], "x")
    assert blank.tobytes() != contact_sheet([Tile(title="1", caption="a", why="other")], "x").tobytes()


def test_nothing_to_show_is_a_sheet():
    assert contact_sheet([], "nothing").getpixel((0, 0)) == PAPER


def test_any_caption_fits_its_lines():
    for caption in ("word " * 500, "x" * 10_000, "W" * 99, "a\nb\x00c‮d", "😀" * 50, "", "مرحبا"):
        lines = lines_of(caption, 3).split("\n")
        assert len(lines) <= 3 and all(font(FONT_PX).getlength(line) <= TILE_PX for line in lines)
        contact_sheet([Tile(title="", caption=caption)], caption)
    assert one_line("a\nb\x00") == "a b "


def test_the_hits_of_a_dump_of_a_folder_or_tars_are_shown(tmp_path):
    for make, number in ((folder_dump, 1), (tar_dump, 1005)):
        (tmp_path / make.__name__).mkdir()
        table = searchable_dump(make(tmp_path / make.__name__))
        (tmp_path / "query.png").write_bytes(sample(number % 1000, shard=number // 1000).image)
        hits = search_table(table, TinyEncoder(), tmp_path / "query.png", 2)
        assert holds(sheet_of(table, hits, "like this"), picture(number))


def test_a_picture_that_was_replaced_is_not_shown(tmp_path):
    table = searchable_dump(folder_dump(tmp_path))
    hits = search_table(table, TinyEncoder(), tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "a.png").write_bytes(sample(9).image)
    assert not holds(sheet_of(table, hits, ""), picture(9))


def test_pictures_of_shards_are_read_by_key(tmp_path):
    folders = [write_source(tmp_path / str(n), [sample(i, shard=n) for i in range(3)]) for n in range(2)]
    read = ShardPictures([folder / "shard.tar" for folder in folders])
    assert read(1, "00000100002") == sample(2, shard=1).image
