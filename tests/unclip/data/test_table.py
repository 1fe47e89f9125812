"""Facts about the embedding table."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import part
from tests.unclip.data.dump_fixtures import vectors
from unclip.data.table import Embedded, check_agree, read_info, read_part, read_parts, vectors_of, write_part


def test_a_part_reads_back_at_norm_one_and_keeps_the_raw_vectors(tmp_path):
    raw = vectors(0)
    found = read_part(part(tmp_path / "p.parquet", raw))
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(found.image, axis=1), 1, atol=1e-6)
    assert np.allclose(found.image, raw / norms, atol=2e-3) and np.allclose(found.clip_score, 1, atol=1e-6)
    assert np.array_equal(vectors_of(tmp_path / "p.parquet", "image_embedding"), raw.astype(np.float16))


@pytest.mark.parametrize("row_group", [1000, 90])
def test_vectors_are_read_whole_and_in_order_however_they_lie_in_the_file(tmp_path, row_group):
    raw, path = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32), tmp_path / "p.parquet"
    pq.write_table(pq.read_table(part(path, raw)), path, row_group_size=row_group)
    assert np.array_equal(vectors_of(path, "image_embedding"), raw.astype(np.float16))


def test_the_same_rows_give_the_same_bytes(tmp_path):
    first, second = part(tmp_path / "a.parquet", vectors(0)), part(tmp_path / "b.parquet", vectors(0))
    assert first.read_bytes() == second.read_bytes()


def test_columns_hold_no_nulls_and_vectors_are_plain_as_every_reader_knows_them(tmp_path):
    file = pq.ParquetFile(part(tmp_path / "p.parquet", vectors(0)))
    assert not any(field.nullable for field in file.schema_arrow)
    columns = [file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)]
    assert not any("BYTE_STREAM_SPLIT" in column.encodings for column in columns)
    plain = {column.path_in_schema for column in columns if column.compression == "UNCOMPRESSED"}
    assert plain == {"image_embedding.list.element", "text_embedding.list.element"}


@pytest.mark.parametrize("field", ["weights_digest", "preprocessing_digest", "tokenizer", "compute_type"])
def test_parts_made_otherwise_are_refused_with_the_field(tmp_path, field):
    paths = [part(tmp_path / f"{i}.parquet", vectors(i), shard=i) for i in range(2)]
    found = read_part(paths[1])
    rows = Embedded(
        keys=found.keys, sample_ids=[bytes(16)] * 20, image_sha256=found.image_sha256, image=found.image,
        text=found.text, tokens=found.tokens, captions=found.captions,
    )  # fmt: skip
    write_part(paths[1], rows, replace(found.info, **{field: "other"}))
    with pytest.raises(ValueError, match=f"has {field} other, but"):
        read_parts(paths)


NO_PARTS = {
    "bare": (lambda table: table.replace_schema_metadata(None), "lacks model"),
    "silent": (lambda table: told(table, tokenizer=None), "lacks tokenizer$"),
    "other": (lambda table: told(table, storage_type="float32"), "says 20 rows of float32, has 20 of float16"),
    "short": (lambda table: table.slice(0, 5), "says 20"),
    "narrow": (lambda table: table.drop_columns("tokens"), "columns"),
}


def told(table, **said):
    """A table whose metadata say this; nothing of what is None."""
    metadata = table.schema.metadata | {name.encode(): value for name, value in said.items()}
    return table.replace_schema_metadata({name: value for name, value in metadata.items() if value is not None})


@pytest.mark.parametrize("kind", NO_PARTS)
def test_a_file_that_is_no_part_is_refused(tmp_path, kind):
    change, message = NO_PARTS[kind]
    pq.write_table(change(pq.read_table(part(tmp_path / "p.parquet", vectors(0)))), tmp_path / "changed.parquet")
    with pytest.raises(ValueError, match=message):
        read_info(tmp_path / "changed.parquet")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = part(tmp_path / "p.parquet", vectors(0))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        read_info(path)


@pytest.mark.parametrize("bad", [0.0, np.nan, 1e6])
def test_an_embedding_that_is_zero_or_not_finite_is_not_written(tmp_path, bad):
    rows = vectors(0)
    rows[7] = bad
    with pytest.raises(ValueError, match="of 00000000007 is zero or not finite"):
        part(tmp_path / "p.parquet", rows)


def test_an_empty_part_reads_back_empty(tmp_path):
    found = read_part(part(tmp_path / "p.parquet", np.empty((0, 12))))
    assert len(found) == 0 and found.image.shape == (0, 12) and check_agree([tmp_path / "p.parquet"])[0].num_rows == 0


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
    table = pq.read_table(path := part(tmp_path / "p.parquet", vectors(0)))
    place = table.schema.get_field_index(column)
    values = [str(value) if kind == pa.string() else value for value in table[column].to_pylist()]
    pq.write_table(table.set_column(place, pa.field(column, kind, nullable=False), pa.array(values, kind)), path)
    with pytest.raises(ValueError, match="its columns are not those of an embedding table of dimension 12"):
        read_info(path)


@pytest.mark.parametrize(("field", "value"), [("num_rows", "7"), ("dimension", "13"), ("context", "many")])
def test_metadata_that_lie_are_refused(tmp_path, field, value):
    path = part(tmp_path / "p.parquet", vectors(0))
    pq.write_table(told(pq.read_table(path), **{field: value}), path)
    with pytest.raises(ValueError, match=str(path)):
        read_info(path)
