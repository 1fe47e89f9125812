"""Facts about the dense form of a table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import part
from unclip.data.dense import dense, take_rows
from unclip.data.shards import sample_key
from unclip.data.table import read_part, vectors_in, vectors_of


def table(tmp_path):
    rng = np.random.default_rng(0)
    return [part(tmp_path / f"{i}.parquet", rng.normal(size=(10, 12)), i) for i in range(3)]


def keep(path, rows):
    columns = list(zip(*[(sample_key(shard, row), shard, row, split) for shard, row, split in rows], strict=True))
    types = (pa.string(), pa.int32(), pa.int32(), pa.string())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, names=["key", "shard", "row", "split"]), path)
    return path


ROWS = [(0, 3, "train"), (0, 9, "test"), (2, 0, "train"), (2, 4, "train")]


def test_rows_are_those_kept_in_their_order(tmp_path):
    paths, kept = table(tmp_path), keep(tmp_path / "kept.parquet", ROWS)
    found = dense(paths, kept, "train", tmp_path / "cache")
    assert found.keys == [sample_key(0, 3), sample_key(2, 0), sample_key(2, 4)] and found.shard.tolist() == [0, 2, 2]
    assert np.array_equal(found.zi[2], read_part(paths[2]).image[4]) and not found.zi.flags.writeable


def test_a_second_call_maps_what_the_first_gathered(tmp_path):
    paths, kept = table(tmp_path), keep(tmp_path / "kept.parquet", ROWS)
    first = dense(paths, kept, "train", tmp_path / "cache").zi.filename
    times = [dense(paths, kept, "train", tmp_path / "cache").zi.filename.stat().st_mtime_ns for _ in "12"]
    assert times == [first.stat().st_mtime_ns] * 2 and len(list((tmp_path / "cache").iterdir())) == 1


def test_other_rows_are_gathered_anew(tmp_path):
    paths = table(tmp_path)
    dense(paths, keep(tmp_path / "kept.parquet", ROWS), "train", tmp_path / "cache")
    found = dense(paths, keep(tmp_path / "kept.parquet", ROWS[2:]), "train", tmp_path / "cache")
    assert len(found) == 2


def test_a_split_without_rows_is_empty(tmp_path):
    found = dense(table(tmp_path), keep(tmp_path / "kept.parquet", ROWS), "validation", tmp_path / "cache")
    assert len(found) == 0 and found.zi.shape == (0, 12)


def test_a_key_in_another_place_is_refused_and_leaves_nothing(tmp_path):
    paths, kept = table(tmp_path), keep(tmp_path / "kept.parquet", ROWS)
    with pytest.raises(ValueError, match="row 0 is not 00000200000"):
        dense([paths[0], paths[1], paths[1]], kept, "train", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'val'"):
        dense([], tmp_path / "kept.parquet", "val", tmp_path)


def test_many_rows_by_threads_are_those_of_one_index():
    array = np.arange(12_000, dtype=np.float32).reshape(4000, 3)
    rows = np.random.default_rng(0).integers(4000, size=3001)
    for some in (rows, rows[:5], rows[:0]):
        assert np.array_equal(take_rows(array, some), array[some])


@pytest.mark.parametrize("row", [-1, 7])
def test_a_row_that_is_not_there_is_refused(row):
    with pytest.raises(IndexError, match=r"rows must be in 0\.\.6"):
        take_rows(np.zeros((7, 2)), np.array([0, row]))


def test_parts_read_ahead_come_in_order(tmp_path):
    paths = [*table(tmp_path), part(tmp_path / "empty.parquet", np.empty((0, 12)))]
    for ahead in (1, 2, 9):
        found = list(vectors_in(paths, "image_embedding", ahead))
        assert [len(rows) for rows in found] == [10, 10, 10, 0]
        assert all(
            np.array_equal(rows, vectors_of(path, "image_embedding")) for rows, path in zip(found, paths, strict=True)
        )
