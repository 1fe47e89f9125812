"""Facts about the search index."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.unclip.data.data_fixtures import part
from unclip.data import index
from unclip.data.config import IndexConfig
from unclip.data.digests import file_digest
from unclip.data.index import grow_index, kept_in, write_index
from unclip.data.index_codes import open_index
from unclip.data.index_figures import index_line
from unclip.data.index_files import search
from unclip.data.index_growth import checked_after, first_of_size
from unclip.data.index_lists import Kind, kind_of, learn_lists
from unclip.data.index_recall import exact_nearest, rows_at
from unclip.data.raw_rows import RawRows
from unclip.data.table import read_part, unit

faiss.omp_set_num_threads(1)
LISTS = {"kind": "ivf", "num_lists": 12}


def parts(tmp_path, sizes=(300, 500), center=0.0, last=0.0):
    tmp_path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    made = []
    for number, size in enumerate(sizes):
        image = rng.normal(size=(size, 16)).astype(np.float32) + (last if number == len(sizes) - 1 else center)
        near = image + rng.normal(size=image.shape).astype(np.float32)
        made.append(part(tmp_path / f"{number}.parquet", image, number, near))
    return made


def indexed(out, paths, keep=None, **config):
    out.mkdir(exist_ok=True)
    return write_index(IndexConfig(**config), paths, [file_digest(path) for path in paths], out, 0, keep)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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


def test_parts_merged_answer_as_one_index_filled_in_one_go(tmp_path):
    paths = parts(tmp_path, (700, 300, 500))
    indexed(tmp_path / "out", paths, kept_in(tmp_path / "kept"), num_probes=12, **LISTS)
    (empty,) = (tmp_path / "kept").glob("index_lists-*/empty.faiss")
    merged, whole = open_index(tmp_path / "out"), faiss.read_index(str(empty))
    whole.nprobe = 12
    rows = rows_at(paths, np.arange(1500))
    whole.add(rows)
    for one, other in zip(merged.search(rows[::7], 10), whole.search(rows[::7], 10), strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_an_index_that_grew_has_the_bytes_of_one_made_at_once(tmp_path):
    paths = parts(tmp_path, (700, 300, 500))
    keep = kept_in(tmp_path / "kept")
    indexed(tmp_path / "grown", paths[:2], keep, **LISTS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.npy")}
    indexed(tmp_path / "grown", paths, keep, **LISTS)
    indexed(tmp_path / "anew", paths, **LISTS)
    assert files(tmp_path / "grown") == files(tmp_path / "anew")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((tmp_path / "kept").iterdir())) == 2 + 2 + 2 * 3


def test_a_folder_that_grows_encodes_the_new_part_and_forgets_one_that_went(tmp_path):
    paths = parts(tmp_path / "parts", (700, 300, 500))
    (tmp_path / "out").mkdir()

    def pieces(count):
        grow_index(IndexConfig(**LISTS), paths[:count], tmp_path / "out", 0)
        return {path.name for path in (tmp_path / "out" / "index_pieces").iterdir()}

    two, three = pieces(2), pieces(3)
    assert len(two) == 7 and two < three and len(three) == 10 and pieces(2) == two


def test_product_codes_without_the_table_are_refused(tmp_path):
    paths = parts(tmp_path / "parts", (1500,))
    indexed(tmp_path / "out", paths, kind="ivf_pq", num_lists=4, code_bytes=8)
    with pytest.raises(ValueError, match=r"needs the table, parts/\*\.parquet beside it"):
        search(tmp_path / "out", rows_at(paths, np.array([3])), 1)


def test_a_part_unlike_those_before_has_the_lists_learned_anew(tmp_path):
    sizes = (700, 300, 500)
    alike = indexed(tmp_path / "a", parts(tmp_path / "x", sizes, center=3, last=3), **LISTS)
    other = indexed(tmp_path / "b", parts(tmp_path / "y", sizes, center=3, last=-3), **LISTS)
    assert alike["learned_from_parts"] == 1 and 0.9 < alike["drift"] < 1.1
    assert other["learned_from_parts"] == 3 and other["learned_from_because"].startswith("parts up to 3 are ")


def grown(out, paths):
    """Of each table of the first of these parts, the pieces that are kept, as an index of them grew."""
    out.mkdir()
    found = []
    for count in range(1, len(paths) + 1):
        grow_index(IndexConfig(**LISTS), paths[:count], out, 0)
        found.append({path.name for path in (out / "index_pieces").iterdir()})
    return found


def learned(pieces):
    return {name for name in pieces if name.startswith("index_lists")}


def test_lists_are_learned_once_while_parts_are_alike(tmp_path):
    pieces = grown(tmp_path / "out", parts(tmp_path, (500,) * 9))
    assert len(set.union(*map(learned, pieces))) == 1
    assert all(before < after for before, after in pairwise(pieces))


def test_after_a_drift_lists_are_learned_once_more(tmp_path):
    paths = parts(tmp_path / "parts", (500,) * 4, center=3, last=-3) + parts(tmp_path / "more", (500,) * 4, -3, 3)
    pieces = grown(tmp_path / "out", paths)
    assert len(set.union(*map(learned, pieces))) == 2
    assert learned(pieces[2]).isdisjoint(learned(pieces[4])) and learned(pieces[4]) == learned(pieces[-1])
    shutil.rmtree(tmp_path / "out" / "index_pieces")
    indexed(tmp_path / "anew", paths, **LISTS)
    assert files(tmp_path / "out") == files(tmp_path / "anew")


@pytest.mark.parametrize(("num_parts", "first"), [(10, 10), (39, 10), (40, 40), (159, 40), (160, 160), (200, 200)])
def test_lists_are_learned_anew_where_size_asks_for_it(num_parts, first):
    assert first_of_size(IndexConfig(), [10_000] * num_parts)[0] == first


def test_lists_that_were_set_are_learned_once_all_can_be():
    assert first_of_size(IndexConfig(kind="ivf", num_lists=12), [300, 100, 68, 900])[0] == 3


def test_parts_that_go_on_differing_cost_eight_learnings_a_doubling():
    assert list(checked_after(2, 9)) == [3, 4, 5, 6, 7, 8, 9]
    assert list(checked_after(512, 1024)) == [576, 640, 704, 768, 832, 896, 960, 1024]


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
    found, ids = exact_nearest(paths, queries, 10)
    assert np.allclose(found, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)
    assert np.array_equal(ids, np.argsort(-cosines, axis=1)[:, :10])


def test_faiss_and_torch_work_in_one_process(tmp_path):
    indexed(tmp_path, parts(tmp_path))
    product = torch.ones(64, 64) @ torch.ones(64, 64)
    assert float(product[0, 0]) == 64
    assert open_index(tmp_path).search(np.eye(16, dtype=np.float32)[:2], 1)[1].shape == (2, 1)


def test_another_key_map_and_a_cut_data_file_are_refused(tmp_path):
    indexed(tmp_path, parts(tmp_path), **LISTS)
    pq.write_table(pq.read_table(tmp_path / "keys.parquet").slice(1), tmp_path / "keys.parquet")
    with pytest.raises(ValueError, match=r"800 rows, keys\.parquet 799"):
        search(tmp_path, np.ones((1, 16), np.float32), 1)
    (lists,) = tmp_path.glob("*.ivfdata")
    lists.write_bytes(b"short")
    with pytest.raises(ValueError, match=rf"{lists.name} is missing or cut short"):
        open_index(tmp_path)


def test_an_index_that_becomes_exact_leaves_no_lists(tmp_path):
    paths = parts(tmp_path / "parts", (700, 300))
    indexed(tmp_path / "out", paths, **LISTS)
    assert len(list((tmp_path / "out").glob("*.ivfdata"))) == 1
    indexed(tmp_path / "out", paths)
    assert set(files(tmp_path / "out")) == {"index.faiss", "index.json", "keys.parquet"}


def test_a_search_finds_a_whole_index_while_it_is_replaced(tmp_path):
    paths, out = parts(tmp_path / "parts", (700, 300)), tmp_path / "out"
    indexed(out, paths, **LISTS)

    def replace():
        for count, config in [(1, LISTS), (2, LISTS), (1, {}), (2, LISTS), (2, {})] * 4:
            indexed(out, paths[:count], **config)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(replace)
        while not writing.done():
            keys, ids, _ = search(out, rows_at(paths, np.array([3])), 1)
            assert ids[0, 0] == 3 and len(keys) in (700, 1000)
    assert writing.result() is None


class Killed(BaseException):
    """What ends a run wherever it is."""


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_index_whose_writer_was_killed_is_the_old_one_or_the_new_one(tmp_path, at, monkeypatch):
    paths, out, real, moved = parts(tmp_path / "parts", (700, 300)), tmp_path / "out", os.replace, []
    indexed(out, paths, **LISTS)

    def replace(source, target):
        if target.parent == out:
            moved.append(target)
            if len(moved) > at:
                raise Killed
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(Killed):
        indexed(out, paths, kind="ivf", num_lists=9)
    assert open_index(out).nlist == (9 if at == 3 else 12) and search(out, rows_at(paths, np.array([3])), 1)[1] == 3


def test_an_index_that_misses_too_much_leaves_the_one_before(tmp_path):
    paths, out = parts(tmp_path / "parts", (1500,)), tmp_path / "out"
    indexed(out, paths, **LISTS)
    before = files(out)
    with pytest.raises(ValueError, match="below min_recall"):
        indexed(out, paths, kind="ivf", num_probes=1, min_recall=0.99)
    assert files(out) == before


def test_a_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="code_bytes must be null with kind 'ivf', got 8"):
        IndexConfig(kind="ivf", code_bytes=8)
    with pytest.raises(ValueError, match="num_lists must be null with kind 'flat', got 8"):
        IndexConfig(kind="flat", num_lists=8)


def test_first_parts_without_rows_are_not_learned_from(tmp_path):
    figures = indexed(tmp_path / "out", parts(tmp_path / "parts", (0, 1, 1500)), **LISTS)
    assert figures["learned_from_parts"] == 3 and figures["num_lists"] == 12


def test_codes_are_made_again_for_other_lists(tmp_path):
    paths, keep = parts(tmp_path / "parts", (700, 300)), kept_in(tmp_path / "kept")
    indexed(tmp_path / "one", paths, keep, **LISTS)
    lists = next((tmp_path / "kept").glob("index_lists-*"))
    lists.joinpath("note").write_text("as if they had been learned otherwise")
    codes = set((tmp_path / "kept").glob("index_codes-*"))
    indexed(tmp_path / "other", paths, keep, **LISTS)
    assert len(set((tmp_path / "kept").glob("index_codes-*")) - codes) == 2


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


def test_product_codes_that_cannot_be_learned_are_refused(tmp_path):
    with pytest.raises(ValueError, match="code_bytes must be a divisor of 16 dimensions, got 64"):
        indexed(tmp_path / "a", parts(tmp_path / "x"), kind="ivf_pq")
    with pytest.raises(ValueError, match="kind must be another for 200 rows: codes need 256, got 'ivf_pq'"):
        indexed(tmp_path / "b", parts(tmp_path / "y", (200,)), kind="ivf_pq", code_bytes=8)
