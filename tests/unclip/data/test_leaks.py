"""Facts about the search for training rows that are too near to held-out ones."""

import numpy as np
import pytest

from unclip.data import leaks as module
from unclip.data import near_duplicates
from unclip.data.leaks import find_leaks
from unclip.data.raw_rows import RawRows
from unclip.data.table import unit

DIM = 32


def table(tmp_path, size=3000):
    """Rows of which every tenth is held out, and every thirtieth after it near to it; five equal ones among them."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(size, DIM)) + 2 * rng.normal(size=(20, DIM))[rng.integers(20, size=size)]
    for row in range(35, size, 30):
        rows[row] = rows[row - 5] + rng.normal(size=DIM) * 0.2
    rows[[41, 52, 63]] = rows[40]  # 40 is held out
    rows[[71, 82]] = rows[65]  # 65 is near to 60
    rows.astype(np.float16).tofile(tmp_path / "rows")
    return RawRows(tmp_path / "rows", DIM), np.arange(size) % 10 == 0


def brute_force(rows, held_out, max_cosine):
    vectors = rows.unit(slice(0, len(rows)))
    cosines = vectors @ vectors[held_out].T
    bad = np.flatnonzero((cosines.max(1) > max_cosine) & ~held_out)
    return bad, cosines.max(1)[bad]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(near_duplicates, "CELL_ROWS", 128)
    for some in (near_duplicates, module):
        monkeypatch.setattr(some, "COMPARED_ROWS", 70)


@pytest.mark.parametrize("exact_pairs", [10**9, 0])
def test_leaks_are_those_of_the_whole_matrix(tmp_path, small_blocks, exact_pairs):
    rows, held_out = table(tmp_path)
    leaks = find_leaks(rows, held_out, 0.96, 0, exact_pairs=exact_pairs)
    bad, cosine = brute_force(rows, held_out, 0.96)
    assert leaks.found.rows.tolist() == bad.tolist() and {41, 52, 63, 65, 71, 82} <= set(bad.tolist())
    assert np.allclose(leaks.found.cosine, cosine, atol=1e-3) and held_out[leaks.found.held_out].all()
    assert leaks.figures["search"] == ("exact" if exact_pairs else "clustered")


@pytest.mark.parametrize("exact_pairs", [10**9, 0])
def test_each_leak_names_a_held_out_row_of_that_cosine(tmp_path, small_blocks, exact_pairs):
    rows, held_out = table(tmp_path)
    found = find_leaks(rows, held_out, 0.96, 0, exact_pairs=exact_pairs).found
    cosines = np.einsum("nd,nd->n", rows.unit(found.rows), rows.unit(found.held_out))
    assert np.allclose(found.cosine, cosines, atol=1e-3)


def test_the_recall_falls_where_leaks_are_missed(tmp_path, small_blocks, monkeypatch):
    rows, held_out = table(tmp_path)
    assert find_leaks(rows, held_out, 0.96, 0, exact_pairs=0).figures["leak_recall"] == 1.0
    monkeypatch.setattr(module, "cells", lambda rows, drawn, members, rng: iter(np.split(members, len(members))))
    assert find_leaks(rows, held_out, 0.96, 0, exact_pairs=0).figures["leak_recall"] < 0.1


@pytest.mark.parametrize("held", [False, True])
def test_without_rows_of_both_kinds_nothing_leaks(tmp_path, held):
    unit(np.ones((5, DIM))).astype(np.float16).tofile(tmp_path / "rows")
    rows = RawRows(tmp_path / "rows", DIM)
    assert len(find_leaks(rows, np.full(5, held), 0.9, 0).found.rows) == 0
