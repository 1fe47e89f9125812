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
    with pytest.raises(ValueError, match=NOTHING):
        embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump")
    assert fates(tmp_path / "dump") == ["undecodable"]


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
def test_a_caption_that_is_no_text_is_kept_with_marks(tmp_path, name):
    assert tar_fates(tmp_path, [("a.png", good_picture(0)), ("a.txt", RAW_CAPTIONS[name])]) == [None]
    assert "\ufffd" in pq.read_table(part_paths(tmp_path / "dump")[0])["caption"][0].as_py()
