"""Facts about the memory that an index takes to make and to open: that of a part, or of its lists, not of its rows."""

import re
import tracemalloc
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from tests.unclip.data.data_fixtures import part
from unclip.data.config import IndexConfig
from unclip.data.index import Builder, kept_in, write_index
from unclip.data.index_codes import open_index, write_probes
from unclip.data.index_files import write_flat
from unclip.data.index_growth import Growth
from unclip.data.index_lists import BLOCK_ROWS, Kind, empty_index, learn_lists, ranges
from unclip.data.index_recall import sampled
from unclip.data.raw_rows import RawRows
from unclip.data.table import read_part, unit, vectors_in

faiss.omp_set_num_threads(1)
MB = 2**20


def own_mb():
    """Memory of the process's own: what it maps from files apart."""
    return int(re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def traced_mb(work):
    """The most that `work` had in NumPy's arrays and Python's objects."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MB


def raw(path, count, dimension):
    """Rows in a file, and lists learned from them."""
    vectors = np.random.default_rng(0).normal(size=(count, dimension))
    vectors.astype(np.float16).tofile(path)
    rows = RawRows(path, dimension)
    return rows, learn_lists(rows, 40, 0, min(count, 1000))


def builder_of(folder, count):
    """The maker of an index over so many parts of 70 rows."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [part(folder / f"{n}.parquet", rng.normal(size=(70, 16)).astype(np.float32), n) for n in range(count)]
    config = IndexConfig(kind="ivf", num_lists=1)
    return Builder(Growth(config, paths, [70] * count, [p.name for p in paths], 0, kept_in(folder / "kept")))


def test_an_exact_index_written_block_by_block_has_the_bytes_of_the_whole(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float16)
    write_flat(16, [vectors[:0], vectors[:300], vectors[300:]], tmp_path / "blocks")
    whole = faiss.IndexFlatIP(16)
    whole.add(unit(vectors))
    faiss.write_index(whole, str(tmp_path / "whole"))
    assert (tmp_path / "blocks").read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_exact_index_is_mapped_not_loaded(tmp_path):
    write_flat(64, [np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float16)], tmp_path / "index.faiss")
    before = own_mb()
    index = open_index(tmp_path)
    index.search(np.ones((1, 64), np.float32), 10)
    assert index.ntotal == 100_000 and own_mb() - before < 5  # its vectors are 24


def test_an_opened_index_answers_while_it_is_written_again(tmp_path):
    paths = [part(tmp_path / "0.parquet", np.random.default_rng(0).normal(size=(900, 16)).astype(np.float32), 0)]
    write_index(IndexConfig(kind="ivf", num_lists=12), paths, ["0"], tmp_path, 0)
    index, queries = open_index(tmp_path), read_part(paths[0]).image[:50]
    found = index.search(queries, 5)[1]
    write_probes(index, tmp_path)
    assert np.array_equal(index.search(queries, 5)[1], found)
    assert np.array_equal(open_index(tmp_path).search(queries, 5)[1], found)


def test_codes_learned_block_by_block_are_those_that_faiss_learns(tmp_path):
    rows, lists = raw(tmp_path / "rows", BLOCK_ROWS + 500, 16)
    coarse = faiss.IndexFlatIP(16)
    coarse.add(lists.centroids)
    whole = faiss.IndexIVFScalarQuantizer(coarse, 16, 40, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    whole.train(rows.unit(slice(None)))
    learned = empty_index(Kind("ivf", "", 40), lists, rows, np.arange(len(rows)))
    found, expected = (faiss.vector_to_array(index.sq.trained) for index in (learned, whole))
    assert learned.is_trained and found.shape == (32,) and np.allclose(found, expected, atol=1e-6)


def test_codes_are_learned_with_one_block_of_the_sample_in_memory(tmp_path):
    rows, lists = raw(tmp_path / "rows", 4 * BLOCK_ROWS, 32)
    one, four = (traced_mb(lambda s=size: ranges(lists, rows, np.arange(s))) for size in (BLOCK_ROWS, 4 * BLOCK_ROWS))
    assert four < 1.1 * one


def test_what_is_nearest_to_the_queries_is_in_memory_of_one_part_at_a_time(tmp_path):
    few, many = builder_of(tmp_path / "few", 4), builder_of(tmp_path / "many", 24)
    few.asked(is_small=False), many.asked(is_small=False)
    few_mb, many_mb = (traced_mb(lambda b=builder: b.asked(is_small=False)) for builder in (few, many))
    assert many_mb - few_mb < 1  # of 20 parts: 3.75


def test_parts_that_no_row_is_drawn_from_stay_unread(tmp_path):
    path = part(tmp_path / "0.parquet", np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32), 0)
    found = sampled([path, tmp_path / "none.parquet"], "text_embedding", [30, 0], 4, 0)
    assert found.shape == (4, 16)


def test_readers_of_parts_hold_no_memory_when_they_are_done(tmp_path):
    image = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    paths = [part(tmp_path / f"{n}.parquet", image, n) for n in range(6)]
    pa.default_memory_pool().release_unused()
    for _ in vectors_in(paths, "image_embedding"):
        pass
    before = own_mb()
    pa.default_memory_pool().release_unused()
    assert before - own_mb() < 8
