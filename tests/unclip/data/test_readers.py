"""Facts about other programs that read the parts: names, types and values are ours."""

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import TinyEncoder
from tests.unclip.data.dump_fixtures import search_dump, tar_dump
from unclip.data.dump import part_paths
from unclip.data.table import read_parts

NAMES = [
    "key", "sample_id", "image_sha256", "image_embedding", "image_norm",
    "text_embedding", "text_norm", "tokens", "caption", "clip_score",
]  # fmt: skip
VECTORS = {"image_embedding": 12, "text_embedding": 12, "tokens": 8}


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    return tar_dump(tmp_path_factory.mktemp("dump"))


@pytest.fixture(scope="module")
def glob(dump):
    """The parts alone, as DuckDB and Polars take them."""
    return str(dump / "parts" / "[0-9][0-9][0-9][0-9][0-9][0-9].parquet")


@pytest.fixture(scope="module")
def ours(dump):
    return pa.concat_tables([pq.read_table(path) for path in part_paths(dump)])


def same(name, found, ours):
    """Whether a column, as values of Python or NumPy, is ours to the bit."""
    said = ours[name].to_pylist()
    if name in VECTORS:
        return np.array_equal(np.stack([np.asarray(row) for row in found]), np.array(said))
    return list(found) == said


def test_duckdb_reads_the_parts(glob, ours):
    table = duckdb.sql(f"SELECT * FROM read_parquet('{glob}') ORDER BY key")
    assert table.columns == NAMES
    types = dict(zip(table.columns, map(str, table.types), strict=True))
    assert types["image_embedding"] == "FLOAT[]" and types["tokens"] == "INTEGER[]" and types["sample_id"] == "BLOB"
    found = table.fetchall()
    for place, name in enumerate(NAMES):
        assert same(name, [row[place] for row in found], ours), name


def test_duckdb_finds_the_nearest_that_the_index_finds(dump, glob):
    encoder = TinyEncoder()
    query = encoder.encode_text(encoder.tokenize(["picture number 1 3"]))[0].tolist()
    cosine = "list_cosine_similarity(image_embedding, $query::FLOAT[])"
    statement = f"SELECT key, {cosine} AS cosine FROM read_parquet('{glob}') ORDER BY cosine DESC LIMIT 5"
    found = duckdb.execute(statement, {"query": query}).fetchall()
    hits = search_dump(dump, encoder, "picture number 1 3", None, 5)
    assert [key for key, _ in found] == [hit["key"] for hit in hits]
    assert [cosine for _, cosine in found] == pytest.approx([hit["cosine"] for hit in hits], abs=1e-5)


def test_polars_reads_the_parts(glob, ours):
    frame = polars.scan_parquet(glob).sort("key").collect()
    assert frame.columns == NAMES
    for name, width in VECTORS.items():
        assert frame.schema[name] == polars.Array(polars.Int32 if name == "tokens" else polars.Float16, width)
    for name in NAMES:
        assert same(name, frame[name].to_list(), ours), name


def test_pandas_reads_the_parts(dump, ours):
    frame = pandas.concat([pandas.read_parquet(path) for path in part_paths(dump)])
    assert list(frame.columns) == NAMES and frame["clip_score"].dtype == np.float32
    assert frame["image_embedding"].iloc[0].dtype == np.float16 and frame["tokens"].iloc[0].dtype == np.int32
    for name in NAMES:
        assert same(name, frame[name].tolist(), ours), name


def test_datasets_reads_the_parts(dump, ours, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in part_paths(dump)]
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert found.column_names == NAMES and found.features["clip_score"].dtype == "float32"
    assert (found.features["image_embedding"].length, found.features["image_embedding"].feature.dtype) == (
        12,
        "float16",
    )
    for name in NAMES:
        assert same(name, list(found[name]), ours), name


def test_the_rows_are_those_that_we_read(dump, ours):
    parts = read_parts(part_paths(dump))
    assert ours["key"].to_pylist() == [key for part in parts for key in part.keys]
    norms = ours["image_norm"].to_numpy()[:, None]
    raw = np.array(ours["image_embedding"].to_pylist(), np.float32)
    assert np.allclose(raw / norms, np.concatenate([part.image for part in parts]), atol=1e-3)
