"""Facts about scores and the filter's policy."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.unclip.data.data_fixtures import sample, write_source
from unclip.data.config import FilterConfig
from unclip.data.filters import filter_rows
from unclip.data.scores import score_picture, score_shard
from unclip.data.selection import Selection
from unclip.data.shards import ShardReader


def scores_of(tmp_path, samples):
    return score_shard(ShardReader(write_source(tmp_path / "s", samples) / "shard.tar"))


def run(config, scores):
    selection = Selection.of("filter", scores["key"].to_pylist(), np.zeros(len(scores), np.int32))
    kept = filter_rows(config, scores, selection)
    return kept, {row["key"]: row["reason"] for row in selection.dropped_rows().to_pylist()}, selection


def changed(scores, name, row, value):
    values = scores[name].to_pylist()
    values[row] = value
    column = scores.schema.get_field_index(name)
    field = scores.schema.field(name)
    return scores.set_column(column, field, pa.array(values, field.type))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("status", "undecodable", "undecodable"),
        ("width", 20, "small"),
        ("width", 480, "aspect"),
        ("std", 0.5, "flat"),
        ("words", 0, "few_words"),
        ("chars", 2, "short_caption"),
    ],
)
def test_each_threshold_drops_the_row_it_is_for(tmp_path, column, value, reason):
    scores = changed(scores_of(tmp_path, [sample(i) for i in range(4)]), column, 2, value)
    kept, dropped, _ = run(FilterConfig(), scores)
    assert dropped == {"00000000002": reason} and len(kept) == 3


def test_the_funnel_adds_up_and_nothing_is_lost(tmp_path):
    samples = [sample(i, seed=i % 4, caption="same words" if i < 6 else None) for i in range(10)]
    kept, dropped, selection = run(FilterConfig(max_per_caption=2), scores_of(tmp_path, samples))
    steps = selection.funnel
    assert all(now.rows_out == after.rows_in for now, after in pairwise(steps))
    assert steps[0].rows_in == 10 and steps[-1].rows_out == len(kept) == 10 - len(dropped)
    assert sorted(set(dropped.values())) == ["duplicate", "frequent_caption"]


def test_duplicates_stay_where_they_are_not_dropped_but_in_one_split(tmp_path):
    scores = scores_of(tmp_path, [sample(i, seed=i % 3) for i in range(30)])
    kept, dropped, _ = run(FilterConfig(drop_duplicates=False, test_fraction=0.5), scores)
    split = kept["split"].to_pylist()
    assert dropped == {} and all(len(set(split[i::3])) == 1 for i in range(3))


def test_a_policy_that_keeps_nothing_is_refused_with_the_counts(tmp_path):
    with pytest.raises(ValueError, match="keeps no row; dropped: small 3"):
        run(FilterConfig(min_side_px=500), scores_of(tmp_path, [sample(i) for i in range(3)]))


def test_the_pixel_digest_knows_the_sides():
    wide, tall = Image.new("RGB", (8, 4)), Image.new("RGB", (4, 8))
    assert score_picture(wide)["pixel_digest"] != score_picture(tall)["pixel_digest"]


def test_the_spread_is_that_of_all_pixel_values():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    assert score_picture(Image.fromarray(pixels))["std"] == pytest.approx(pixels.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_words": -1}, "min_words must be >= 0, got -1"),
        ({"max_aspect": 0.5}, "max_aspect must be >= 1, got 0.5"),
        ({"test_fraction": 1.0}, "must be below 1"),
        ({"max_hamming": 4, "drop_duplicates": False}, "max_hamming must be null"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**setting)
