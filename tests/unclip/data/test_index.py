"""Facts about the search index."""

import numpy as np
import pytest
import torch

from tests.unclip.data.data_fixtures import part
from tests.unclip.data.index_fixtures import LISTS, indexed, parts
from unclip.data import index
from unclip.data.config import IndexConfig
from unclip.data.index import grow_index
from unclip.data.index_codes import open_index
from unclip.data.index_figures import index_line
from unclip.data.index_files import search
from unclip.data.index_recall import exact_nearest, rows_at
from unclip.data.table import read_part, unit


def test_ids_count_through_the_parts_and_the_index_reads_back(tmp_path):
    paths = parts(tmp_path)
    indexed(tmp_path / "out", paths)
    keys, ids, cosines = search(tmp_path / "out", read_part(paths[1]).image[[7, 400]], 3)
    assert ids[:, 0].tolist() == [307, 700] and np.allclose(cosines[:, 0], 1, atol=1e-5)
    found = keys.rows([307, 0, 307])
    assert [row["key"] for row in found] == [read_part(paths[n]).keys[row] for n, row in ((1, 7), (0, 0), (1, 7))]
    assert [(row["shard"], row["row"]) for row in found] == [(1, 7), (0, 0), (1, 7)]


def test_a_small_table_is_searched_exactly_and_says_why(tmp_path):
    figures = indexed(tmp_path / "out", parts(tmp_path))
    assert figures["kind"] == "flat" and figures["recall_at_10"] == 1.0
    assert figures["reason"] == "800 rows, from 0 and below 100000"


def test_an_index_with_lists_says_in_one_line_what_a_search_in_it_finds(tmp_path):
    figures = indexed(tmp_path / "out", parts(tmp_path), num_probes=5, min_recall=0.1, **LISTS)
    recall = f"recall@1 {figures['recall_at_1']:.3f}, @10 {figures['recall_at_10']:.3f}"
    assert index_line(figures) == f"index: ivf (800 rows, ivf as set), 5 of 12 lists searched, {recall}"


@pytest.mark.parametrize("kind", ["ivf", "ivf_hnsw", "ivf_pq"])
def test_every_kind_finds_the_rows_themselves(tmp_path, kind):
    paths = parts(tmp_path / "parts", (1500, 300))
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"{number:06d}.parquet"))
    paths = sorted((tmp_path / "parts").glob("*.parquet"))
    more = {"code_bytes": 8} if kind == "ivf_pq" else {}
    figures = indexed(tmp_path, paths, kind=kind, num_lists=12, min_recall=0.95, **more)
    assert figures["recall_at_10"] >= 0.95 and figures["num_lists"] == 12
    _, ids, cosines = search(tmp_path, rows_at(paths, np.array([3, 1600])), 2)
    assert ids[:, 0].tolist() == [3, 1600] and np.allclose(cosines[:, 0], 1, atol=0.01)


def test_product_codes_without_the_table_are_refused(tmp_path):
    paths = parts(tmp_path / "parts", (1500,))
    indexed(tmp_path / "out", paths, kind="ivf_pq", num_lists=4, code_bytes=8)
    with pytest.raises(ValueError, match=r"needs the table, parts/\*\.parquet beside it"):
        search(tmp_path / "out", rows_at(paths, np.array([3])), 1)


def test_probes_are_raised_until_the_recall_is_reached(tmp_path):
    paths = parts(tmp_path, (1500,))
    low = indexed(tmp_path / "low", paths, kind="ivf", min_recall=0.5)
    high = indexed(tmp_path / "high", paths, kind="ivf", min_recall=0.95)
    assert low["num_probes"] < high["num_probes"] and high["recall_at_10"] >= 0.95
    assert open_index(tmp_path / "high").nprobe == high["num_probes"]


def test_a_recall_below_the_gate_fails_the_stage(tmp_path):
    with pytest.raises(ValueError, match=r"recall@10 is 0\.\d+, below min_recall 0\.99"):
        indexed(tmp_path, parts(tmp_path, (1500,)), kind="ivf", num_probes=1, min_recall=0.99)


def test_equal_rows_count_as_each_other_in_the_recall(tmp_path):
    image = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    paths = [part(tmp_path / f"{i}.parquet", image, i) for i in range(3)]
    assert indexed(tmp_path / "out", paths)["recall_at_1"] == 1.0


def test_the_exact_search_is_that_of_one_matrix(tmp_path):
    paths = parts(tmp_path, (30, 4, 50))
    queries = unit(np.random.default_rng(5).normal(size=(6, 16)))
    cosines = queries @ np.concatenate([read_part(path).image for path in paths]).T
    found, ids = exact_nearest(paths, (30, 4, 50), queries, 10)
    assert np.allclose(found, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)
    assert np.array_equal(ids, np.argsort(-cosines, axis=1)[:, :10])


def test_faiss_and_torch_work_in_one_process(tmp_path):
    indexed(tmp_path, parts(tmp_path))
    product = torch.ones(64, 64) @ torch.ones(64, 64)
    assert float(product[0, 0]) == 64
    assert open_index(tmp_path).search(np.eye(16, dtype=np.float32)[:2], 1)[1].shape == (2, 1)


def test_a_folder_whose_lists_miss_too_much_gets_an_exact_index(tmp_path):
    paths = parts(tmp_path / "parts", (700, 300))
    (tmp_path / "out").mkdir()
    figures = grow_index(IndexConfig(kind="ivf", num_probes=1, min_recall=1.0), paths, tmp_path / "out", 0)
    assert figures["kind"] == "flat" and "below min_recall" in figures["reason"] and figures["recall_at_10"] == 1


def test_more_rows_than_exact_search_is_for_do_not_become_exact_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MAX_EXACT_ROWS", 999)
    paths = parts(tmp_path / "parts", (700, 300))
    (tmp_path / "out").mkdir()
    with pytest.raises(
        ValueError, match=r"below min_recall 1.0: .*; of 1,000 rows, more than 999, .* lower min_recall"
    ):
        grow_index(IndexConfig(kind="ivf", num_probes=1, min_recall=1.0), paths, tmp_path / "out", 0)
    assert grow_index(IndexConfig(kind="flat"), paths, tmp_path / "out", 0)["kind"] == "flat"
