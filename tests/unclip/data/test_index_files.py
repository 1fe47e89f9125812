"""Facts about an index's files: a search finds the old one or the new one, whole."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.index_fixtures import LISTS, files, indexed, parts
from unclip.data.index_codes import open_index
from unclip.data.index_files import search
from unclip.data.index_recall import rows_at


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


def test_another_key_map_is_refused(tmp_path):
    indexed(tmp_path, parts(tmp_path), **LISTS)
    pq.write_table(pq.read_table(tmp_path / "keys.parquet").slice(1), tmp_path / "keys.parquet")
    with pytest.raises(
        ValueError, match=r"keys\.parquet \(799 rows\) is not of index\.faiss \(800 rows\): the run that"
    ):
        search(tmp_path, np.ones((1, 16), np.float32), 1)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_key_map_of_as_many_other_rows_is_refused(tmp_path, at, monkeypatch):
    first, other = (parts(tmp_path / name, (300,), last=center) for center, name in enumerate("ab"))
    out, real, moved = tmp_path / "out", os.replace, []
    indexed(out, first)

    def replace(source, target):
        moved.append(target)
        if len(moved) == at:
            raise Killed
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(Killed):
        indexed(out, other)
    monkeypatch.undo()
    if at == 1:
        assert search(out, rows_at(first, np.array([3])), 1)[1] == 3
        return
    with pytest.raises(ValueError, match="the run that replaced them did not end, run it again"):
        search(out, rows_at(other, np.array([3])), 1)
    indexed(out, other)
    for _ in range(2):
        assert search(out, rows_at(other, np.array([3])), 1)[1] == 3
        (out / "index.json").unlink(missing_ok=True)  # it says more than a search must know


def test_a_cut_data_file_is_refused(tmp_path):
    indexed(tmp_path, parts(tmp_path), **LISTS)
    (lists,) = tmp_path.glob("*.ivfdata")
    lists.write_bytes(b"short")
    with pytest.raises(ValueError, match=rf"{lists.name} is missing or cut short"):
        open_index(tmp_path)
