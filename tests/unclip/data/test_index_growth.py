"""Facts about an index that grows: what is kept, and what is learned anew."""

import shutil
from itertools import pairwise

import faiss
import numpy as np
import pytest

from tests.unclip.data.index_fixtures import LISTS, files, indexed, parts
from unclip.data.config import IndexConfig
from unclip.data.index import grow_index, kept_in
from unclip.data.index_codes import open_index
from unclip.data.index_growth import checked_after, first_of_size
from unclip.data.index_recall import rows_at


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
