"""Facts about bad input: every row is embedded or rejected with a reason, or there is one clear error."""

import csv
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unclip.data.bad_files import (
    CAPTIONS,
    NOTHING,
    RAW_CAPTIONS,
    captions,
    fates,
    good_picture,
    pictures,
    slow,
    tar_fates,
    tar_of,
)
from tests.unclip.data.data_fixtures import TinyEncoder
from tests.unclip.data.dump_fixtures import embedded, verified
from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.dump import part_paths
from unclip.data.sources import foreign_shard


def folder_of(folder, rows):
    """A captioned folder of (bytes or None for no file, caption)."""
    (folder / "photos").mkdir()
    with (folder / "photos" / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "caption"))
        for number, (data, caption) in enumerate(rows):
            writer.writerow((f"{number}.img", caption))
            if data is not None:
                (folder / "photos" / f"{number}.img").write_bytes(data)
    photos = folder / "photos"
    return FolderConfig(folder=str(photos), captions=str(photos / "captions.csv"), shard_size=5)


class HalfBlind(TinyEncoder):
    """Gives nothing for dark pictures, as a CLIP with broken weights may."""

    def encode_image(self, pixels):
        return super().encode_image(pixels) * (pixels.mean((1, 2, 3)) > 120)[:, None]


@slow
@given(
    st.lists(
        st.tuples(st.none() | pictures, captions.filter(lambda text: len(text) < 100_000)), min_size=1, max_size=12
    )
)
def test_of_any_folder_every_row_has_one_fate(rows):
    with tempfile.TemporaryDirectory() as name:
        source, dump = folder_of(Path(name), rows), Path(name) / "dump"
        try:
            embedded(source, dump, HalfBlind())
        except ValueError as error:
            assert NOTHING in str(error) and all(fates(dump)) and len(fates(dump)) == len(rows)
            return
        assert len(fates(dump)) == len(rows) and not [line for line in verified(dump, encoder=HalfBlind()) if line]


def test_a_source_of_nothing_but_rejects_is_one_error(tmp_path):
    tar_of(tmp_path / "a.tar", [("a.png", b"junk"), ("a.txt", b"word")])
    tar_of(tmp_path / "b.tar", [("b.txt", b"a caption and no picture")])
    with pytest.raises(ValueError) as error:
        embedded(ShardsConfig(pattern=str(tmp_path / "*.tar")), tmp_path / "dump")
    why = f"2 rows refused: undecodable 1, no_image 1: see {tmp_path}/dump/parts"
    assert str(error.value) == f"the tars of {tmp_path} leave {NOTHING}: {why}"
    assert fates(tmp_path / "dump") == ["undecodable", "no_image"]
    assert [path.name for path in (tmp_path / "dump").iterdir()] == ["parts"]


def test_a_source_without_rows_is_named_and_leaves_nothing(tmp_path):
    tar_of(tmp_path / "a.tar", [])
    with pytest.raises(ValueError, match=f"^the tars of {tmp_path} have no rows: there is {NOTHING}$"):
        embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump")
    assert list((tmp_path / "dump").iterdir()) == []


def test_where_nothing_was_embedded_another_source_may_be(tmp_path):
    tar_of(tmp_path / "a.tar", [("a.png", b"junk"), ("a.txt", b"word")])
    with pytest.raises(ValueError, match=NOTHING):
        embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump")
    assert fates(embedded(folder_of(tmp_path, [(good_picture(0), "good")]), tmp_path / "dump")) == [None]


@pytest.mark.parametrize("name", ["a\0.png", "a" * 5_000, "a/" * 3_000, ".", "/etc/passwd", "../../etc/passwd", ""])
def test_any_name_in_a_list_is_a_file_or_a_reason(tmp_path, name):
    (tmp_path / "good.png").write_bytes(good_picture(0))
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), (name, "a word"), ("good.png", "good")])
    dump = embedded(FolderConfig(folder=str(tmp_path), captions=str(tmp_path / "captions.csv")), tmp_path / "dump")
    bad, good = fates(dump)
    assert good is None and bad in ("missing_file", "unreadable_file", "outside_folder", "no_file")


@pytest.mark.parametrize("name", CAPTIONS)
def test_any_caption_is_kept_to_the_letter_or_counted(tmp_path, name):
    (found,) = tar_fates(tmp_path, [("a.png", good_picture(0)), ("a.txt", CAPTIONS[name].encode())])
    assert (found == "no_caption") == (not CAPTIONS[name].strip())
    if found is None:
        assert pq.read_table(part_paths(tmp_path / "dump")[0])["caption"][0].as_py() == CAPTIONS[name].strip()


@pytest.mark.parametrize("name", RAW_CAPTIONS)
def test_a_caption_that_is_not_utf8_is_counted_and_shown_with_marks(tmp_path, name):
    members = [("a.png", good_picture(0)), ("a.txt", RAW_CAPTIONS[name])]
    assert tar_fates(tmp_path, members) == ["caption_not_utf8"]
    (refused,) = foreign_shard(ShardsConfig(pattern=str(tar_of(tmp_path / "b.tar", members))), 0)
    assert refused.row.status == "caption_not_utf8" and "\ufffd" in refused.row.caption


def test_a_row_of_a_folder_that_repeats_another_is_refused(tmp_path):
    rows = ["a.png,one", "b.png,one", "a.png,two", "a.png, one ", "none.png,x", "none.png,x", ",", ","]
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(good_picture(0))
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    source = FolderConfig(folder=str(tmp_path), captions=str(tmp_path / "captions.csv"), shard_size=3)
    found = fates(embedded(source, tmp_path / "dump"))
    assert found == [None, None, None, "duplicate", "missing_file", "duplicate", "no_file", "no_file"]
    assert verified(tmp_path / "dump") == []
