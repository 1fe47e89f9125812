"""Facts about lost rows: none is lost from the lists, and each can be shown."""

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unclip.data.data_fixtures import picture, sample
from unclip.data.config import FilterConfig
from unclip.data.contact_sheet import wrapped
from unclip.data.dropped import Dropped, Losses, draw
from unclip.data.filters import filter_rows
from unclip.data.funnel import read_funnel, source_steps
from unclip.data.rows import Row, sample_id
from unclip.data.scores import read_scores, score_shard
from unclip.data.shards import ShardReader, row_of
from unclip.data.sources import Admission, write_admissions
from unclip.report.dropped_sheet import EMPTY, FONT_PX, TILE_PX, dropped_sheet, picture_finder, write_sheets


def shard_with_refusals(folder, number, size=6):
    """A shard of `size` samples, the last two of the same picture, and three refused rows."""
    kept = [sample(row, number, seed=min(row, size - 2)) for row in range(size)]
    rows = [Admission(row=row_of(s, 48, 48, f"{number}/{n}.png"), sample=s) for n, s in enumerate(kept)]
    why = ["http_404", "http_404", "no_caption"]
    refused = [
        Row(sample_id=sample_id(f"{number}{n}", ""), caption="", status=status, url=f"{number}/x{n}", detail="said so")
        for n, status in enumerate(why)
    ]
    folder.mkdir()
    write_admissions(folder, [*rows, *(Admission(row=row) for row in refused)])
    return folder


@pytest.fixture
def lost(tmp_path):
    """Two such shards, filtered: the funnel and where the losses stand."""
    folders = [shard_with_refusals(tmp_path / str(n), n) for n in (0, 1)]
    for folder in folders:
        pq.write_table(score_shard(ShardReader(folder / "shard.tar")), folder / "scores.parquet")
    before = source_steps("download", {"ok": 12, "http_404": 4, "no_caption": 2}, "ok")
    scores = read_scores(folder / "scores.parquet" for folder in folders)
    selection, _ = filter_rows(FilterConfig(), scores, before)
    selection.write(tmp_path)
    losses = Losses(source="download", shards=folders, dropped={"filter": tmp_path / "dropped.parquet"})
    return read_funnel(tmp_path / "funnel.json"), losses


def test_the_funnel_begins_with_the_source_and_every_step_takes_what_the_one_before_left(lost):
    steps, _ = lost
    assert [(s.stage, s.reason, s.dropped) for s in steps[:2]] == [
        ("download", "http_404", 4),
        ("download", "no_caption", 2),
    ]
    assert steps[0].rows_in == 18 and all(one.rows_out == two.rows_in for one, two in pairwise(steps))


def test_every_row_that_the_funnel_counts_is_listed_with_its_file_and_what_it_was_near_to(lost):
    steps, losses = lost
    rows = list(losses.rows())
    counted = {(s.stage, s.reason): s.dropped for s in steps if s.dropped}
    assert {name: sum((r.stage, r.reason) == name for r in rows) for name in counted} == counted
    assert len(rows) == sum(counted.values())
    again = [row for row in rows if row.reason == "duplicate"]
    assert (again[0].file, again[0].near_file) == ("0/5.png", "0/4.png")
    assert [row.file for row in losses.rows("no_caption")] == ["0/x2", "1/x2"]


def named(number):
    return Dropped(stage="filter", reason="small", detail="", shard=0, key=f"{number:011d}", file=None, caption="")


def test_samples_are_drawn_by_the_seed_whatever_the_order():
    rows = [named(number) for number in range(200)]
    drawn = [draw(some, 16, seed)["filter", "small"] for some, seed in ((rows, 0), (rows[::-1], 0), (rows, 1))]
    assert len(drawn[0]) == 16 and set(drawn[0]) == set(drawn[1]) != set(drawn[2])


def test_a_sheet_shows_the_picture_and_what_it_was_near_to(lost):
    row = next(lost[1].rows("duplicate"))
    sheet = dropped_sheet([row], lambda key: Image.fromarray(picture(4 if key == row.key else 3, 128)))
    tiles = np.asarray(sheet)[10 : 10 + TILE_PX]
    assert np.array_equal(tiles[:, 10 : 10 + TILE_PX], picture(4, 128))
    assert np.array_equal(tiles[:, 12 + TILE_PX : 12 + 2 * TILE_PX], picture(3, 128))


def test_each_reason_has_a_sheet_and_a_row_without_a_picture_says_why(lost, tmp_path):
    paths = write_sheets(lost[1], tmp_path / "sheets")
    assert sorted(path.stem for path in paths) == ["download-http_404", "download-no_caption", "filter-duplicate"]
    shown = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}
    is_empty = (shown["download-http_404"][12:130, 12:130] == EMPTY).all(-1)
    assert 0.7 < is_empty.mean() < 0.99  # a plain square with some words on it


@pytest.mark.parametrize("text", ["a b" * 400, "犬" * 300, "x\n\ty", "", "🙂" * 99, "‮gnorw", "e\u0301" * 500])
def test_any_text_fits_its_lines(text):
    lines = wrapped(text, 100, 3, FONT_PX)
    assert len(lines) == (3 if len(text) > 98 else min(1, len(text)))


def test_a_picture_is_found_by_the_number_in_its_key_whatever_the_place_of_its_shard(tmp_path):
    folders = [shard_with_refusals(tmp_path / str(n), n) for n in (0, 900_000)]
    find = picture_finder(folders)
    assert np.array_equal(find("90000000002"), find("00000000002"))
    with pytest.raises(ValueError, match="no shard holds 00000100002"):
        find("00000100002")
