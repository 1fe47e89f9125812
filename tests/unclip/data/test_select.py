"""Facts about selecting rows by embeddings."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import part
from unclip.data.config import SelectConfig
from unclip.data.select import Candidates, kept_table, near_pairs, nearest, select_rows
from unclip.data.shards import sample_key
from unclip.data.table import unit


def candidates(tmp_path, image, splits, **columns):
    path = part(tmp_path / "p.parquet", image, **columns)
    keys = [sample_key(0, i) for i in range(len(splits))]
    table = {"key": keys, "shard": pa.array([0] * len(keys), pa.int32()), "split": splits}
    table |= {"num_pixels": list(range(len(keys))), "sharpness": [1 / (1 + i) for i in range(len(keys))]}
    pq.write_table(pa.table(table), tmp_path / "kept.parquet")
    return Candidates([path], tmp_path / "kept.parquet")


def spread(size, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 32)).astype(np.float32)


def dropped(selection):
    return {int(row["key"][-2:]): row["reason"] for row in selection.dropped_rows().to_pylist()}


def test_everything_off_keeps_every_embedded_row(tmp_path):
    rows = candidates(tmp_path, spread(6), ["train"] * 7 + ["test"])
    selection = select_rows(SelectConfig(), rows)
    assert dropped(selection) == {6: "not_embedded", 7: "not_embedded"} and len(selection.funnel) == 1
    assert kept_table(rows, selection)["row"].to_pylist() == list(range(6))


def test_a_training_row_near_a_held_out_one_is_dropped_and_names_it(tmp_path):
    image = spread(6)
    image[1] = image[4] + 0.01
    rows = candidates(tmp_path, image, ["train"] * 4 + ["test", "validation"])
    selection = select_rows(SelectConfig(max_leak_cosine=0.95), rows)
    assert dropped(selection) == {1: "leak"}
    assert selection.dropped_rows()["near"].to_pylist() == [sample_key(0, 4)]


def test_of_near_duplicates_in_training_the_first_stays(tmp_path):
    image = spread(6)
    image[2], image[5] = image[0] * 1.5, image[3]
    rows = candidates(tmp_path, image, ["train"] * 5 + ["test"])
    assert dropped(select_rows(SelectConfig(max_duplicate_cosine=0.96), rows)) == {2: "near_duplicate"}


def test_a_held_out_caption_leaves_training(tmp_path):
    captions = ["a cat", "A Cat ", "a dog", "a cat"]
    rows = candidates(tmp_path, spread(4), ["test", "train", "train", "train"], captions=captions)
    assert dropped(select_rows(SelectConfig(drop_shared_captions=True), rows)) == dict.fromkeys(
        [1, 3], "shared_caption"
    )


def test_clip_score_by_threshold_and_by_share(tmp_path):
    image = spread(6)
    text = image.copy()
    text[1], text[4], text[5] = -image[1], -image[4], image[5] + image[0]
    rows = candidates(tmp_path, image, ["train"] * 4 + ["test", "train"], text=text)
    assert set(dropped(select_rows(SelectConfig(min_clip_score=0.0), rows))) == {1, 4}
    assert set(dropped(select_rows(SelectConfig(keep_fraction=0.6), rows))) == {1, 5}


def test_nothing_left_to_train_on_is_refused(tmp_path):
    rows = candidates(tmp_path, spread(3), ["test", "test", "validation"])
    with pytest.raises(ValueError, match="keeps no training row"):
        select_rows(SelectConfig(), rows)


def test_blocked_searches_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr("unclip.data.select.BLOCK_ROWS", 7)
    vectors, queries = unit(spread(40)), unit(spread(19, seed=1))
    one, other = np.nonzero(np.triu(vectors @ vectors.T >= 0.2, 1))
    assert set(near_pairs(vectors, 0.2)) == set(zip(one.tolist(), other.tolist(), strict=True))
    best, cosine = nearest(queries, vectors)
    assert np.array_equal(best, (queries @ vectors.T).argmax(1)) and np.allclose(cosine, (queries @ vectors.T).max(1))
