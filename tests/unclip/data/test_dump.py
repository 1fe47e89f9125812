"""Facts about the data team's dump."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, sample, write_source
from tests.unclip.data.dump_fixtures import clip_folder, embed_dump, search_dump, verified
from unclip.data import sources
from unclip.data.config import FolderConfig, IndexConfig, ShardsConfig
from unclip.data.dump import only_writer, part_paths
from unclip.data.dump_figures import inspect_dump
from unclip.data.table import read_parts, unit


def quiet(*args, **figures):
    pass


def tars(tmp_path, count, rows=8):
    for shard in range(count):
        if not (tmp_path / f"s{shard}").exists():
            write_source(tmp_path / f"s{shard}", [sample(i, shard=shard) for i in range(rows)])
    return ShardsConfig(pattern=str(tmp_path / "s*" / "shard.tar"))


def dump(tmp_path, count=2, encoder=None, **more):
    clip = tmp_path / "clip"
    clip.mkdir(exist_ok=True)
    (clip / "weights.safetensors").write_bytes(b"weights")
    (clip / "clip.json").write_text("{}")
    return embed_dump(tars(tmp_path, count), tmp_path / "dump", encoder or TinyEncoder(), clip, 4, quiet, **more)


def test_a_picture_finds_itself(tmp_path):
    dump(tmp_path)
    (tmp_path / "query.png").write_bytes(sample(5, shard=1).image)
    found = search_dump(tmp_path / "dump", TinyEncoder(), None, tmp_path / "query.png", 3)
    assert found[0]["key"] == "00000100005" and found[0]["cosine"] > 0.999 and len(found) == 3


def test_a_text_finds_all_pictures_in_the_order_of_their_cosines(tmp_path):
    dump(tmp_path)
    found = search_dump(tmp_path / "dump", TinyEncoder(), "a word", None, 100)
    parts = read_parts(part_paths(tmp_path / "dump"))
    text = unit(TinyEncoder().encode_text(TinyEncoder().tokenize(["a word"])))[0]
    cosines = {key: float(row @ text) for part in parts for key, row in zip(part.keys, part.image, strict=True)}
    assert [hit["key"] for hit in found] == sorted(cosines, key=cosines.__getitem__, reverse=True)
    assert [hit["cosine"] for hit in found] == pytest.approx([cosines[hit["key"]] for hit in found], abs=1e-4)


def test_a_folder_finds_the_file_and_counts_what_it_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    for name, data in (("weights.safetensors", b"weights"), ("clip.json", b"{}")):
        (tmp_path / "clip" / name).write_bytes(data)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(sample(number).image)
    (tmp_path / "junk.png").write_bytes(b"<html>")
    (tmp_path / "captions.csv").write_text("file,caption\n0.png,a\n1.png,b\njunk.png,c\n2.png,d\nnone.png,e\n")
    source = FolderConfig(folder=str(tmp_path), captions=str(tmp_path / "captions.csv"))
    made = embed_dump(source, tmp_path / "dump", TinyEncoder(), tmp_path / "clip", 4, quiet)
    assert made["rows"] == 3 and made["refused"] == {"missing_file": 1, "undecodable": 1}
    assert inspect_dump(tmp_path / "dump")["refused"] == made["refused"]
    found = search_dump(tmp_path / "dump", TinyEncoder(), None, tmp_path / "2.png", 2)
    assert found[0]["url"] == "2.png" and len(found) == 2


def test_one_more_shard_embeds_that_shard_only(tmp_path):
    assert dump(tmp_path, 2)["embedded_shards"] == 2
    before = (tmp_path / "dump" / "parts" / "000000.parquet").stat().st_mtime_ns
    more = dump(tmp_path, 3)
    assert more["embedded_shards"] == 1 and more["rows"] == 24
    assert (tmp_path / "dump" / "parts" / "000000.parquet").stat().st_mtime_ns == before


def test_another_clip_is_refused(tmp_path):
    dump(tmp_path)
    other = TinyEncoder(weights_digest="x" * 64)
    with pytest.raises(ValueError, match=r"weights_digest w+, the CLIP given has x+"):
        search_dump(tmp_path / "dump", other, "a word", None, 1)
    with pytest.raises(ValueError, match="weights_digest"):
        dump(tmp_path, 2, other)


@pytest.mark.parametrize(("field", "other"), [("name", "renamed"), ("network_digest", "q" * 64)])
def test_a_clip_of_the_same_weights_but_otherwise_made_is_refused_before_it_embeds(tmp_path, field, other):
    dump(tmp_path, 1)
    renamed = BrokenEncoder()
    setattr(renamed, field, other)
    with pytest.raises(ValueError, match=f"the CLIP given has {other}"):
        dump(tmp_path, 2, renamed)


def test_other_code_or_batches_embed_anew_and_it_is_said_before(tmp_path):
    dump(tmp_path, 2)
    newer, told = TinyEncoder(), []
    newer.code_digest = "d" * 64
    assert dump(tmp_path, 3, newer, tell=told.append)["made_anew"] == {"other code of unclip": 2}
    clip, source = tmp_path / "clip", tars(tmp_path, 3)
    (tmp_path / "dump" / "parts" / "000001.rows.parquet").unlink()
    assert embed_dump(source, tmp_path / "dump", newer, clip, 8, quiet, tell=told.append)["embedded_shards"] == 3
    again = embed_dump(source, tmp_path / "dump", newer, clip, 8, quiet, tell=told.append)
    assert again["embedded_shards"] == 0 and again["made_anew"] == {}
    assert told == [
        "2 of 3 parts are made anew: 2 for other code of unclip",
        "3 of 3 parts are made anew: 1 for files missing or cut short; 2 for other batch_size",
    ]


def test_columns_that_a_later_run_leaves_out_are_said(tmp_path):
    (tmp_path / "0.png").write_bytes(sample(0).image)
    (tmp_path / "captions.csv").write_text("file,caption,licence\n0.png,a,free\n")
    source, clip, told = FolderConfig(folder=str(tmp_path), captions=str(tmp_path / "captions.csv")), tmp_path / "c", []
    for more in (("licence",), ()):
        rows = replace(source, more_columns=more)
        embed_dump(rows, tmp_path / "dump", TinyEncoder(), clip_folder(clip), 4, quiet, tell=told.append)
    assert told == ["1 of 1 parts are made anew: 1 for other more_columns and rows"]


def test_another_index_is_built_over_the_parts_that_are_there(tmp_path):
    before = dump(tmp_path, 2)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "dump/parts").glob("0*")}
    lists = dump(tmp_path, 2, index=IndexConfig(kind="ivf", num_lists=1))
    assert (before["index"]["kind"], lists["index"]["kind"], lists["embedded_shards"]) == ("flat", "ivf", 0)
    index = tmp_path / "dump" / "index.faiss"
    written = index.stat().st_mtime_ns
    assert dump(tmp_path, 2, index=IndexConfig(kind="ivf", num_lists=1))["index"] == lists["index"]
    assert index.stat().st_mtime_ns == written and verified(tmp_path / "dump") == []
    assert dump(tmp_path, 2, index=IndexConfig(min_recall=0.5))["index"]["kind"] == "flat"
    assert {path: path.stat().st_mtime_ns for path in parts} == parts and not list(index.parent.glob("*.ivfdata"))


def test_parts_that_other_libraries_made_are_named_not_refused(tmp_path):
    def made(count, torch):
        encoder = TinyEncoder()
        encoder.versions = {"torch": torch}
        return dump(tmp_path, count, encoder)["other_versions"]

    assert made(1, "1") == made(2, "1") == ""
    assert made(2, "2") == "made with different versions: torch 1 in parts 0-1, 2 now"
    mixed = "made with different versions: torch 1 in parts 0-1, 2 in part 2"
    assert made(3, "2") == mixed and made(3, "3") == f"{mixed}, 3 now"
    inspected = inspect_dump(tmp_path / "dump")
    assert inspected["versions"]["torch"] == {"1": "0-1", "2": "2"} and inspected["problems"] == []


def test_a_tar_of_more_samples_than_keys_can_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ROWS", 6)
    with pytest.raises(ValueError, match=r"s0/shard.tar has 8 samples, allowed: 7 a tar"):
        dump(tmp_path, 1)


@pytest.mark.parametrize("name", ["parts/000000.json", "manifest.json", "index.faiss", "keys.parquet"])
def test_what_is_damaged_or_missing_is_made_again(tmp_path, name):
    dump(tmp_path, 2)
    whole = (tmp_path / "dump" / name).read_bytes()
    (tmp_path / "dump" / name).write_bytes(b"") if name.endswith(".json") else (tmp_path / "dump" / name).unlink()
    assert dump(tmp_path, 2)["embedded_shards"] == name.startswith("parts")
    assert (tmp_path / "dump" / name).read_bytes() == whole


@pytest.mark.parametrize("name", ["parts/000001.parquet", "parts/000000.rows.parquet", "index.faiss", "keys.parquet"])
def test_a_file_that_was_cut_short_is_made_again(tmp_path, name):
    dump(tmp_path)
    whole = (tmp_path / "dump" / name).read_bytes()
    (tmp_path / "dump" / name).write_bytes(whole[:50])
    (tmp_path / "dump" / "parts" / ".000001.json.7.8").write_text("{")  # of a writer that was killed
    dump(tmp_path)
    assert (tmp_path / "dump" / name).read_bytes() == whole and verified(tmp_path / "dump") == []
    assert not list((tmp_path / "dump" / "parts").glob(".0*"))


def test_an_index_that_faiss_cannot_read_is_told_in_a_line(tmp_path):
    dump(tmp_path)
    path = tmp_path / "dump" / "index.faiss"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"index\.faiss is damaged: faiss cannot read it; what made it makes it again"):
        search_dump(tmp_path / "dump", TinyEncoder(), "a word", None, 1)


def test_a_damaged_record_is_one_clear_line(tmp_path):
    dump(tmp_path, 1)
    keys = pq.read_table(tmp_path / "dump" / "keys.parquet")
    pq.write_table(keys.drop_columns("caption"), tmp_path / "dump" / "keys.parquet")
    with pytest.raises(ValueError, match=r"keys.parquet is damaged: it has no column caption$"):
        search_dump(tmp_path / "dump", TinyEncoder(), "a word", None, 1)
    assert any("it has no column caption" in line for line in verified(tmp_path / "dump"))
    for text, said in (("", "is damaged: Expecting value"), ('{"rows": 8}', "is damaged: it lacks files")):
        (tmp_path / "dump" / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            inspect_dump(tmp_path / "dump")
        assert any(said in line for line in verified(tmp_path / "dump"))


def test_inspection_counts_and_finds_what_was_changed(tmp_path):
    dump(tmp_path)
    found = inspect_dump(tmp_path / "dump")
    assert (found["rows"], found["parts"], found["problems"], found["duplicate_pairs"]) == (16, 2, [], 0)
    assert sum(found["similarity"]["counts"]) == 16 * 15 // 2
    (tmp_path / "dump" / "keys.parquet").write_bytes(b"other")
    (tmp_path / "dump" / "parts" / "000001.rows.parquet").unlink()
    assert inspect_dump(tmp_path / "dump")["problems"] == [
        "keys.parquet has changed",
        "parts/000001.rows.parquet is missing",
    ]


def test_a_dump_that_was_killed_goes_on(tmp_path):
    dump(tmp_path)
    whole = {p.name: p.read_bytes() for p in (tmp_path / "dump").rglob("*.parquet")}
    (tmp_path / "dump" / "parts" / "000001.json").unlink()
    (tmp_path / "dump" / "manifest.json").unlink()
    assert "not finished" in inspect_dump(tmp_path / "dump")["problems"][0]
    assert dump(tmp_path)["embedded_shards"] == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "dump").rglob("*.parquet")} == whole


@pytest.mark.parametrize("left", ["000002.json", "000002.parquet"])
def test_a_part_after_the_last_tar_goes_whatever_is_missing_before_it(tmp_path, left):
    dump(tmp_path, 3)
    parts = tmp_path / "dump" / "parts"
    for path in parts.glob("00000[12].*"):  # the second failed, or of the third a kill left a file
        if path.name.startswith("000001") or (left.endswith("parquet") and path.name != left):
            path.unlink()
    shutil.rmtree(tmp_path / "s1")
    clip, source = tmp_path / "clip", ShardsConfig(pattern=str(tmp_path / "s*" / "shard.tar"))
    made = embed_dump(source, tmp_path / "dump", TinyEncoder(), clip, 4, quiet)
    assert (made["rows"], made["dropped_shards"]) == (16, 1)
    assert not list(parts.glob("000002*")) and verified(tmp_path / "dump") == []


def test_a_part_that_no_record_knows_is_found(tmp_path):
    dump(tmp_path, 1)
    parts = tmp_path / "dump" / "parts"
    shutil.copyfile(parts / "000000.parquet", parts / "000007.parquet")
    assert verified(tmp_path / "dump") == [
        "parts/000007.parquet: part is not in manifest.json, allowed: a part of the finished dump"
    ]


class BrokenEncoder(TinyEncoder):
    """Fails at the first picture."""

    def encode_image(self, pixels):
        raise RuntimeError("no memory")


def test_a_part_stays_until_the_new_one_is_made(tmp_path):
    dump(tmp_path, 1)
    write_source(tmp_path / "new", [sample(i, shard=7) for i in range(8)])
    (tmp_path / "new" / "shard.tar").rename(tmp_path / "s0" / "shard.tar")
    with pytest.raises(RuntimeError, match="no memory"):
        dump(tmp_path, 1, BrokenEncoder())
    assert len(search_dump(tmp_path / "dump", TinyEncoder(), "a word", None, 100)) == 8
    assert dump(tmp_path, 1)["embedded_shards"] == 1


def test_a_dump_of_another_source_is_refused_and_stays(tmp_path):
    dump(tmp_path, 1)
    other = ShardsConfig(pattern=str(write_source(tmp_path / "other" / "s0", [sample(0)]) / "*.tar"))
    with pytest.raises(ValueError, match=r"holds the tars of .*, not the tars of .*/other/s0: give another --out"):
        embed_dump(other, tmp_path / "dump", TinyEncoder(), tmp_path / "clip", 4, quiet)
    assert inspect_dump(tmp_path / "dump")["problems"] == []


def test_a_file_that_is_not_the_dump_s_may_come_and_go(tmp_path):
    dump(tmp_path, 1)
    (tmp_path / "dump" / "found.png").write_bytes(b"a sheet of what a search found")
    dump(tmp_path, 2)
    (tmp_path / "dump" / "found.png").unlink()
    assert inspect_dump(tmp_path / "dump")["problems"] == []
    assert dump(tmp_path, 2)["embedded_shards"] == 0


def test_two_writers_of_one_dump_are_refused(tmp_path):
    dump(tmp_path, 1)
    with only_writer(tmp_path / "dump"), pytest.raises(ValueError, match="another embed is writing to"):
        dump(tmp_path, 2)


@pytest.mark.parametrize(("text", "image"), [(None, None), ("a", Path("a.png"))])
def test_neither_or_both_of_text_and_image_is_refused(tmp_path, text, image):
    with pytest.raises(ValueError, match="search needs a text or an image, one of them"):
        search_dump(tmp_path, TinyEncoder(), text, image, 1)


def test_a_folder_that_is_no_dump_is_not_searched(tmp_path):
    with pytest.raises(ValueError, match="is no dump"):
        search_dump(tmp_path, TinyEncoder(), "a", None, 1)


def test_a_folder_of_other_things_is_no_place_for_a_dump(tmp_path):
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "holiday.jpg").write_bytes(b"a picture")
    with pytest.raises(ValueError, match="or a folder that is new or empty"):
        dump(tmp_path)
    assert [path.name for path in (tmp_path / "dump").iterdir()] == ["holiday.jpg"]
