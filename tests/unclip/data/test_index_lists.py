"""Facts about an index's kind and its lists."""

import numpy as np
import pytest

from tests.unclip.data.index_fixtures import indexed, parts
from unclip.data.config import IndexConfig
from unclip.data.index_lists import Kind, kind_of, learn_lists
from unclip.data.raw_rows import RawRows
from unclip.data.table import unit


@pytest.mark.parametrize(
    ("rows", "factory"),
    [
        (99_999, "Flat"),
        (100_000, "IVF1897,SQ8"),
        (1_000_000, "IVF6000,SQ8"),
        (3_000_000, "IVF65536_HNSW32,SQ8"),
        (50_000_000, "OPQ64,IVF131072_HNSW32,PQ64"),
    ],
)
def test_the_kind_goes_by_the_rows(rows, factory):
    assert kind_of(IndexConfig(), rows, rows).factory == factory


def test_lists_are_no_more_than_rows_can_teach():
    assert kind_of(IndexConfig(kind="ivf_hnsw", train_rows=390), 5000, 4000) == Kind(
        "ivf_hnsw", "5000 rows, ivf_hnsw as set", 10
    )


def lists_of(tmp_path):
    """40 lists in 6 tops, and the cosines of rows with all of them."""
    vectors = unit(np.random.default_rng(0).normal(size=(600, 16)))
    vectors.astype(np.float16).tofile(tmp_path / "rows")
    lists = learn_lists(RawRows(tmp_path / "rows", 16), 40, 0)
    assert lists.centroids.shape == (40, 16) and lists.tops.shape == (6, 16)
    return lists, vectors, vectors @ lists.centroids.T


def test_a_row_is_placed_in_the_list_nearest_to_it_of_those_in_its_nearest_tops(tmp_path):
    lists, vectors, scores = lists_of(tmp_path)
    near = np.argsort(-(vectors @ lists.tops.T), axis=1)[:, :2]
    top = np.repeat(np.arange(6), np.diff(lists.starts))
    allowed = np.where((top == near[:, :, None]).any(axis=1), scores, -2)
    place, cosine = lists.place(vectors, num_tops=2)
    assert np.array_equal(place, allowed.argmax(axis=1)) and np.allclose(cosine, allowed.max(axis=1))
    assert 0.6 < (place == scores.argmax(axis=1)).mean() < 1  # some have their nearest elsewhere


def test_a_row_looked_for_in_all_tops_is_in_the_nearest_list_of_all(tmp_path):
    lists, vectors, scores = lists_of(tmp_path)
    place, cosine = lists.place(vectors)
    assert np.array_equal(place, scores.argmax(axis=1)) and np.allclose(cosine, scores.max(axis=1))
    assert np.bincount(place, minlength=40).min() > 0


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="code_bytes must be null with kind 'ivf', got 8"):
        IndexConfig(kind="ivf", code_bytes=8)
    with pytest.raises(ValueError, match="num_lists must be null with kind 'flat', got 8"):
        IndexConfig(kind="flat", num_lists=8)


def test_product_codes_that_cannot_be_learned_are_refused(tmp_path):
    with pytest.raises(ValueError, match="code_bytes must be a divisor of 16 dimensions, got 64"):
        indexed(tmp_path / "a", parts(tmp_path / "x"), kind="ivf_pq")
    with pytest.raises(ValueError, match="kind must be another for 200 rows: codes need 256, got 'ivf_pq'"):
        indexed(tmp_path / "b", parts(tmp_path / "y", (200,)), kind="ivf_pq", code_bytes=8)
