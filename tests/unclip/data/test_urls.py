import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.urls import PAIRS_SCHEMA, pair_recipes, read_pairs, write_pairs
from unclip.data.web_address import normalise_url

ROWS = [("http://a.example/1.png", "one"), ("http://a.example/2.png", "two"), ("http://A.example:80/1.png#x", " one ")]


def write_list(path, rows, names=("url", "caption")):
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    else:
        path.write_text(",".join(names) + "\n" + "".join(",".join(row) + "\n" for row in rows))
    return UrlsConfig(path=str(path))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_format_gives_the_same_pairs(tmp_path, suffix):
    (table,) = read_pairs(write_list(tmp_path / f"list.{suffix}", ROWS))
    assert table.column("caption").to_pylist() == ["one", "two", "one"]
    assert table.column("refused").to_pylist() == [None, None, "duplicate"]
    assert table.column("url")[2].as_py() == ROWS[0][0]


def test_the_same_url_with_another_caption_is_no_duplicate(tmp_path):
    config = write_list(tmp_path / "list.csv", [ROWS[0], (ROWS[0][0], "other")])
    assert read_pairs(config)[0].column("refused").to_pylist() == [None, None]


def test_a_duplicate_is_found_in_a_later_shard(tmp_path):
    path = write_list(tmp_path / "list.csv", ROWS).path
    tables = read_pairs(UrlsConfig(path=path, shard_size=2))
    assert [t.num_rows for t in tables] == [2, 1]
    assert tables[1].column("refused").to_pylist() == ["duplicate"]


def test_bad_rows_are_kept_with_their_reason(tmp_path):
    rows = [("", "no url"), ("http:///x.png", "no host"), ("not a url", "none"), ("http://a.example/x.png", "  ")]
    (table,) = read_pairs(write_list(tmp_path / "list.csv", rows))
    assert table.column("refused").to_pylist() == ["malformed"] * 4
    assert table.column("detail").to_pylist() == ["no URL", "URL without a host", "URL without a scheme", "no caption"]


def test_the_frozen_pairs_are_the_same_bytes_again(tmp_path):
    config = write_list(tmp_path / "list.csv", ROWS)
    assert write_pairs(config, 0, tmp_path / "a.parquet") == {"rows": 3, "malformed": 0, "duplicate": 1}
    write_pairs(config, 0, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_schema(tmp_path / "a.parquet").equals(PAIRS_SCHEMA)


def test_the_same_pairs_in_another_shard_are_another_file(tmp_path):
    for name, rows in (("one", ROWS[:2]), ("two", [("http://a.example/0.png", "first"), ("", ""), *ROWS[:2]])):
        write_list(tmp_path / f"{name}.csv", rows)
    write_pairs(UrlsConfig(path=str(tmp_path / "one.csv"), shard_size=2), 0, tmp_path / "0.parquet")
    write_pairs(UrlsConfig(path=str(tmp_path / "two.csv"), shard_size=2), 1, tmp_path / "1.parquet")
    assert pq.read_table(tmp_path / "0.parquet").equals(pq.read_table(tmp_path / "1.parquet"))
    assert (tmp_path / "0.parquet").read_bytes() != (tmp_path / "1.parquet").read_bytes()


def test_appended_rows_leave_the_recipes_of_full_shards_as_they_are(tmp_path):
    path = write_list(tmp_path / "list.csv", ROWS).path
    before = pair_recipes(UrlsConfig(path=path, shard_size=2))
    write_list(tmp_path / "list.csv", [*ROWS, ("http://a.example/3.png", "three")])
    after = pair_recipes(UrlsConfig(path=path, shard_size=2))
    assert after[0] == before[0] and after[1] != before[1] and len(after) == 2


def test_a_changed_list_is_read_again(tmp_path):
    config = write_list(tmp_path / "list.csv", ROWS)
    before = read_pairs(config)[0].num_rows
    write_list(tmp_path / "list.csv", ROWS[:1])
    assert (before, read_pairs(config)[0].num_rows) == (3, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "url,text\nhttp://a.example/,x\n", "has no column 'caption'; it has url, text"),
        ("list.csv", "url,caption\n", "has no rows"),
        ("list.csv", "", "has no column 'url'; it has none"),
        ("list.csv", 'url,caption\n"open,x\n', "is not CSV"),
        ("list.jsonl", '{"url": 1}\n{', "list.jsonl:1 has no column 'caption'"),
        ("list.jsonl", '{"url": "a", "caption": "b"}\n{', "list.jsonl:2 is not JSON"),
        ("list.jsonl", "[1]\n", "list.jsonl:1 must be a JSON object"),
        ("list.parquet", "PAR", "is not Parquet"),
    ],
)
def test_a_malformed_list_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_pairs(UrlsConfig(path=str(tmp_path / name)))


def test_a_list_that_is_not_utf8_is_one_clear_error(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"url,caption\nhttp://a.example/,caf\xe9\n")
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_pairs(UrlsConfig(path=str(tmp_path / "list.csv")))


def test_a_missing_list_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*none\.csv"):
        read_pairs(UrlsConfig(path=str(tmp_path / "none.csv")))


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTPS://Example.COM:443", "https://example.com/"),
        ("http://a.example/ü b.png?q=ä#part", "http://a.example/%C3%BC%20b.png?q=%C3%A4"),
        ("http://a.example/%20", "http://a.example/%20"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[0:0::1]:81/x", "http://[::1]:81/x"),
    ],
)
def test_one_address_has_one_spelling(url, same):
    assert normalise_url(url) == same == normalise_url(same)


@pytest.mark.parametrize(
    ("field", "value"),
    [("schemes", ("file",)), ("timeout_s", 0), ("retries", -1), ("background", (0, 0, 300)), ("max_pixels", 10**9)],
)
def test_an_impossible_setting_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        DownloadConfig(**{field: value})
