"""Facts about scores and the filter's policy."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unclip.data.data_fixtures import dropped_rows, picture, sample, write_source
from unclip.data.config import FilterConfig, ShardsConfig
from unclip.data.filters import filter_rows
from unclip.data.images import png_bytes
from unclip.data.scores import SCORES_SCHEMA, score_caption, score_picture, score_shard
from unclip.data.shards import ShardReader, write_shard
from unclip.data.sources import foreign_shard, write_admissions


def scores_of(tmp_path, samples):
    return score_shard(ShardReader(write_source(tmp_path / "s", samples) / "shard.tar"))


def run(config, scores):
    selection, kept = filter_rows(config, [scores])
    return pa.concat_tables(kept), {row["key"]: row["reason"] for row in dropped_rows(selection)}, selection


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
    scores = changed(scores_of(tmp_path, [sample(i, seed=i % 3) for i in range(30)]), "split", 4, "test")
    kept, dropped, _ = run(FilterConfig(drop_duplicates=False, test_fraction=0, validation_fraction=0), scores)
    split = kept["split"].to_pylist()
    assert dropped == {} and set(split[1::3]) == {"test"} and set(split[0::3] + split[2::3]) == {"train"}


@pytest.mark.parametrize("max_hamming", [None, 4])
def test_rows_that_do_not_decode_join_no_groups(tmp_path, max_hamming):
    scores = scores_of(tmp_path, [sample(i, group=f"group {i % 2}") for i in range(6)])
    for row in (0, 1):  # of different groups, the first held out
        for name, value in (("status", "undecodable"), ("pixel_digest", bytes(32)), ("perceptual_hash", 0)):
            scores = changed(scores, name, row, value)
    scores = changed(scores, "split", 0, "test")
    kept, dropped, _ = run(FilterConfig(max_hamming=max_hamming, test_fraction=0, validation_fraction=0), scores)
    assert kept["split"].to_pylist() == ["test", "train", "test", "train"]
    assert set(dropped.values()) == {"undecodable"}


def test_a_policy_that_keeps_nothing_is_refused_with_the_counts(tmp_path):
    with pytest.raises(ValueError, match="keeps no row; dropped: small 3"):
        run(FilterConfig(min_side_px=500), scores_of(tmp_path, [sample(i) for i in range(3)]))


def test_the_pixel_digest_knows_the_sides():
    wide, tall = Image.new("RGB", (8, 4)), Image.new("RGB", (4, 8))
    assert score_picture(wide)["pixel_digest"] != score_picture(tall)["pixel_digest"]


def test_the_spread_is_that_of_all_pixel_values():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    assert score_picture(Image.fromarray(pixels))["std"] == pytest.approx(pixels.std(), rel=1e-6)


CAPTIONS = {
    "en": "a dog that runs along the beach at sunset",
    "de": "ein kleiner Hund läuft am Strand entlang",
    "fr": "un petit chien qui court sur la plage",
}


def test_captions_are_scored_by_language_and_selected_by_it(tmp_path):
    scores = scores_of(tmp_path, [sample(i, caption=text) for i, text in enumerate(CAPTIONS.values())])
    assert scores["language"].to_pylist() == list(CAPTIONS)
    _, dropped, selection = run(FilterConfig(languages=("en", "fr")), scores)
    assert dropped == {"00000000001": "language"}
    assert dropped_rows(selection)[0]["detail"].startswith("de, likeliest de 0.")


@pytest.mark.parametrize("caption", ["camel", "1234 5678", "🙂 🙂"])
def test_a_caption_that_tells_no_language_is_unknown(tmp_path, caption):
    scores = scores_of(tmp_path, [sample(0, caption=caption), sample(1, caption=CAPTIONS["en"])])
    assert run(FilterConfig(languages=("en", "unknown"), min_language_prob=0.4), scores)[1] == {}
    assert run(FilterConfig(languages=("en",), min_language_prob=0.4), scores)[1] == {"00000000000": "language"}


def test_scores_of_the_source_are_recorded_and_above_the_limit_or_without_one_dropped(tmp_path):
    given = [0.1, "0.2", 0.9, None, float("nan"), True, "none"]
    scores = scores_of(tmp_path, [sample(i, punsafe=value) for i, value in enumerate(given)])
    assert scores["unsafe"].to_pylist() == [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.9), *[None] * 4]
    kept, dropped, selection = run(FilterConfig(max_unsafe=0.5), scores)
    assert len(kept) == 2 and set(dropped.values()) == {"unsafe"}
    assert [row["detail"] for row in dropped_rows(selection)] == ["0.900", *["no score"] * 4]


def test_scores_in_the_samples_of_foreign_tars_reach_the_policy(tmp_path):
    write_shard(tmp_path / "laion.tar", [sample(i, pwatermark=i / 4) for i in range(4)])
    (tmp_path / "out").mkdir()
    write_admissions(tmp_path / "out", foreign_shard(ShardsConfig(pattern=str(tmp_path / "laion.tar")), 0))
    scores = score_shard(ShardReader(tmp_path / "out" / "shard.tar"))
    assert run(FilterConfig(max_watermark=0.5), scores)[1] == {"00000000003": "watermark"}


@pytest.mark.parametrize(("setting", "field"), [("max_unsafe", "unsafe_field"), ("max_watermark", "watermark_field")])
def test_a_policy_on_a_score_that_the_source_lacks_is_refused(tmp_path, setting, field):
    scores = scores_of(tmp_path, [sample(i) for i in range(3)])
    with pytest.raises(ValueError, match=f"filter.{setting} needs the score .* no row .* score.{field}"):
        run(FilterConfig(**{setting: 0.5}), scores)


def near_duplicates():
    """A picture, the same enlarged, the same blurred and enlarged; and another."""
    small = Image.fromarray(picture(1)).resize((32, 32), Image.Resampling.BICUBIC)
    large = Image.fromarray(picture(1)).resize((96, 96), Image.Resampling.NEAREST)
    blurred = small.resize((120, 120), Image.Resampling.BICUBIC)
    images = [small, large, blurred, Image.fromarray(picture(2))]
    return [replace(sample(i), image=png_bytes(np.asarray(image))) for i, image in enumerate(images)]


@pytest.mark.parametrize(("keep", "place"), [("first", 0), ("largest", 2), ("sharpest", 1)])
def test_the_policy_names_the_duplicate_that_is_kept(tmp_path, keep, place):
    scores = scores_of(tmp_path, near_duplicates())
    kept, _, selection = run(FilterConfig(max_hamming=8, keep=keep, max_aspect=None), scores)
    assert kept["key"].to_pylist() == [f"{place:011d}", "00000000003"]
    dropped = dropped_rows(selection)
    assert [row["near"] for row in dropped] == [f"{place:011d}"] * 2
    assert {row["reason"] for row in dropped} == {"similar"}


def test_a_duplicate_named_test_is_kept_whatever_the_policy(tmp_path):
    scores = changed(scores_of(tmp_path, near_duplicates()), "split", 0, "test")
    kept, _, _ = run(FilterConfig(max_hamming=8, keep="largest"), scores)
    assert kept["key"].to_pylist()[0] == "00000000000" and kept["split"].to_pylist()[0] == "test"


def test_the_order_of_shards_decides_only_among_equals(tmp_path):
    scores = scores_of(tmp_path, [sample(i, seed=i % 7) for i in range(12)])
    near = score_shard(ShardReader(write_source(tmp_path / "n", near_duplicates()) / "shard.tar"))
    config, found = FilterConfig(max_hamming=8, keep="largest"), []
    for tables in ([scores, near], [near, scores]):
        both = pa.concat_tables(tables)
        both = both.set_column(0, SCORES_SCHEMA.field("key"), pa.array([f"{i:011d}" for i in range(len(both))]))
        kept, _, _ = run(config, both)
        found.append({both["pixel_digest"][int(key)].as_py() for key in kept["key"].to_pylist()})
    assert found[0] == found[1] and len(found[0]) == 7


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_words": -1}, "min_words must be >= 0, got -1"),
        ({"max_aspect": 0.5}, "max_aspect must be >= 1, got 0.5"),
        ({"test_fraction": 1.0}, "must be below 1"),
        ({"max_hamming": 4, "drop_duplicates": False}, "max_hamming must be null"),
        ({"keep": "largest"}, "keep must be first without max_hamming"),
        ({"keep": "best_clip_score", "max_hamming": 4}, "keep must be one of first, largest, sharpest"),
        ({"languages": ("english",)}, "languages must be codes such as"),
        ({"languages": ()}, "languages must be codes such as"),
        ({"min_language_prob": 0.5}, "min_language_prob must be 0 without languages"),
        ({"max_unsafe": 1.5}, "max_unsafe must be in 0..1, got 1.5"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        FilterConfig(**setting)


CAPTION = st.text(max_size=12)
ROW = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["ok", "ok", "ok", "undecodable"]),
        "width": st.integers(0, 200),
        "height": st.integers(0, 200),
        "std": st.floats(0, 9, width=32),
        "sharpness": st.floats(0, 1e6, width=32),
        "pixel_digest": st.sampled_from([bytes([n]) * 32 for n in range(4)]),
        "perceptual_hash": st.sampled_from([0, 1, 3, 2**40]),
        "caption": CAPTION,
        "unsafe": st.none() | st.floats(0, 1, width=32),
        "watermark": st.none(),
        "group": st.none() | st.sampled_from(["a", "b", "犬"]),
        "split": st.none() | st.sampled_from(["train", "validation", "test"]),
    }
)
POLICY = st.fixed_dictionaries(
    {
        "min_side_px": st.integers(0, 100),
        "max_aspect": st.none() | st.floats(1, 5),
        "min_words": st.integers(0, 3),
        "languages": st.none() | st.just(("en", "unknown")),
        "max_per_caption": st.none() | st.integers(1, 2),
        "max_hamming": st.none() | st.integers(0, 4),
        "validation_fraction": st.floats(0, 0.4),
    }
)


@settings(max_examples=60)
@given(shards=st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=3), policy=POLICY)
def test_whatever_the_scores_and_the_policy_every_row_is_kept_or_dropped_for_one_reason(shards, policy):
    tables = [table_of(number, rows) for number, rows in enumerate(shards)]
    keys = [key for table in tables for key in table["key"].to_pylist()]
    try:
        selection, kept = filter_rows(FilterConfig(**policy), tables)
        kept = pa.concat_tables(kept)
    except ValueError as error:
        assert "keeps no row; dropped: " in str(error)
        return
    dropped = [row["key"] for row in dropped_rows(selection)]
    assert sorted(kept["key"].to_pylist() + dropped) == keys
    assert selection.funnel[0].rows_in == len(keys) and selection.funnel[-1].rows_out == len(kept)
    assert all(one.rows_out == two.rows_in for one, two in pairwise(selection.funnel))


def table_of(shard, rows):
    keys = [{"key": f"{shard:06d}{i:05d}"} for i in range(len(rows))]
    scored = [key | row | score_caption(row["caption"]) for key, row in zip(keys, rows, strict=True)]
    return pa.Table.from_pylist(scored, schema=SCORES_SCHEMA)


@given(caption=st.text())
def test_any_caption_has_a_language_and_a_probability(caption):
    scores = score_caption(caption)
    assert 0 <= scores["language_prob"] <= 1 and (scores["language"] == "") == (scores["language_prob"] == 0)
