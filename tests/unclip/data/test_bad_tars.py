"""Facts about bad tars: every sample is embedded or rejected with a reason, or one clear error names the tar."""

import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unclip.data.bad_files import (
    GOOD,
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
from tests.unclip.data.data_fixtures import sample
from tests.unclip.data.dump_fixtures import embedded, verified
from unclip.data.config import ShardsConfig
from unclip.data.dump import part_paths
from unclip.data.shards import write_shard


def is_accounted(dump, num_rows):
    """Whether every row has one fate and the dump is whole."""
    return len(fates(dump)) == num_rows and verified(dump, sample=20) == []


@slow
@given(
    st.lists(
        st.tuples(
            pictures | st.none(), captions.map(str.encode) | st.sampled_from(sorted(RAW_CAPTIONS.values())) | st.none()
        ),
        max_size=10,
    )
)
def test_of_any_tar_every_sample_has_one_fate(rows):
    with tempfile.TemporaryDirectory() as name:
        members = [(f"{n:04d}.txt", b"always") for n in range(len(rows)) if rows[n] == (None, None)]
        for number, (data, caption) in enumerate(rows):
            members += [(f"{number:04d}.jpg", data)] * (data is not None) + [(f"{number:04d}.txt", caption)] * (
                caption is not None
            )
        tar_of(Path(name) / "a.tar", members)
        tar_of(Path(name) / "b.tar", [("good.png", good_picture(1)), ("good.txt", b"a word")])
        dump = embedded(ShardsConfig(pattern=f"{name}/*.tar"), Path(name) / "dump")
        assert is_accounted(dump, len(rows) + 1)


@pytest.mark.parametrize("place", ["../../../evil", "/evil", "./a/../../evil"])
def test_names_that_lead_out_of_a_tar_are_only_names(tmp_path, place):
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    assert tar_fates(folder, [(f"{place}.png", good_picture(0)), (f"{place}.txt", b"word")]) == [None]
    assert not [path for path in tmp_path.rglob("*evil*")] and not Path("/evil.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_no_picture(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
        for name, data in [("a.txt", b"word"), *GOOD]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert fates(embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump")) == ["no_image", None]


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        (rb'{"caption": "half of a pair: \ud800"}', None),
        (rb'{"caption": "a", "url": "http://x/\uDFFF", "more": {"deep": ["\ud800"]}}', None),
        (b"[" * 200_000, "no_caption"),
        (b'{"caption":' * 100_000, "no_caption"),
        (b'{"caption": ' + b"9" * 6_000 + b"}", "no_caption"),
        (b'{"caption": ["a"]}', "no_caption"),
        (b'{"caption": NaN}', "no_caption"),
        (b'{"caption": "a", "sample_id": 5, "split": ["x"], "source_key": {}}', None),
        (b"null", "no_caption"),
        (b"\xff\xfe", "no_caption"),
    ],
)
def test_any_json_beside_a_picture_is_read_or_counts_as_none(tmp_path, text, fate):
    assert tar_fates(tmp_path, [("a.png", good_picture(0)), ("a.json", text)]) == [fate]


@pytest.mark.parametrize("name", ["\udcff", "é\u202e", "a" * 300, "a b", ""])
def test_any_name_in_a_tar_is_a_name(tmp_path, name):
    assert tar_fates(tmp_path, [(f"{name}.png", good_picture(0)), (f"{name}.txt", b"word")]) == [None]


@pytest.mark.parametrize("second", ["a.png", "a.PNG", "a.txt"])
def test_a_key_that_comes_twice_is_one_error_that_names_it(tmp_path, second):
    with pytest.raises(ValueError, match=rf"a.tar holds '{second}' twice: keys must differ"):
        tar_fates(tmp_path, [("a.png", good_picture(0)), ("a.txt", b"word"), (second, b"more")])


def test_tars_without_samples_are_parts_without_rows(tmp_path):
    for name, data in (("empty", None), ("zeros", bytes(10_240))):
        tar_of(tmp_path / f"{name}.tar", []) if data is None else (tmp_path / f"{name}.tar").write_bytes(data)
    assert tar_fates(tmp_path, []) == [] and len(part_paths(tmp_path / "dump")) == 3


def three_samples(folder):
    """A tar of three samples, and its bytes."""
    path = Path(folder) / "a.tar"
    write_shard(path, [sample(i) for i in range(3)])
    return path, path.read_bytes()


@slow
@given(st.data())
def test_a_tar_cut_anywhere_is_whole_or_refused_by_name(data):
    with tempfile.TemporaryDirectory() as name:
        path, whole = three_samples(name)
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        try:
            dump = embedded(ShardsConfig(pattern=str(path)), Path(name) / "dump")
        except ValueError as error:
            assert f"{path} is not a whole tar" in str(error) and len(path.read_bytes()) < len(whole)
        else:
            assert is_accounted(dump, 3)


@slow
@given(st.data())
def test_a_tar_with_any_bytes_damaged_loses_no_row_in_silence(data):
    with tempfile.TemporaryDirectory() as name:
        path, whole = three_samples(name)
        damaged = bytearray(whole)
        for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
            damaged[place] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        try:
            dump = embedded(ShardsConfig(pattern=str(path)), Path(name) / "dump")
        except ValueError as error:
            assert str(path) in str(error) or NOTHING in str(error)
        else:
            assert len(fates(dump)) >= 3 and verified(dump) == []
