"""Facts about the search index."""

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.unclip.data.data_fixtures import part
from unclip.data.config import IndexConfig
from unclip.data.index import build_index, exact_scores, search, write_index
from unclip.data.table import read_part, unit

faiss.omp_set_num_threads(1)


def parts(tmp_path, sizes=(300, 500), scale=1.0):
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(size, 16)).astype(np.float32) for size in sizes]
    near = [image + scale * rng.normal(size=image.shape).astype(np.float32) for image in sets]
    return [part(tmp_path / f"{i}.parquet", image, i, near[i]) for i, image in enumerate(sets)]


def test_ids_count_through_the_parts_and_the_index_reads_back(tmp_path):
    paths = parts(tmp_path)
    write_index(build_index(IndexConfig(), paths, 0), paths, tmp_path)
    keys, ids, cosines = search(tmp_path, read_part(paths[1]).image[[7, 400]], 3)
    assert ids[:, 0].tolist() == [307, 700] and np.allclose(cosines[:, 0], 1, atol=1e-5)
    assert keys["key"][307].as_py() == read_part(paths[1]).keys[7] and keys["row"][307].as_py() == 7


def test_a_small_table_is_searched_exactly_and_says_why(tmp_path):
    figures = build_index(IndexConfig(), parts(tmp_path), 0).figures
    assert figures["kind"] == "flat" and figures["recall_at_10"] == 1.0 and "800 rows" in figures["reason"]


def test_probes_are_raised_until_the_recall_is_reached(tmp_path):
    paths = parts(tmp_path, (1500,))
    low = build_index(IndexConfig(kind="ivf", min_recall=0.5), paths, 0).figures
    high = build_index(IndexConfig(kind="ivf", min_recall=0.95), paths, 0).figures
    assert low["num_probes"] < high["num_probes"] and high["recall_at_10"] >= 0.95


def test_a_recall_below_the_gate_fails_the_stage(tmp_path):
    with pytest.raises(ValueError, match=r"recall@10 is 0\.\d+, below min_recall 0\.99"):
        build_index(IndexConfig(kind="ivf", num_probes=1, min_recall=0.99), parts(tmp_path, (1500,)), 0)


def test_the_same_seed_builds_the_same_bytes(tmp_path):
    paths = parts(tmp_path, (1500,))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_index(build_index(IndexConfig(kind="ivf"), paths, 3), paths, tmp_path / name)
    assert (tmp_path / "a" / "index.faiss").read_bytes() == (tmp_path / "b" / "index.faiss").read_bytes()


def test_exact_scores_are_those_of_one_matrix(tmp_path):
    paths = parts(tmp_path, (30, 4, 50))
    queries = unit(np.random.default_rng(5).normal(size=(6, 16)))
    table = np.concatenate([read_part(path).image for path in paths])
    assert np.allclose(exact_scores(paths, queries, 10), -np.sort(-(queries @ table.T), axis=1)[:, :10], atol=1e-6)


def test_faiss_and_torch_work_in_one_process(tmp_path):
    built = build_index(IndexConfig(), parts(tmp_path), 0)
    product = torch.ones(64, 64) @ torch.ones(64, 64)
    assert float(product[0, 0]) == 64 and built.index.search(np.eye(16, dtype=np.float32)[:2], 1)[1].shape == (2, 1)


def test_another_key_map_is_refused(tmp_path):
    paths = parts(tmp_path)
    write_index(build_index(IndexConfig(), paths, 0), paths, tmp_path)
    pq.write_table(pq.read_table(tmp_path / "keys.parquet").slice(1), tmp_path / "keys.parquet")
    with pytest.raises(ValueError, match=r"800 rows, keys\.parquet 799"):
        search(tmp_path, np.ones((1, 16), np.float32), 1)
