"""Facts about rows that belong together, and about columns that are longer than memory."""

import numpy as np
import pyarrow as pa
import pytest

from unclip.data import groups as module
from unclip.data.groups import Groups, Joining, equal_rows, first_equal
from unclip.data.scratch import Column, Texts, filled, places, taken


@pytest.fixture
def small_blocks(monkeypatch):
    for name in ("unclip.data.groups.BLOCK_ROWS", "unclip.data.scratch.BLOCK_ROWS"):
        monkeypatch.setattr(name, 16)


@pytest.mark.parametrize("width", [None, 2])
def test_each_row_is_joined_to_the_first_that_equals_it(width, small_blocks, tmp_path):
    values = np.random.default_rng(0).integers(0, 60, (500, width or 1)).astype(np.uint64)
    expected = [next(j for j in range(500) if (values[j] == values[i]).all()) for i in range(500)]
    found = Groups.of(equal_rows(values if width else values[:, 0], work=tmp_path))
    assert found.first_of(np.arange(500)).tolist() == expected == first_equal(values).tolist()


def test_only_the_rows_that_count_are_joined(small_blocks):
    values, mine = np.arange(100, dtype=np.uint64) % 10, np.arange(100) >= 20
    found = Groups.of(equal_rows(values, mine))
    assert found.rows.tolist() == list(range(20, 100)) and set(found.firsts.tolist()) == set(range(20, 30))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_rows_that_are_all_different_are_in_no_group(size, small_blocks):
    assert len(Groups.of(equal_rows(np.arange(size, dtype=np.uint64)))) == 0


def test_rows_join_through_others_and_are_named_by_the_first():
    found = Groups.of([np.array([[4, 5], [1, 5]]), np.array([[3, 2], [6, 6]])])
    assert found.first_of(np.arange(8)).tolist() == [0, 1, 2, 2, 1, 1, 6, 7]
    assert found.num_others == 3 and found.pairs.tolist() == [[2, 3], [1, 4], [1, 5]]


def test_groups_that_grow_are_those_of_all_pairs_at_once(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_PAIRS", 3)
    pairs, growing = np.random.default_rng(0).integers(0, 200, (150, 2)), Joining()
    for some in np.split(pairs, 30):
        growing.join(some)
    assert np.array_equal(growing.groups().pairs, Groups.of([pairs]).pairs)


def test_columns_are_what_was_appended_and_leave_no_file(small_blocks, tmp_path):
    numbers, texts = Column(np.int32, tmp_path, width=2), Texts(tmp_path)
    for some in (["a", "", "hé"], [], pa.array(["no", "犬"])[1:]):
        texts.append(some)
        numbers.append(np.full((len(some), 2), len(some)))
    assert texts.array().to_pylist() == ["a", "", "hé", "犬"] and len(texts) == 4
    assert numbers.array().tolist() == [[3, 3]] * 3 + [[1, 1]]
    assert not list(tmp_path.iterdir())


def test_mapped_arrays_take_and_hold_what_they_are_given(small_blocks, tmp_path):
    mask = np.arange(50) % 3 == 0
    rows = places(mask, tmp_path)
    assert np.array_equal(rows, np.flatnonzero(mask)) and np.array_equal(taken(mask, rows), mask[mask])
    array = filled(40, -1, np.int64, tmp_path)
    array[39] = 5
    assert array.tolist() == [-1] * 39 + [5] and len(filled(0, 1, np.int8)) == 0
