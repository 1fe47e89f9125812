"""Facts about folders and foreign shards as sources, and about what a shard's recipe depends on."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.unclip.data.data_fixtures import sample, write_source
from unclip.data.config import DownloadConfig, FolderConfig, ShapesConfig, ShardsConfig
from unclip.data.digests import file_digest, known_digest
from unclip.data.rows import read_rows
from unclip.data.shards import ShardReader, sample_files
from unclip.data.source_plan import expand_braces, folder_chunks, shard_recipes
from unclip.data.sources import folder_shard, foreign_shard, write_admissions
from unclip.recipe import recipe_config


def captioned_folder(tmp_path, rows, header="file,caption", shard_size=3):
    folder = tmp_path / "pictures"
    folder.mkdir(exist_ok=True)
    for i in range(5):
        (folder / f"{i}.png").write_bytes(sample(i).image)
    (folder / "broken.png").write_bytes(b"<html>")
    (tmp_path / "list.csv").write_text("\n".join([header, *rows]) + "\n")
    return FolderConfig(folder=str(folder), captions=str(tmp_path / "list.csv"), shard_size=shard_size)


def statuses(config, shard=0):
    return [admission.row.status for admission in folder_shard(config, shard)]


def test_every_row_of_a_folder_is_kept_or_refused_with_a_reason(tmp_path):
    rows = ["0.png,a cat", "none.png,a dog", "broken.png,a bird", "1.png,", "../list.csv,out", ",x", "2.png"]
    config = captioned_folder(tmp_path, rows, shard_size=9)
    expected = ["ok", "missing_file", "undecodable", "no_caption", "outside_folder", "no_file", "no_caption"]
    assert statuses(config) == expected
    metrics = write_admissions(tmp_path, folder_shard(config, 0))
    assert [row.url for row in read_rows(tmp_path / "rows.parquet")] == [row.split(",")[0] for row in rows]
    assert metrics["kept"] == 1 and sum(metrics["refused"].values()) == 6
    assert len(read_rows(tmp_path / "rows.parquet")) == 7 and ShardReader(tmp_path / "shard.tar").caption(0) == "a cat"


def test_a_name_in_another_form_of_unicode_is_named(tmp_path):
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    config = captioned_folder(tmp_path, [f"{apart},a cat", f"{composed},a dog", "0.png,a bird"])
    (tmp_path / "pictures" / composed).write_bytes(sample(0).image)
    (refused,) = [row.row for row in folder_shard(config, 0) if row.row.status == "missing_file"]
    assert refused.url == apart and refused.detail.endswith("is there in Unicode form NFC; the list has another form")


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("file,text", ["0.png,a"], "has no column 'caption'; it has file, text"),
        ("file,caption,caption", ["0.png,a,b"], "has 2 columns 'caption'"),
        ("file,caption", [], "has no rows"),
        ("file,caption", ["0.png,a", '1.png,"open', "2.png,a"], "is no CSV in UTF-8: the row in or after line 3:"),
        ("file,caption", ["0.png,a", "1.png,a cat, asleep"], "list.csv:3 has more cells than the header: a comma in"),
    ],
)
def test_a_malformed_list_is_one_clear_error(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message):
        folder_chunks(captioned_folder(tmp_path, rows, header))


def test_more_rows_leave_the_recipes_of_full_shards(tmp_path):
    few = shard_recipes(captioned_folder(tmp_path, [f"{i}.png,c{i}" for i in range(3)]))
    more = shard_recipes(captioned_folder(tmp_path, [f"{i}.png,c{i}" for i in range(5)]))
    assert len(more) == 2 and more[0] == few[0]


def test_a_changed_picture_changes_its_shard_only(tmp_path):
    config = captioned_folder(tmp_path, [f"{i}.png,c{i}" for i in range(5)])
    before = shard_recipes(config)
    (tmp_path / "pictures" / "4.png").write_bytes(sample(99).image)
    after = shard_recipes(config)
    assert after[0] == before[0] and after[1] != before[1]


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_second_plan_reads_only_what_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tar, config = tmp_path / "0.tar", ShardsConfig(pattern=str(tmp_path / "*.tar"))
    tar.write_bytes(bytes(4_000_000))
    os.utime(tar, (1, 1))
    (first,), before = shard_recipes(config), bytes_read()
    assert shard_recipes(config) == [first] and bytes_read() - before < 1_000_000
    tar.write_bytes(b"x" + bytes(3_999_999))
    os.utime(tar, (1, 1))  # the same size and time of change
    assert shard_recipes(config) != [first]


def test_a_plan_without_a_place_for_a_cache_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert known_digest(tmp_path / "file") == file_digest(tmp_path / "file")


def test_a_shard_has_an_upper_limit():
    with pytest.raises(ValueError, match=r"shard_size must be in 1\.\.99999, got 100000"):
        ShapesConfig(shard_size=100_000)


def test_how_many_fetch_is_no_part_of_a_recipe():
    one, many = DownloadConfig(num_threads=1, num_processes=1), DownloadConfig(num_threads=64, num_processes=8)
    assert recipe_config(one) == recipe_config(many) != recipe_config(DownloadConfig(stall_s=1))


def test_more_shapes_leave_the_recipes_of_full_shards():
    few, more = (shard_recipes(ShapesConfig(num_samples=n, shard_size=10)) for n in (25, 31))
    assert [r["rows"] for r in more] == [10, 10, 10, 1] and more[:2] == few[:2] and more[2] != few[2]


def foreign_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return ShardsConfig(pattern=str(path))


def test_foreign_samples_are_sorted_and_the_bad_refused(tmp_path):
    good = sample(3).image
    files = {"b.png": good, "b.txt": b"later", "a.png": good, "a.json": b'{"caption": "first", "url": "http://x"}'}
    files |= {"c.png": good, "d.txt": b"no picture", "e.jpg": b"junk", "e.txt": b"junk"}
    found = list(foreign_shard(foreign_tar(tmp_path / "x.tar", files), 0))
    assert [a.row.status for a in found] == ["ok", "ok", "no_caption", "no_image", "undecodable"]
    assert [a.row.caption for a in found[:2]] == ["first", "later"] and found[0].row.url == "http://x"


def test_our_own_shards_come_back_with_their_identity_and_split(tmp_path):
    source = write_source(tmp_path / "s", [sample(i, split="test") for i in range(3)])
    found = list(foreign_shard(ShardsConfig(pattern=str(source / "*.tar")), 0))
    assert [a.sample.sample_id for a in found] == [sample(i).sample_id for i in range(3)]
    assert all(a.sample.meta["split"] == "test" for a in found)


def test_a_broken_foreign_tar_is_one_clear_error(tmp_path):
    config = foreign_tar(tmp_path / "x.tar", {f"{i}.png": sample(i).image for i in range(9)})
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[:3000])
    with pytest.raises(ValueError, match=r"x\.tar is not a whole tar"):
        list(foreign_shard(config, 0))


def test_braces_expand():
    assert expand_braces("a{08..10}{x,y}.tar")[:3] == ["a08x.tar", "a08y.tar", "a09x.tar"]


def test_a_missing_shard_is_named(tmp_path):
    foreign_tar(tmp_path / "0.tar", sample_files(sample(0)))
    with pytest.raises(ValueError, match=r"there is no .*1\.tar"):
        shard_recipes(ShardsConfig(pattern=str(tmp_path / "{0..1}.tar")))
