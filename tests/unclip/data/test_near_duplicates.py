"""Facts about the search for near duplicates."""

import numpy as np
import pytest

from tests.unclip.data.data_fixtures import part
from unclip.data import near_duplicates
from unclip.data.groups import Groups
from unclip.data.near_duplicates import Draw, cells, inner_pairs, near_groups, thinned
from unclip.data.raw_rows import RawRows, raw_rows
from unclip.data.table import read_part, unit

DIM = 32


def planted(size=3000, seed=0, clusters=2):
    """Rows of which every twentieth is near one before it, some nearer to each other than to the first."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(size, DIM)) + clusters * rng.normal(size=(20, DIM))[rng.integers(20, size=size)]
    for row in range(20, size, 20):
        rows[row] = rows[row - rng.integers(1, 20)] + rng.normal(size=DIM) * 0.3
    rows[100], rows[200] = rows[50], rows[50]
    return rows.astype(np.float16)


def stored(tmp_path, rows):
    rows.tofile(tmp_path / "rows")
    return RawRows(tmp_path / "rows", DIM)


def of_one_group(found):
    groups = found.groups
    return {tuple(groups.rows[groups.firsts == first]) for first in np.unique(groups.firsts)}


def exact(tmp_path, rows):
    return near_groups(stored(tmp_path, rows), 0.96, 0)


def clustered(tmp_path, rows, **more):
    return near_groups(stored(tmp_path, rows), 0.96, 0, exact_below=100, **more)


@pytest.fixture
def small_cells(monkeypatch):
    monkeypatch.setattr(near_duplicates, "CELL_ROWS", 128)
    monkeypatch.setattr(near_duplicates, "COMPARED_ROWS", 700)


def test_blocks_find_the_pairs_of_the_whole_matrix(tmp_path, small_cells):
    rows = planted()
    truth, found = Groups.of([inner_pairs(unit(rows), 0.96)]), exact(tmp_path, rows)
    assert np.array_equal(found.groups.pairs, truth.pairs) and found.figures["search"] == "exact"
    assert found.figures["joined_rows"] > 100


def test_clusterings_find_the_groups_of_the_exact_search(tmp_path, small_cells):
    rows = planted()
    found, truth = clustered(tmp_path, rows), exact(tmp_path, rows)
    assert of_one_group(found) == of_one_group(truth)
    assert found.figures["search"] == "clustered" and found.figures["pair_recall"] == 1.0
    assert found.figures["pairs_checked"] > 50


def test_each_clustering_adds_to_those_before(tmp_path, small_cells):
    joined = clustered(tmp_path, planted(clusters=0)).figures["joined_after_each_clustering"]
    assert len(joined) == 5 and joined == sorted(joined) and joined[0] < joined[-1]


def test_the_order_of_rows_changes_no_group(tmp_path, small_cells):
    rows = planted()
    order = np.random.default_rng(1).permutation(len(rows))
    before, after = clustered(tmp_path, rows), clustered(tmp_path, rows[order])
    assert {frozenset(order[list(group)]) for group in of_one_group(after)} == {
        frozenset(group) for group in of_one_group(before)
    }


def test_the_recall_falls_where_pairs_are_missed(tmp_path, small_cells, monkeypatch):
    monkeypatch.setattr(near_duplicates, "inner_pairs", lambda vectors, least: np.empty((0, 2), np.int64))
    assert clustered(tmp_path, planted()).figures["pair_recall"] < 0.1


def test_rows_that_nothing_tells_apart_are_one_group(tmp_path, small_cells):
    rows = np.ones((2000, DIM), np.float16) + np.eye(DIM, dtype=np.float16)[0] * np.arange(2000)[:, None] / 2**11
    found = clustered(tmp_path, rows.astype(np.float16))
    assert (found.groups.firsts == 0).all() and found.figures["joined_rows"] == 1999


def test_cells_hold_every_row_once_and_are_small(tmp_path, small_cells):
    rows = stored(tmp_path, planted())
    members = np.delete(np.arange(3000), [100, 200])  # they equal row 50
    found = list(cells(rows, Draw(rows.digests()), members, np.random.default_rng(0)))
    assert sorted(np.concatenate(found).tolist()) == members.tolist() and max(map(len, found)) <= 128


def test_thinned_pairs_join_the_same_groups():
    pairs = np.array([[i, j] for i in range(0, 40, 2) for j in range(i + 2, 40, 2)])
    thin = thinned(pairs, 40)
    assert len(thin) <= 40 and np.array_equal(Groups.of([pairs]).pairs, Groups.of([thin]).pairs)


def test_a_draw_does_not_depend_on_where_the_rows_stand(tmp_path):
    rows = planted()
    order = np.random.default_rng(1).permutation(len(rows))
    draws = [Draw(stored(tmp_path, some).digests()).of(np.arange(3000), 50, 7) for some in (rows, rows[order])]
    assert len(draws[0]) == 50 and set(order[draws[1]]) == set(draws[0])


def test_vectors_are_those_of_the_parts_and_the_file_goes_away(tmp_path):
    paths = [part(tmp_path / f"{i}.parquet", planted(400, i), i) for i in range(2)]
    with raw_rows(paths, np.array([0, 1, 1]), np.array([39, 3, 0]), tmp_path / "work") as rows:
        found = rows.unit(slice(0, 3))
        assert len(list((tmp_path / "work").iterdir())) == 1
    one, two = (read_part(path).image for path in paths)
    assert np.array_equal(found, np.stack([one[39], two[3], two[0]])) and not list((tmp_path / "work").iterdir())


def test_no_rows_are_no_groups(tmp_path):
    assert len(exact(tmp_path, planted()[:0]).groups) == 0
