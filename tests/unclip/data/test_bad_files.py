"""Facts about bad input: every row is embedded or rejected with a reason, or there is one clear error."""

import csv
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unclip.data.bad_files import (
    CAPTIONS,
    PICTURE_FATES,
    PICTURES,
    RAW_CAPTIONS,
    captions,
    good_picture,
    pictures,
    tar_of,
)
from tests.unclip.data.data_fixtures import TinyEncoder, sample
from tests.unclip.data.dump_fixtures import embedded, tar_dump, verified
from tests.unclip.data.web_server import encoded
from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.crops import Crop
from unclip.data.dump import part_paths, rejects_path, rows_path
from unclip.data.images import open_rgb
from unclip.data.shards import write_shard
from unclip.data.table import read_info

NOTHING = "nothing to index"
slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fates(dump):
    """status or reject reason of every row of the source, and None of those embedded, in order."""
    found = []
    for part in part_paths(dump):
        rejected = dict(
            zip(*pq.read_table(rejects_path(part), columns=["key", "reason"]).to_pydict().values(), strict=True)
        )
        rows = pq.read_table(rows_path(part)).to_pylist()
        keys = set(pq.read_table(part, columns=["key"])["key"].to_pylist())
        for row in rows:
            assert (row["key"] in keys) + (row["key"] in rejected) + (row["status"] != "ok") == 1, row
            found.append(None if row["key"] in keys else rejected.get(row["key"], row["status"]))
    return found


def is_accounted(dump, num_rows):
    """Whether every row has one fate and the dump is whole."""
    return len(fates(dump)) == num_rows and verified(dump, sample=20) == []


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_decodes_to_its_end_or_says_why_not(name):
    fate = PICTURE_FATES[name]
    if isinstance(fate, str):
        with pytest.raises(ValueError, match=fate):
            open_rgb(PICTURES[name])
    else:
        image = open_rgb(PICTURES[name])
        assert (image.size, image.mode) == (fate, "RGB")


DECODE = """
import json, resource, sys
from pathlib import Path
from unclip.data.crops import Crop
from unclip.data.decoding import decode_row
from unclip.data.sources import Found
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
def memory(name):
    return int(open("/proc/self/status").read().partition(name + ":")[2].split()[0]) * 1024
before, crop, found = memory("VmRSS"), Crop(px=224, resize_mode=sys.argv[2]), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    row, _ = decode_row(Found(source_id=path.name, caption="a word", data=path.read_bytes()), "0", crop)
    found[path.name] = row.status
print(json.dumps([found, memory("VmHWM") - before]))
"""


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_no_picture_costs_more_memory_as_a_square_than_its_pixels(tmp_path, mode):
    needle = encoded(Image.new("1", (64_000_000, 1)), "PNG")
    for name, data in {**PICTURES, "needle": needle}.items():
        (tmp_path / name).write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", DECODE, tmp_path, mode], capture_output=True, text=True, check=True)
    found, num_bytes = json.loads(ran.stdout)
    fates = {name: "undecodable" if isinstance(fate, str) else "ok" for name, fate in PICTURE_FATES.items()}
    assert found == fates | {"needle": "ok"} and num_bytes < 6 * 64_000_000


class Brittle(Crop):
    """Fails at wide pictures."""

    def __call__(self, image):
        if image.width > image.height:
            raise MemoryError
        return super().__call__(image)


def test_a_picture_that_cannot_be_cropped_is_a_counted_reject(tmp_path):
    encoder = TinyEncoder()
    encoder.crop = Brittle(px=16)
    members = [("a.png", good_picture(0)), ("a.txt", b"wide"), ("b.png", sample(1).image), ("b.txt", b"b")]
    tar_of(tmp_path / "a.tar", members)
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump", encoder)
    assert fates(dump) == ["uncroppable", None]
    assert pq.read_table(rows_path(part_paths(dump)[0]))["detail"][0].as_py() == "a.tar/a: 32x24 pixels: MemoryError "


def test_no_picture_makes_pillow_run_a_program():
    with pytest.raises(ValueError, match="of no known format"):
        open_rgb(PICTURES["eps"])


GOOD = [("z.png", good_picture(1)), ("z.txt", b"word")]


def tar_fates(tmp_path, members):
    """The fates of the samples of a tar, to which a good last one is added."""
    tar_of(tmp_path / "a.tar", [*members, *GOOD])
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "*.tar")), tmp_path / "dump")
    found = fates(dump)
    assert verified(dump) == [] and found[-1] is None
    return found[:-1]


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


def test_a_source_of_nothing_but_rejects_is_one_error(tmp_path):
    tar_of(tmp_path / "a.tar", [("a.png", b"junk"), ("a.txt", b"word")])
    with pytest.raises(ValueError, match=NOTHING):
        embedded(ShardsConfig(pattern=str(tmp_path / "a.tar")), tmp_path / "dump")
    assert fates(tmp_path / "dump") == ["undecodable"]


@slow
@given(st.data())
def test_a_tar_cut_anywhere_is_whole_or_refused_by_name(data):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.tar"
        write_shard(path, [sample(i) for i in range(3)])
        whole = path.read_bytes()
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
        path = Path(name) / "a.tar"
        write_shard(path, [sample(i) for i in range(3)])
        damaged = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
            damaged[place] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        try:
            dump = embedded(ShardsConfig(pattern=str(path)), Path(name) / "dump")
        except ValueError as error:
            assert str(path) in str(error) or NOTHING in str(error)
        else:
            assert len(fates(dump)) >= 3 and verified(dump) == []


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


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("key", pa.large_string()),
        ("sample_id", pa.binary()),
        ("image_sha256", pa.string()),
        ("image_embedding", pa.list_(pa.float32(), 12)),
        ("image_embedding", pa.list_(pa.float16())),
        ("tokens", pa.list_(pa.int64(), 8)),
        ("image_norm", pa.float64()),
        ("caption", pa.binary()),
        ("clip_score", pa.string()),
    ],
)
def test_a_part_with_a_column_of_another_type_is_refused(tmp_path, column, kind):
    (part, *_) = part_paths(tar_dump(tmp_path, count=1))
    table = pq.read_table(part)
    place = table.schema.get_field_index(column)
    values = [str(value) if kind == pa.string() else value for value in table[column].to_pylist()]
    pq.write_table(table.set_column(place, pa.field(column, kind, nullable=False), pa.array(values, kind)), part)
    with pytest.raises(ValueError, match="its columns are not those of an embedding table of dimension 12"):
        read_info(part)


def test_a_metadata_that_lies_about_its_rows_or_numbers_is_refused(tmp_path):
    (part, *_) = part_paths(tar_dump(tmp_path, count=1))
    table = pq.read_table(part)
    for field, value in ((b"num_rows", b"7"), (b"dimension", b"13"), (b"context", b"many")):
        pq.write_table(table.replace_schema_metadata(table.schema.metadata | {field: value}), part)
        with pytest.raises(ValueError, match=str(part)):
            read_info(part)
