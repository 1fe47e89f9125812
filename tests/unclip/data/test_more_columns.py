"""Facts about the further columns of a list, which travel with its samples."""

import datetime
import math
from decimal import Decimal

import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import needs_tool
from tests.unclip.data.test_download import CONFIG
from tests.unclip.data.test_sources import captioned_folder
from tests.unclip.data.test_urls import ROWS, write_list
from tests.unclip.data.web_server import serving
from unclip.data.config import FolderConfig, UrlsConfig
from unclip.data.download import download
from unclip.data.more_columns import cell, read_more
from unclip.data.scores import score_shard
from unclip.data.shards import ShardReader
from unclip.data.source_plan import shard_recipes
from unclip.data.sources import folder_shard
from unclip.data.urls import pair_recipes, read_shard, write_pairs

NAMES = ("url", "caption", "punsafe", "license")
MORE = ("punsafe", "license")


def more_of(config, shard=0):
    return [row and read_more(row) for row in read_shard(config, shard)["more"].to_pylist()]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_further_columns_of_every_format_stand_beside_their_pairs(tmp_path, suffix):
    scores = ["0.25", ""] if suffix == "csv" else [0.25, math.nan]
    rows = [(*ROWS[0], scores[0], "by"), ("nonsense", "x", scores[0], "by"), (*ROWS[1], scores[1], "ü")]
    path = write_list(tmp_path / f"list.{suffix}", rows, NAMES).path
    config = UrlsConfig(path=path, more_columns=MORE, shard_size=2)
    first, none = more_of(config)
    assert first == {"punsafe": scores[0], "license": "by"} and none is None
    assert more_of(config, 1) == [{"punsafe": None, "license": "ü"}]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_further_column_that_is_not_there_is_one_clear_error(tmp_path, suffix):
    path = write_list(tmp_path / f"list.{suffix}", ROWS).path
    with pytest.raises(ValueError, match=r"list\.\w+(:1)? has no column 'punsafe'; it has url, caption$"):
        read_shard(UrlsConfig(path=path, more_columns=("punsafe",)), 0)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((value, value) for value in (True, 3, 0.5, "x", None)),
        *((value, None) for value in ("", math.nan, -math.inf)),
        *((Decimal("0.1"), "0.1"), (datetime.date(2026, 5, 1), "2026-05-01"), ([1, "a"], '[1, "a"]'), ("\ud800", "?")),
    ],
)
def test_a_cell_is_what_json_has_or_text(value, found):
    assert cell(value) == found and type(cell(value)) is type(found)


def test_a_changed_score_changes_its_shard_alone_and_none_where_it_is_not_read(tmp_path):
    recipes = []
    for score in ("0.1", "0.2"):
        path = write_list(tmp_path / "list.csv", [(*ROWS[0], "0", "x"), (*ROWS[1], score, "x")], NAMES).path
        recipes += [pair_recipes(UrlsConfig(path=path, shard_size=1, more_columns=more)) for more in ((), MORE)]
    without, before, without_again, after = recipes
    assert without == without_again and before[0] == after[0] and before[1] != after[1]


def test_a_quote_left_open_in_a_further_column_is_no_row(tmp_path):
    path = write_list(tmp_path / "list.csv", [(*ROWS[0], "0", "x" * 140_000)], NAMES).path
    (row,) = read_shard(UrlsConfig(path=path, more_columns=MORE), 0).to_pylist()
    assert (row["refused"], row["more"]) == ("malformed", None)
    assert row["detail"].startswith("punsafe, license of 140")


@pytest.mark.parametrize("more", [("url",), ("sample_id",), ("a", "a"), ("",)])
def test_a_name_that_cannot_be_a_further_column_is_refused(more):
    with pytest.raises(ValueError, match=r"more_columns must be different columns, none of .*sample_id, objects, got"):
        UrlsConfig(path="list.csv", more_columns=more)


def test_a_folder_s_further_columns_are_in_its_samples_and_decide_its_shards(tmp_path):
    plain = captioned_folder(tmp_path, ["0.png,a cat,0.9,", "1.png,a dog,,x"], "file,caption,punsafe,note")
    config = FolderConfig(folder=plain.folder, captions=plain.captions, more_columns=("punsafe", "note"))
    metas = [dict(one.sample.meta) for one in folder_shard(config, 0)]
    assert metas == [{"punsafe": "0.9", "note": None}, {"punsafe": None, "note": "x"}]
    assert shard_recipes(config) != shard_recipes(plain)
    with pytest.raises(ValueError, match="has no column 'pwatermark'; it has file, caption, punsafe, note"):
        shard_recipes(FolderConfig(folder=plain.folder, captions=plain.captions, more_columns=("pwatermark",)))


@needs_tool
def test_scores_of_a_real_list_reach_the_score_columns(tmp_path):
    with serving() as server:
        rows = [(f"{server}/{name}", name, score, "by") for name, score in (("plain.png", 0.75), ("wide.png", None))]
        config = write_list(tmp_path / "list.parquet", rows, NAMES)
        config = UrlsConfig(path=config.path, more_columns=MORE)
        write_pairs(config, 0, tmp_path / "pairs.parquet")
        download(tmp_path / "pairs.parquet", 0, CONFIG, tmp_path, lambda *_, **__: None)
    shard = ShardReader(tmp_path / "shard.tar")
    assert shard.meta(0)["license"] == "by" and score_shard(shard)["unsafe"].to_pylist() == [0.75, None]
    assert pq.read_schema(tmp_path / "pairs.parquet").names[-1] == "more"
