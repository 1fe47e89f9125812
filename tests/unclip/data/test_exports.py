"""Facts about dumps in other programs' layouts, and theirs brought into ours."""

import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.bad_files import tar_of
from tests.unclip.data.data_fixtures import TinyEncoder, sample
from tests.unclip.data.dump_fixtures import (
    clip_folder,
    embed_dump,
    embedded,
    folder_dump,
    search_dump,
    tar_dump,
    vectors,
    verified,
)
from unclip.data.config import ShardsConfig
from unclip.data.dump import part_paths, rows_path
from unclip.data.dump_figures import inspect_dump
from unclip.data.exports import export_dump
from unclip.data.import_metadata import said_in
from unclip.data.imports import import_dump
from unclip.data.rows import read_rows
from unclip.data.table import read_part, read_parts


def columns(folder, kind="img_emb"):
    """All arrays of a layout, in the order of their names, which is how its readers pair files."""
    return np.concatenate([np.load(path) for path in sorted((folder / kind).glob("*.npy"))])


def metadata(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))])


def test_row_i_of_each_file_is_one_image_of_norm_one(tmp_path):
    dump = tar_dump(tmp_path, count=11, rows=2)
    export_dump(dump, tmp_path / "out", "clip-retrieval")
    parts = read_parts(part_paths(dump))
    assert metadata(tmp_path / "out")["key"].to_pylist() == [key for part in parts for key in part.keys]
    for kind, field in (("img_emb", "image"), ("text_emb", "text")):
        found = columns(tmp_path / "out", kind)
        assert found.dtype == np.float16 and len(found) == 22
        assert np.abs(found - np.concatenate([getattr(part, field) for part in parts])).max() < 1e-3
    names = sorted(path.name for path in (tmp_path / "out" / "img_emb").iterdir())
    assert names[0] == "img_emb_00.npy" and names[-1] == "img_emb_10.npy"


def test_a_part_without_rows_gets_no_files(tmp_path):
    (tmp_path / "tars").mkdir()
    for number, data in enumerate((b"junk", sample(1).image)):
        with tarfile.open(tmp_path / "tars" / f"{number}.tar", "w") as tar:
            for name, content in (("a.png", data), ("a.txt", b"word")):
                (tmp_path / name).write_bytes(content)
                tar.add(tmp_path / name, name)
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "tars" / "*.tar")), tmp_path / "dump")
    assert export_dump(dump, tmp_path / "out", "clip-retrieval")["files"] == 1
    assert [len(list((tmp_path / "out" / kind).iterdir())) for kind in ("img_emb", "text_emb", "metadata")] == [1, 1, 1]


def test_pictures_of_a_folder_are_named_by_their_paths(tmp_path):
    export_dump(folder_dump(tmp_path), tmp_path / "out", "clip-retrieval")
    found = metadata(tmp_path / "out").to_pydict()
    assert found["image_path"][1] == str(tmp_path / "photos" / "b.png") and found["caption"][1] == "picture of b.png"
    assert found["url"] == [None] * 3 and len(found["image_sha256"][0]) == 64


def dense_tars(folder, keys, junk=()):
    """Tars as img2dataset writes them: a number for a name, keys of that number and an index, with holes."""
    folder.mkdir()
    for key in keys:
        path = folder / f"{key[:2]}.tar"
        with tarfile.open(path, "a" if path.exists() else "w") as tar:
            for ending, data in (("png", b"junk" if key in junk else sample(int(key)).image), ("txt", key.encode())):
                (folder / "file").write_bytes(data)
                tar.add(folder / "file", f"{key}.{ending}")
    (folder / "file").unlink()
    return ShardsConfig(pattern=str(folder / "*.tar"))


def test_a_dense_array_has_each_picture_at_its_index_and_zeros_where_there_is_none(tmp_path):
    source = dense_tars(tmp_path / "tars", ["00000", "00002", "00005", "03001"], junk=["00002"])
    dump = embedded(source, tmp_path / "dump")
    said = export_dump(dump, tmp_path / "out", "dense")
    first, second = (np.load(tmp_path / "out" / "img_emb" / f"img_emb_{shard}.npy") for shard in ("00", "03"))
    assert said["index_width"] == 3 and first.shape == (6, 12) and second.shape == (2, 12)
    parts = read_parts(part_paths(dump))
    assert np.flatnonzero(first.any(1)).tolist() == [0, 5] and np.flatnonzero(second.any(1)).tolist() == [1]
    assert np.abs(first[[0, 5]] - parts[0].image).max() < 1e-3 and np.abs(second[1] - parts[1].image[0]).max() < 1e-3


def test_a_tar_without_samples_is_a_dense_array_without_rows(tmp_path):
    source = dense_tars(tmp_path / "tars", ["00000", "02001"])
    tar_of(tmp_path / "tars" / "01.tar", [])
    said = export_dump(embedded(source, tmp_path / "dump"), tmp_path / "out", "dense")
    assert (said["files"], said["index_width"]) == (3, 3)
    assert np.load(tmp_path / "out" / "img_emb" / "img_emb_01.npy").shape == (0, 12)


def test_a_dense_array_of_a_folder_goes_by_the_place_in_the_list(tmp_path):
    dump = folder_dump(tmp_path, names=("a.png",), more=[("none.png", "gone"), ("a.png", "again")])
    assert export_dump(dump, tmp_path / "out", "dense")["index_width"] == 5
    found = np.load(tmp_path / "out" / "text_emb" / "text_emb_000000.npy")
    assert found.any(1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("keys", "rename", "message"),
    [
        (["00000", "00001"], "photos", "needs tars named by a number .* got 'photos' and '00000'"),
        (["00000"], "01", "needs tars named by a number and keys of that number"),
        (
            ["00000", "0101"],
            None,
            r"keys must have the same number of digits after their tar's in all tars, got \[2, 3\]",
        ),
        (["00000", "0001"], None, r"keys must have the same number of digits after 00, got \[2, 3\]"),
    ],
)
def test_tars_that_a_dense_layout_cannot_name_are_refused_and_nothing_is_left(tmp_path, keys, rename, message):
    source = dense_tars(tmp_path / "tars", keys)
    if rename:
        (tmp_path / "tars" / "00.tar").rename(tmp_path / "tars" / f"{rename}.tar")
    dump = embedded(source, tmp_path / "dump")
    with pytest.raises(ValueError, match=message):
        export_dump(dump, tmp_path / "out", "dense")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "dump", "tars"]


def test_a_wrong_layout_or_folder_is_refused(tmp_path):
    dump = folder_dump(tmp_path)
    with pytest.raises(ValueError, match="layout must be one of clip-retrieval, dense, got 'other'"):
        export_dump(dump, tmp_path / "out", "other")
    with pytest.raises(ValueError, match="--out must be a new or empty folder"):
        export_dump(dump, tmp_path / "photos", "dense")
    with pytest.raises(ValueError, match="--source has no effect"):
        export_dump(dump, tmp_path / "out", "clip-retrieval", tmp_path)


def test_where_pictures_lie_now_has_no_effect_where_none_is_read(tmp_path):
    dump = folder_dump(tmp_path)
    with pytest.raises(ValueError, match=r"--source has no effect here .* was not made from shards$"):
        export_dump(dump, tmp_path / "dense", "dense", tmp_path)
    export_dump(dump, tmp_path / "laid-out", "clip-retrieval")
    import_dump(tmp_path / "laid-out", tmp_path / "back")
    with pytest.raises(ValueError, match=r"--source has no effect here .* not made from shards or folder$"):
        verified(tmp_path / "back", source=tmp_path)


def imported(tmp_path, dump, encoder=None):
    export_dump(dump, tmp_path / "laid-out", "clip-retrieval")
    clip = clip_folder(tmp_path / "clip") if encoder else None
    import_dump(tmp_path / "laid-out", tmp_path / "imported", encoder, clip)
    return tmp_path / "imported"


def test_out_and_in_again_keeps_rows_captions_and_cosines(tmp_path):
    dump = tar_dump(tmp_path)
    back = imported(tmp_path, dump, TinyEncoder())
    before, after = ([pq.read_table(path) for path in part_paths(folder)] for folder in (dump, back))
    for one, other in zip(before, after, strict=True):
        assert one["caption"].to_pylist() == other["caption"].to_pylist() and one["key"] == other["key"]
        assert np.abs(one["clip_score"].to_numpy() - other["clip_score"].to_numpy()).max() < 1e-3
    hits = [search_dump(folder, TinyEncoder(), "picture number 1 3", None, 5) for folder in (dump, back)]
    assert [hit["key"] for hit in hits[0]] == [hit["key"] for hit in hits[1]]
    assert [hit["cosine"] for hit in hits[0]] == pytest.approx([hit["cosine"] for hit in hits[1]], abs=1e-3)


def test_an_imported_dump_says_so_and_nothing_trains_on_it(tmp_path):
    back = imported(tmp_path, tar_dump(tmp_path))
    with pytest.raises(ValueError, match="was imported: it has no image_sha256, image_norm, text_norm, tokens"):
        read_part(part_paths(back)[0])
    found = inspect_dump(back)
    assert (found["rows"], found["origin"], found["exact_duplicates"]) == (16, "imported", None)
    assert found["clip"]["weights_digest"] == "unknown" and verified(back) == []


def test_a_dump_imported_without_a_clip_is_searched_with_the_one_that_embeds_its_captions(tmp_path):
    back = imported(tmp_path, tar_dump(tmp_path))
    assert search_dump(back, TinyEncoder(), "picture number 1 3", None, 1)[0]["cosine"] > 0
    other = TinyEncoder()
    other.words = other.words[::-1].copy()
    with pytest.raises(
        ValueError, match=r"000000.parquet: the CLIP given embeds 'picture .*' at cosine .* another CLIP"
    ):
        search_dump(back, other, "a word", None, 1)


def test_a_clip_that_embeds_the_captions_otherwise_is_refused(tmp_path):
    export_dump(tar_dump(tmp_path), tmp_path / "laid-out", "clip-retrieval")
    other = TinyEncoder()
    other.words = other.words[::-1].copy()
    with pytest.raises(ValueError, match=r"the CLIP given embeds 'picture number .*' at cosine .* it is another CLIP"):
        import_dump(tmp_path / "laid-out", tmp_path / "imported", other, clip_folder(tmp_path / "clip"))
    assert not (tmp_path / "imported").exists()


def test_texts_of_an_imported_dump_are_verified_by_embedding_again(tmp_path):
    back = imported(tmp_path, tar_dump(tmp_path), TinyEncoder())
    assert verified(back) == []
    other = TinyEncoder()
    other.words = other.words[::-1].copy()
    assert "text_embedding is at cosine" in verified(back, encoder=other)[0]


def laid_out(folder, image, text=None, captions=None, number="0"):
    for kind in ("img_emb", "text_emb", "metadata"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", image)
    np.save(folder / "text_emb" / f"text_emb_{number}.npy", image if text is None else text)
    captions = captions or [f"caption {i}" for i in range(len(image))]
    pq.write_table(pa.table({"caption": captions}), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def test_files_are_paired_by_number_however_they_are_padded(tmp_path):
    for number in range(11):
        laid_out(tmp_path / "in", vectors(number, 2), captions=[f"{number} {i}" for i in range(2)], number=str(number))
    import_dump(tmp_path / "in", tmp_path / "out")
    tables = [pq.read_table(path) for path in part_paths(tmp_path / "out")]
    assert [table["caption"][0].as_py() for table in tables] == [f"{number} 0" for number in range(11)]
    assert np.allclose(tables[10]["image_embedding"][1].as_py(), vectors(10, 2)[1], rtol=1e-3)


BROKEN = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers())


def test_what_metadata_say_besides_comes_along_and_goes_out_again(tmp_path):
    folder = laid_out(tmp_path / "in", vectors(0, 3))
    said = {
        "image_path": ["0/1.jpg", None, "3.jpg"],
        "caption": ["one", None, "three"],
        "url": ["http://a.org/1.jpg", "http://a.org/2.jpg", None],
        "key": ["1", "2", "3"],
        "width": [640, None, -1],
        "height": [480.0, float("nan"), 3],
        "similarity": [0.3, 0.25, None],
        "NSFW": ["UNLIKELY", "", "NSFW"],
        "exif": [{"make": "x"}, None, None],
        "clip_score": [0.25] * 3,
        "seen": pa.array([19724] * 3, pa.date32()),
        "taken": pa.array([1704164645] * 3, pa.timestamp("s", "No/Where")),
    }
    pq.write_table(pa.table(said), folder / "metadata" / "metadata_0.parquet")
    made = import_dump(folder, tmp_path / "out")
    rows = read_rows(rows_path(part_paths(tmp_path / "out")[0]))
    assert [(row.url, row.caption, row.width, row.height) for row in rows] == [
        ("http://a.org/1.jpg", "one", 640, 480), ("http://a.org/2.jpg", "", None, None), ("3.jpg", "three", None, 3)
    ]  # fmt: skip
    more = [json.loads(row.more) for row in rows]
    first = {"similarity": 0.3, "NSFW": "UNLIKELY", "exif": '{"make": "x"}', "image_path": "0/1.jpg", "key": "1"}
    assert more[0] == first | {"seen": "2024-01-02", "clip_score": 0.25, "taken": "2024-01-02 03:04:05.000Z"}
    assert more[2]["width"] == -1 and "image_path" not in more[2] and more[2]["similarity"] is None
    assert made["rows"] == 3 and verified(tmp_path / "out") == []
    export_dump(tmp_path / "out", tmp_path / "again", "clip-retrieval")
    again = metadata(tmp_path / "again")
    assert again["similarity"].to_pylist() == [0.3, 0.25, None] and again["width"].to_pylist() == [640, None, None]
    assert again["url"].to_pylist() == ["http://a.org/1.jpg", "http://a.org/2.jpg", None]
    assert again["source_image_path"].to_pylist() == ["0/1.jpg", None, None]
    assert again["source_clip_score"].to_pylist() == [0.25] * 3 != again["clip_score"].to_pylist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("caption", ["a", "b"]), ("caption", ["c", "d"])], "has more than one column named 'caption'"),
        ([("caption", ["a", "b"]), ("bad", BROKEN)], "column 'bad' cannot be read: 'utf-8' codec"),
        ([("text", ["a", "b"])], "has no column 'caption'; it has text"),
    ],
)
def test_metadata_that_cannot_be_kept_are_refused_by_column(tmp_path, columns, message):
    folder = laid_out(tmp_path / "in", vectors(0, 2))
    table = pa.table([values for _, values in columns], names=[name for name, _ in columns])
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    with pytest.raises(ValueError, match=message):
        import_dump(folder, tmp_path / "out")


def test_parts_are_of_one_size_however_rows_are_grouped(tmp_path):
    table = pa.table({"caption": pa.array(["a", "b", "c", "d", "e"] * 7).dictionary_encode()})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=2)
    found = list(said_in(tmp_path / "m.parquet", 10))
    assert [len(said) for said in found] == [10, 10, 10, 5] and found[3].names[4] == "m.parquet row 34"
    assert [caption for said in found for caption in said.captions] == table["caption"].to_pylist()


def test_a_dump_without_rows_is_refused_by_its_own_name(tmp_path):
    folder = laid_out(tmp_path / "in", np.zeros((0, 4), np.float32), captions=[])
    pq.write_table(pa.table({"caption": pa.array([], pa.string())}), folder / "metadata" / "metadata_0.parquet")
    with pytest.raises(ValueError, match=r"/in has no rows: there is nothing to import$"):
        import_dump(folder, tmp_path / "out")


def test_what_our_own_export_says_of_vectors_is_found_out_again(tmp_path):
    back = imported(tmp_path, tar_dump(tmp_path))
    assert set(inspect_dump(back)["further"]) == {"image_sha256"} and inspect_dump(back)["context_filled"] is None


def test_rows_that_are_no_vectors_are_rejected_and_counted(tmp_path):
    rows = vectors(0, 6)
    rows[2], rows[4] = 0, np.nan
    made = import_dump(laid_out(tmp_path / "in", rows), tmp_path / "out")
    assert made["rows"] == 4 and made["refused"] == {"embedding_not_finite": 2} and verified(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "parts" / "000000.json").read_text())["source"]["rows"] == 6


def write_vectors(name, array):
    return lambda folder: np.save(folder / name, array)


def write_bytes(name, data):
    return lambda folder: (folder / name).write_bytes(data)


IMAGE, TEXT, META = "img_emb/img_emb_0.npy", "text_emb/text_emb_0.npy", "metadata/metadata_0.parquet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / TEXT).unlink(), "it has no text_emb/"),
        (lambda folder: (folder / IMAGE).rename(folder / "img_emb" / "img_emb_7.npy"), r"lacks \[0, 7\]"),
        (lambda folder: (folder / IMAGE).rename(folder / "img_emb" / "rows.npy"), "names must end in numbers"),
        (write_vectors(TEXT, vectors(0, 19)), "20 rows, .* 19, .* 20: they are paired"),
        (write_vectors(TEXT, vectors(0, 20, 8)), "all vectors must be of one dimension"),
        (write_vectors(IMAGE, np.arange(20)), "must hold rows of floats"),
        (write_vectors(IMAGE, np.array([{}] * 20)), "is no whole .npy file"),
        (write_bytes(IMAGE, b"junk"), "is no whole .npy file"),
        (write_bytes(META, b"junk"), "is not a whole Parquet file"),
        (lambda folder: pq.write_table(pa.table({"x": [1] * 20}), folder / META), "has no column 'caption'; it has x"),
    ],
)
def test_a_broken_dump_is_refused_by_name_and_nothing_is_left(tmp_path, damage, message):
    damage(laid_out(tmp_path / "in", vectors(0)))
    with pytest.raises(ValueError, match=message):
        import_dump(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_dump_of_pictures_is_not_added_to_an_imported_one(tmp_path):
    back = imported(tmp_path, tar_dump(tmp_path), TinyEncoder())
    with pytest.raises(ValueError, match=r"was made with|holds the import of"):
        embed_dump(ShardsConfig(pattern=str(tmp_path / "tars/*.tar")), back, TinyEncoder(), tmp_path / "clip", 4, print)
