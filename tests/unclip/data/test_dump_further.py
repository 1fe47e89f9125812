"""Facts about what a dump's source says of its rows besides: it stands beside the parts, and comes out of the dump."""

import io
import json
import tarfile

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, needs_tool, sample
from tests.unclip.data.dump_fixtures import clip_folder, embedded, quiet, search_dump, verified
from tests.unclip.data.test_fetched import HOW
from tests.unclip.data.test_urls import write_list
from tests.unclip.data.web_server import serving
from unclip.data.config import FolderConfig, ShardsConfig, UrlsConfig
from unclip.data.dump import fill_dump, part_paths, rows_path
from unclip.data.dump_engine import Engine
from unclip.data.dump_figures import inspect_dump
from unclip.data.dump_further import Field, kind_of
from unclip.data.exports import export_dump
from unclip.data.fetched import fetch_list
from unclip.data.more_columns import as_json, read_more
from unclip.data.rows import ROWS_SCHEMA

FIELDS = [  # of the JSON of four samples in two tars
    {"punsafe": 1, "license": "by", "caption": "one", "url": "http://a.example/1.png", "width": 900},
    {"punsafe": None, "license": 7, "tags": ["x", 1]},
    {"punsafe": 0.25, "odd": float("nan"), "image_path": "/there"},
    None,
]


def write_tar(path, first, rows):
    """Samples of somebody's tar; None has no JSON."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row, fields in enumerate(rows, start=first):
            files = {"png": sample(row).image, "txt": f"caption {row}".encode()}
            files |= {} if fields is None else {"json": json.dumps(fields).encode()}
            for ending, data in files.items():
                member = tarfile.TarInfo(f"{row:05d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    folder = tmp_path_factory.mktemp("further")
    for number in range(2):
        write_tar(folder / "tars" / f"{number}.tar", 2 * number, FIELDS[2 * number :][:2])
    return embedded(ShardsConfig(pattern=str(folder / "tars" / "*.tar")), folder / "dump")


def more_of(dump):
    """What the rows of each part say besides."""
    tables = [pq.read_table(rows_path(part)) for part in part_paths(dump)]
    return [read_more(text) for table in tables for text in table["more"].to_pylist()]


def test_the_json_of_a_tar_stands_beside_the_part_without_what_is_known(dump):
    first = {"punsafe": 1, "license": "by", "caption": "one", "width": 900, "source_key": "0.tar/00000"}
    assert more_of(dump) == [first, FIELDS[1], FIELDS[2] | {"odd": None}, {}]
    assert verified(dump) == []


def test_the_json_of_a_search_has_further_columns(dump):
    hits = search_dump(dump, TinyEncoder(), "caption 1", None, 4)
    assert {hit["url"]: hit["more"].get("punsafe") for hit in hits} == {
        "http://a.example/1.png": 1, "0.tar/00001": None, "1.tar/00002": 0.25, "1.tar/00003": None
    }  # fmt: skip


def test_an_inspection_counts_the_values_of_further_columns(dump):
    found = inspect_dump(dump)["further"]
    assert found["punsafe"] == {"kind": "float", "rows": 2} and found["license"] == {"kind": "text", "rows": 2}
    assert list(found) == ["punsafe", "license", "caption", "width", "source_key", "tags", "image_path"]


def test_an_export_has_further_columns_of_one_type_in_all_files(dump, tmp_path):
    export_dump(dump, tmp_path / "out", "clip-retrieval")
    files = [pq.read_table(path) for path in sorted((tmp_path / "out" / "metadata").iterdir())]
    assert files[0].schema.equals(files[1].schema)
    found = pa.concat_tables(files).to_pydict()
    assert found["punsafe"] == [1.0, None, 0.25, None] and found["license"] == ["by", "7", None, None]
    assert found["tags"][1] == '["x", 1]' and found["url"] == ["http://a.example/1.png", None, None, None]
    assert found["width"] == [48] * 4 and found["source_width"] == [900, None, None, None]
    assert found["source_caption"][0] == "one" and found["source_image_path"][2] == "/there"


@pytest.mark.parametrize("values", [[1, 2**60, 0.5], [0.5, 1, 2**60], [2**60, 0.5, 1]])
def test_integers_that_no_float_holds_are_text_beside_floats(values):
    field = Field(kind_of(values[0]))
    for value in values:
        field.add(value)
    assert field.kind == "text" and field.rows == 3 and field.column(values).to_pylist() == [str(v) for v in values]


def test_duckdb_joins_further_columns_by_key(dump):
    parts, rows = (f"{dump}/parts/{name}.parquet" for name in ("[0-9][0-9][0-9][0-9][0-9][0-9]", "*.rows"))
    found = duckdb.sql(
        f"""SELECT key, url, (more->>'punsafe')::DOUBLE AS punsafe, image_embedding FROM read_parquet('{parts}')
        JOIN (SELECT key, url, more FROM read_parquet('{rows}', union_by_name=true)) USING (key)
        WHERE punsafe < 0.5"""
    ).fetchall()
    assert [row[:3] for row in found] == [("00000100000", "1.tar/00002", 0.25)] and len(found[0][3]) == 12


def test_rows_without_further_columns_keep_their_bytes(tmp_path):
    write_tar(tmp_path / "tars" / "0.tar", 0, [None, {"caption": "caption 1"}, {}])
    dump = embedded(ShardsConfig(pattern=str(tmp_path / "tars" / "*.tar")), tmp_path / "dump")
    rows = rows_path(part_paths(dump)[0])
    assert pq.read_schema(rows).equals(ROWS_SCHEMA) and inspect_dump(dump)["further"] == {}
    pq.write_table(pq.read_table(rows), tmp_path / "again.parquet", compression="zstd")
    assert rows.read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_further_columns_are_the_same_bytes_whoever_decodes(dump, tmp_path):
    engine = Engine(TinyEncoder(), (TinyEncoder,), batch_size=4, num_workers=2)
    source = ShardsConfig(pattern=str(dump.parent / "tars" / "*.tar"))
    fill_dump(source, tmp_path / "dump", engine, clip_folder(tmp_path / "clip"), quiet)
    both = [
        {path.name: path.read_bytes() for path in (one / "parts").glob("*.parquet")}
        for one in (dump, tmp_path / "dump")
    ]
    assert both[0] == both[1] and len(both[0]) == 6


def test_a_further_column_of_a_folder_that_changed_makes_its_part_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(sample(0).image)
    list_ = tmp_path / "captions.csv"
    for score in ("0.9", "0.8"):
        list_.write_text(f"file,caption,punsafe\na.png,a word,{score}\nnone.png,gone,\n")
        config = FolderConfig(folder=str(tmp_path), captions=str(list_), more_columns=("punsafe",))
        dump = embedded(config, tmp_path / "dump")
        assert more_of(dump) == [{"punsafe": score}, {"punsafe": None}]


@needs_tool
def test_further_columns_of_a_list_reach_its_dump_with_its_refused_rows(tmp_path):
    with serving() as server:
        rows = [(f"{server}/{name}", name, 0.5, "by") for name in ("plain.png", "gone.jpg", "wide.png")]
        path = write_list(
            tmp_path / "list.parquet", [*rows, ("nonsense", "x", 0, "")], ("url", "caption", "p", "l")
        ).path
        config = UrlsConfig(path=path, more_columns=("p", "l"))
        source = fetch_list(config, HOW, tmp_path / "dump" / "pictures", quiet)
    assert more_of(embedded(source, tmp_path / "dump")) == [*[{"p": 0.5, "l": "by"}] * 3, {}]


def test_what_no_json_has_is_null():
    assert (
        as_json({"a": float("nan"), "b": {"c": [float("-inf")]}, "d": "NaN"})
        == '{"a": null, "b": {"c": [null]}, "d": "NaN"}'
    )
