"""Facts about the verification of a dump: whatever is damaged is named."""

import json
import re

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, sample
from tests.unclip.data.dump_fixtures import folder_dump, put, rewrite, tar_dump, vectors, verified
from unclip.data.dump_pictures import DumpPictures
from unclip.data.shards import write_shard
from unclip.data.verification import verify_dump

KEY = "00000100003"
PART = "parts/000001.parquet"


@pytest.fixture
def dump(tmp_path):
    return tar_dump(tmp_path)


def said(dump, start, **options):
    """The one line that begins so."""
    (line,) = [line for line in verified(dump, **options) if line.startswith(start)]
    return line


@pytest.mark.parametrize("make", [tar_dump, folder_dump])
def test_nothing_is_wrong_with_a_whole_dump(tmp_path, make):
    assert verified(make(tmp_path)) == []


@pytest.mark.parametrize(
    ("column", "change", "line"),
    [
        ("image_norm", lambda all: all[3] * 1.1, "image_norm is .*, allowed: .* to .*, as the vector has"),
        ("text_norm", float("nan"), "text_norm is nan, allowed: "),
        ("clip_score", lambda all: all[3] + 0.1, "clip_score is .*, allowed: .*, the cosine of the vectors"),
        ("image_embedding", [0.0] * 12, "image_embedding is zero or not finite, allowed: a finite vector, not zero"),
        ("text_embedding", [float("inf")] * 12, "text_embedding is zero or not finite"),
        ("key", "00000000003", "key is out of order or twice, allowed: above 00000100002"),
        ("key", "00000100002", "key is out of order or twice"),
        ("key", "00000200003", "key is of another part, allowed: 000001 and five digits"),
        ("caption", "another", "caption is 'another', allowed: 'picture number 1 3', as its row says"),
        ("image_sha256", bytes(32), "image_sha256 is 000000000000, allowed: .*, as its row says"),
        ("sample_id", bytes(16), "sample_id is 000000000000, allowed: .*, as its row says"),
        ("tokens", [1] * 8, r"tokens is '\[1, 1.*, allowed: "),
    ],
)
def test_a_damaged_value_is_named_with_its_row_and_what_is_allowed(dump, column, change, line):
    rewrite(dump / PART, **{column: put(3, change)})
    found = verified(dump)
    key = change if column == "key" else KEY
    assert [f for f in found if re.match(f"{PART} {key}: {line}", f)], found
    assert found[0].startswith(f"{PART}: sha256 is")


def test_a_vector_of_another_picture_is_found_by_embedding_again(dump):
    columns = ("image_embedding", "image_norm")
    rewrite(dump / PART, **{name: put(3, lambda values: values[5]) for name in columns})
    score = pq.read_table(dump / PART)
    rows = [np.array(score[f"{kind}_embedding"][3].as_py()) for kind in ("image", "text")]
    cosine = float(rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]))
    rewrite(dump / PART, clip_score=put(3, cosine))
    line = said(dump, f"{PART} {KEY}")
    assert "image_embedding is at cosine" in line and line.endswith("allowed: >= 0.999")


def test_a_vector_of_another_length_is_found_by_embedding_again(dump):
    rewrite(dump / PART, image_embedding=put(3, lambda all: [x / 2 for x in all[3]]))
    rewrite(dump / PART, image_norm=put(3, lambda all: all[3] / 2))
    assert "image_embedding is of norm" in said(dump, f"{PART} {KEY}")


def test_parts_made_otherwise_are_named_with_the_field(dump):
    table = pq.read_table(dump / PART)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"compute_type": b"bf16"}), dump / PART)
    assert said(dump, f"{PART}: compute_type").endswith("is bf16, allowed: fp32, as parts/000000.parquet has")


@pytest.mark.parametrize("damage", ["cut", "narrow", "short"])
def test_a_part_that_is_no_table_is_named_and_the_others_are_looked_at(dump, damage):
    table = pq.read_table(dump / PART)
    whole = (dump / PART).read_bytes()
    {
        "cut": lambda: (dump / PART).write_bytes(whole[: len(whole) // 2]),
        "narrow": lambda: pq.write_table(table.drop_columns("tokens"), dump / PART),
        "short": lambda: pq.write_table(table.slice(2), dump / PART),
    }[damage]()
    rewrite(dump / "parts/000000.parquet", image_norm=put(0, 1.0))
    assert said(dump, f"{PART}: table is refused: ") and said(dump, "parts/000000.parquet 00000000000: image_norm")


def test_a_page_that_was_damaged_is_named(dump):
    data = bytearray((dump / PART).read_bytes())
    place = pq.read_metadata(dump / PART).row_group(0).column(3).data_page_offset
    data[place + 30 : place + 60] = bytes(30)
    (dump / PART).write_bytes(data)
    assert [line for line in verified(dump) if line.startswith(f"{PART}: table is refused: ")]


def test_rows_that_have_no_fate_or_two_are_named(dump):
    rejects = dump / "parts/000001.rejects.parquet"
    twice = {"key": [KEY], "reason": ["undecodable"], "detail": [""]}
    pq.write_table(pq.read_table(rejects).schema.empty_table().from_pydict(twice), rejects)
    assert said(dump, f"parts/000001.rejects.parquet {KEY}").endswith(
        "row is embedded as well, allowed: not in the part"
    )
    table = pq.read_table(dump / PART)
    metadata = table.schema.metadata | {b"num_rows": b"6"}
    pq.write_table(table.slice(2).replace_schema_metadata(metadata), dump / PART)
    lost = [line for line in verified(dump) if line.startswith("parts/000001.rows.parquet 0000010000")]
    assert len(lost) == 2 and lost[0].endswith("row is neither embedded nor rejected, allowed: one of the two")


@pytest.mark.parametrize("name", [f"parts/000001.{kind}.parquet" for kind in ("rows", "rejects")] + ["keys.parquet"])
@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_file_that_is_missing_or_junk_is_named(dump, name, content):
    (dump / name).unlink() if content is None else (dump / name).write_bytes(content)
    assert said(dump, f"{name}: sha256 is ") and said(dump, f"{name}: table is refused")


def test_a_record_that_counts_otherwise_is_named(dump):
    record = dump / "parts/000001.json"
    said_rows = json.loads(record.read_text())
    said_rows["source"]["rows"] = 9
    record.write_text(json.dumps(said_rows))
    assert said(dump, "parts/000001.json: rows is 9, allowed: 8")


def test_a_key_map_out_of_step_is_named(dump):
    rewrite(dump / "keys.parquet", key=put(11, "x"), shard=put(2, 5), caption=put(4, "y"))
    found = verified(dump)
    for line in (f"{KEY}: key is 'x'", "00000000002: shard is 5, allowed: 0", "00000000004: caption is 'y'"):
        assert [f for f in found if f.startswith(f"keys.parquet {line}")], found
    pq.write_table(pq.read_table(dump / "keys.parquet").slice(0, 15), dump / "keys.parquet")
    assert [f for f in verified(dump) if f.startswith("keys.parquet 00000100007: key is nothing")]


def test_an_index_of_other_vectors_or_of_another_size_is_named(dump):
    for size, line in ((16, "recall is "), (15, "rows is 15, allowed: 16")):
        index = faiss.IndexFlatIP(12)
        index.add(vectors(0, size))
        faiss.write_index(index, str(dump / "index.faiss"))
        assert said(dump, f"index.faiss: {line}")
    (dump / "index.faiss").write_bytes(b"junk")
    assert said(dump, "index.faiss: index is refused: ")


def test_a_dump_without_its_manifest_says_so(dump):
    (dump / "manifest.json").unlink()
    assert said(dump, "manifest.json: manifest is refused: ")


def test_pictures_that_are_gone_or_changed_are_named(tmp_path):
    dump = folder_dump(tmp_path)
    (tmp_path / "photos" / "a.png").unlink()
    (tmp_path / "photos" / "b.png").write_bytes(sample(7).image)
    found = verified(dump)
    assert len(found) == 2 and "00000000000: picture is not to be had: " in found[0] and "a.png is missing" in found[0]
    assert "b.png is no longer the picture that was embedded" in found[1]


def test_rows_whose_picture_is_gone_are_not_counted_as_embedded_again(tmp_path):
    dump, counts = folder_dump(tmp_path), []
    for encoder in (TinyEncoder(), None):
        counts.append(verify_dump(dump, lambda precision, made=encoder: made, DumpPictures(dump), 100).embedded_again)
        (tmp_path / "photos" / "a.png").unlink(missing_ok=True)
        counts.append(verify_dump(dump, lambda precision, made=encoder: made, DumpPictures(dump), 100).embedded_again)
    assert counts == [3, 2, 0, 0]  # none by an encoder that cannot be had


def test_tars_are_found_where_they_were_moved_to(tmp_path):
    dump = tar_dump(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for number, tar in enumerate(sorted((tmp_path / "tars").glob("*.tar"))):
        tar.rename(tmp_path / "elsewhere" / f"renamed-{1 - number}.tar")
    assert "no tar under" in verified(dump)[0]
    assert verified(dump, source=tmp_path / "elsewhere") == []
    write_shard(tmp_path / "elsewhere" / "renamed-0.tar", [sample(0)])
    assert "was changed or moved" in verified(dump, source=tmp_path / "elsewhere")[0]


def test_another_clip_or_a_broken_one_is_named(dump):
    assert "weights_digest w" in said(dump, "clip: weights is refused", encoder=TinyEncoder(weights_digest="x" * 64))


def test_of_many_alike_the_first_are_named_and_the_rest_counted(dump):
    rewrite(dump / PART, image_norm=lambda values: [value * 2 for value in values])
    found = verified(dump)
    assert len([f for f in found if ": image_norm is" in f]) == 5
    assert found[-1] == f"{PART}: image_norm of 3 more rows"


def test_no_sample_looks_at_the_rows_alone(dump, tmp_path):
    for tar in (tmp_path / "tars").glob("*.tar"):
        tar.unlink()
    assert verified(dump, sample=0) == []
    with pytest.raises(ValueError, match="sample must be >= 0, got -1"):
        verified(dump, sample=-1)
