"""Facts about shards and pictures."""

import io
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.unclip.data.data_fixtures import picture, sample
from tests.unclip.data.web_server import encoded
from unclip.data.images import open_rgb
from unclip.data.rows import Row, read_rows, write_rows
from unclip.data.shards import ShardReader, index_tar, row_of, tar_header, write_shard


def test_the_same_samples_in_any_order_give_the_same_bytes(tmp_path):
    samples = [sample(i) for i in range(5)]
    write_shard(tmp_path / "a.tar", samples)
    write_shard(tmp_path / "b.tar", reversed(samples))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_sample_reads_back_as_it_was_written(tmp_path):
    samples = [sample(i, split="test", objects=[{"shape": "circle"}]) for i in range(3)]
    write_shard(tmp_path / "a.tar", samples)
    reader = ShardReader(tmp_path / "a.tar")
    assert [reader.sample(i) for i in (2, 0, 1)] == [samples[2], samples[0], samples[1]]
    assert np.array_equal(reader.decode(1), picture(1))


def test_webdataset_reads_our_shards(tmp_path):
    write_shard(tmp_path / "a.tar", [sample(i) for i in range(3)])
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("rgb8"))
    assert [f["__key__"] for f in found] == ["00000000000", "00000000001", "00000000002"]
    assert found[1]["txt"] == "picture number 0 1" and np.array_equal(found[1]["png"], picture(1))


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_tar_is_refused_by_name(tmp_path, keep):
    write_shard(tmp_path / "a.tar", [sample(i) for i in range(30)])
    data = (tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "cut.tar").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"cut\.tar is not a whole tar"):
        ShardReader(tmp_path / "cut.tar")


def test_a_header_damaged_in_the_middle_is_refused(tmp_path):
    write_shard(tmp_path / "a.tar", [sample(i) for i in range(9)])
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[index_tar(tmp_path / "a.tar")[10].offset - 512] ^= 7
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        ShardReader(tmp_path / "a.tar")


@pytest.mark.parametrize("place", [130, 150])  # of the size, of the checksum
def test_a_digit_that_is_not_octal_is_refused_by_name(tmp_path, place):
    write_shard(tmp_path / "a.tar", [sample(0)])
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[place : place + 1] = b"8"
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tar is not a whole tar"):
        index_tar(tmp_path / "a.tar")


def test_headers_are_those_that_tarfile_writes():
    info = tarfile.TarInfo("00000100002.json")
    info.size, info.mode = 12_345, 0o644
    theirs = info.tobuf(tarfile.USTAR_FORMAT)
    read = tarfile.TarInfo.frombuf(tar_header(info.name, info.size), "ascii", "strict")
    assert read.get_info() == tarfile.TarInfo.frombuf(theirs, "ascii", "strict").get_info()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "folder/a.png", f"{'long/' * 30}ä.png"])
def test_a_tar_of_any_format_is_indexed(tmp_path, format, name):
    with tarfile.open(tmp_path / "a.tar", "w", format=format) as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}{name}")
            info.size = 700 * number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    members = index_tar(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert [m.name for m in members] == [f"{number}{name}" for number in range(3)]
    assert [data[m.offset : m.offset + m.size] for m in members] == [bytes([n]) * 700 * n for n in range(3)]


def test_two_samples_of_one_key_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same key"):
        write_shard(tmp_path / "a.tar", [sample(1), sample(1)])


def test_rows_read_back_as_they_were_written(tmp_path):
    rows = [row_of(sample(0), 48, 48), Row(sample_id=bytes(16), caption="x", status="http_404", detail="gone")]
    write_rows(tmp_path / "rows.parquet", rows)
    assert read_rows(tmp_path / "rows.parquet") == rows


def test_a_row_without_a_key_needs_a_reason():
    with pytest.raises(ValueError, match="key exactly if"):
        Row(sample_id=bytes(16), caption="x")


def test_sixteen_bits_become_eight():
    grey = open_rgb(encoded(Image.fromarray(np.full((4, 4), 32896, np.uint16)), "PNG"))
    assert np.all(np.asarray(grey) == 128)


def test_a_turned_picture_is_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_rgb(encoded(Image.new("RGB", (8, 4)), "PNG", exif=exif)).size == (4, 8)


def test_a_transparent_picture_lies_on_white():
    clear = open_rgb(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"))
    assert np.all(np.asarray(clear) == 255)


def test_a_picture_that_pillow_fails_on_in_its_own_way_is_refused():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, format="DDS")
    data = bytearray(out.getvalue())
    data[80:84] = bytes(4)  # no pixel format: NotImplementedError
    with pytest.raises(ValueError, match="not a readable image"):
        open_rgb(bytes(data))


def test_a_picture_cut_short_or_too_large_is_refused():
    with pytest.raises(ValueError, match="not a readable image"):
        open_rgb(sample(0).image[:-40])
    with pytest.raises(ValueError, match="more than 100"):
        open_rgb(sample(0).image, max_pixels=100)
