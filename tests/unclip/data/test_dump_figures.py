"""Facts about the figures of a dump."""

import hashlib

import numpy as np
import pytest

from tests.unclip.data import data_fixtures
from tests.unclip.data.data_fixtures import sample
from tests.unclip.data.dump_fixtures import folder_dump, tar_dump, vectors
from unclip.data import dump_figures
from unclip.data.dump_figures import column_figures, digests_of, inspect_dump, likenesses, sampled_rows
from unclip.data.spreads import Spread, drawn_rows, repeated
from unclip.data.table import read_info


def test_a_spread_in_blocks_is_that_of_the_whole_to_a_float16():
    values = (np.random.default_rng(0).normal(size=10_000) * 3 + 1).astype(np.float32)
    spread = Spread()
    for block in np.array_split(values, 7):
        spread.add(block)
    found = spread.figures()
    assert (found["min"], found["max"]) == (values.min(), values.max()) and found["mean"] == pytest.approx(
        values.mean()
    )
    for percent in (1, 50, 99):
        assert found[f"p{percent}"] == pytest.approx(np.percentile(values, percent, method="inverted_cdf"), rel=1e-3)


def test_a_spread_of_nothing_is_empty():
    spread = Spread()
    spread.add(np.empty(0, np.float32))
    assert spread.figures() == {}


def test_repeats_are_counted_over_all_blocks():
    values = np.random.default_rng(0).integers(0, 2**63, 1_000).astype(np.uint64)
    blocks = np.array_split(np.concatenate([values, values[:10], values[:10], values[500:505]]), 6)
    assert repeated(blocks) == {"pictures": 15, "rows_more": 25}
    assert repeated([]) == {"pictures": 0, "rows_more": 0}


def test_a_draw_is_seeded_without_repetition_and_of_all_files():
    drawn = drawn_rows([100, 0, 50], 60, seed=1)
    assert drawn == drawn_rows([100, 0, 50], 60, seed=1) != drawn_rows([100, 0, 50], 60, seed=2)
    assert sum(map(len, drawn)) == 60 and drawn[1] == [] and max(drawn[0]) < 100 and max(drawn[2]) < 50
    assert all(rows == sorted(set(rows)) for rows in drawn) and drawn_rows([2, 1], 9, 0) == [[0, 1], [0]]
    assert drawn_rows([0], 5, 0) == [[]]


def test_figures_of_columns_are_those_of_every_row(tmp_path):
    parts = [data_fixtures.part(tmp_path / f"{n}.parquet", vectors(n, 20 + n), shard=n) for n in range(3)]
    found = column_figures(parts, read_info(parts[0]))
    norms = np.concatenate([np.linalg.norm(vectors(n, 20 + n), axis=1) for n in range(3)])
    assert found["image_norm"]["min"] == pytest.approx(norms.min(), rel=1e-6)
    assert found["image_norm"]["mean"] == pytest.approx(norms.mean(), rel=1e-6)
    assert found["clip_score"]["p50"] == pytest.approx(1, abs=1e-3) and found["context_filled"] == 63
    assert (found["caption_chars"]["min"], found["caption_chars"]["max"]) == (11, 12)
    assert found["caption_tokens"]["mean"] == 8


def test_nearest_pairs_are_named_in_order():
    base = vectors(0, 30)
    rows = np.concatenate([base, base[3:4] + 1e-4, base[9:10] + 0.5])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = likenesses([f"k{i}" for i in range(32)], [f"c{i}" for i in range(32)], rows)
    assert [pair["keys"] for pair in found["nearest_pairs"][:2]] == [["k3", "k30"], ["k9", "k31"]]
    assert found["nearest_pairs"][0]["captions"] == ["c3", "c30"] and found["duplicate_pairs"] == 1
    assert sum(found["similarity"]["counts"]) == 32 * 31 // 2


def test_only_drawn_rows_of_parts_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(dump_figures, "PAIRS_SAMPLE", 10)
    parts = [data_fixtures.part(tmp_path / f"{n}.parquet", vectors(n), shard=n) for n in range(3)]
    infos = [read_info(part) for part in parts]
    keys, captions, rows = sampled_rows(parts, infos, seed=0)
    assert len(keys) == len(captions) == len(rows) == 10 and len({key[:6] for key in keys}) > 1
    shard, row = int(keys[4][:6]), int(keys[4][6:])
    one = vectors(shard)[row]
    assert rows[4] @ one / np.linalg.norm(one) > 0.9999 and captions[4] == f"caption {shard} {row}"


def test_digests_are_the_beginnings_of_the_pictures(tmp_path):
    dump = folder_dump(tmp_path)
    (found,) = digests_of([dump / "parts" / "000000.parquet"])
    assert found[1].tobytes() == hashlib.sha256(sample(1).image).digest()[:8]


def test_a_dump_in_figures_counts_repeats_captions_and_disk(tmp_path):
    found = inspect_dump(folder_dump(tmp_path, more=[("a.png", "one word"), ("none.png", "gone")]))
    assert (found["rows"], found["refused"]) == (4, {"missing_file": 1})
    assert found["exact_duplicates"] == {"pictures": 1, "rows_more": 1} and found["duplicate_pairs"] == 1
    assert found["nearest_pairs"][0]["keys"] == ["00000000000", "00000000003"]
    assert found["caption_tokens"]["max"] == 3 and found["caption_chars"]["min"] == 8
    files = [path for path in (tmp_path / "dump").rglob("*") if path.is_file()]
    assert found["bytes"]["all"] == sum(path.stat().st_size for path in files)


def test_the_seed_alone_decides_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(dump_figures, "PAIRS_SAMPLE", 6)  # of 16 rows: another seed draws others
    dump = tar_dump(tmp_path)
    three, again, four = (inspect_dump(dump, seed) for seed in (3, 3, 4))
    assert three == again and three["similarity"]["rows_compared"] == 6
    drawn = {"similarity", "nearest_pairs", "duplicate_pairs"}
    assert three["nearest_pairs"] != four["nearest_pairs"] and three["similarity"] != four["similarity"]
    assert {k: v for k, v in three.items() if k not in drawn} == {k: v for k, v in four.items() if k not in drawn}
