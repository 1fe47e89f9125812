import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.identities import SPILL_ROWS, Identities, bits_between
from unclip.data.url_records import read_records
from unclip.data.urls import PAIRS_SCHEMA, pair_recipes, read_shard, survey, write_pairs
from unclip.data.web_address import NORMAL, _normalised, normalise_url

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
    table = read_shard(write_list(tmp_path / f"list.{suffix}", ROWS), 0)
    assert table.column("caption").to_pylist() == ["one", "two", "one"]
    assert table.column("refused").to_pylist() == [None, None, "duplicate"]
    assert table.column("url")[2].as_py() == ROWS[0][0]


def test_the_same_url_with_another_caption_is_no_duplicate(tmp_path):
    config = write_list(tmp_path / "list.csv", [ROWS[0], (ROWS[0][0], "other")])
    assert read_shard(config, 0).column("refused").to_pylist() == [None, None]


def test_a_comma_without_quotes_cuts_no_caption_short(tmp_path):
    rows = [(ROWS[0][0], "a cat, asleep"), (ROWS[1][0], '"a dog, asleep"'), (ROWS[1][0], "a bird,")]
    table = read_shard(write_list(tmp_path / "list.csv", rows), 0)
    assert table["refused"].to_pylist() == ["malformed", None, None]
    assert table["detail"][0].as_py() == "3 cells, 2 in the header: a comma in a caption needs quotes around it"
    assert table["caption"].to_pylist()[1:] == ["a dog, asleep", "a bird"]


NOT_TEXT = [(5, "a number"), (1.5, "a number"), (True, "a boolean"), (["a cat"], "a list"), ({"en": "a"}, "an object")]


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(("value", "kind"), [*NOT_TEXT, (float("nan"), ""), (None, ""), ("", "")])
def test_what_is_no_text_is_neither_url_nor_caption(tmp_path, column, value, kind):
    row = tuple(value if place == column else cell for place, cell in enumerate(ROWS[0]))
    table = read_shard(write_list(tmp_path / "list.jsonl", [ROWS[1], row]), 0)
    name, missing = ("url", "caption")[column], ("no URL", "no caption")[column]
    assert table["refused"].to_pylist() == [None, "malformed"]
    assert table["detail"][1].as_py() == (f"{name} is {kind}, must be text" if kind else missing)


@pytest.mark.parametrize("column", ["url", "caption"])
@pytest.mark.parametrize(
    ("value", "kind"), [(5, "int64"), ([1, 2], "list<.*: int64>"), (b"a", "binary"), (None, "null")]
)
def test_a_parquet_column_that_is_no_text_is_one_error_at_once(tmp_path, column, value, kind):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"url": ["http://a.example/"], "caption": ["one"]} | {column: [value]}), path)
    with pytest.raises(ValueError, match=rf"^column {column} of {path} is {kind}, must be text$"):
        survey(UrlsConfig(path=str(path)))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_every_kind_is_text(tmp_path, kind):
    cells = {name: pa.array([value]).cast(kind) for name, value in zip(("url", "caption"), ROWS[0], strict=True)}
    pq.write_table(pa.table(cells), tmp_path / "list.parquet")
    assert read_shard(UrlsConfig(path=str(tmp_path / "list.parquet")), 0)["refused"].to_pylist() == [None]


def test_a_column_that_is_there_twice_is_one_clear_error(tmp_path):
    cells = [pa.array(["x"])] * 3
    pq.write_table(pa.Table.from_arrays(cells, names=["url", "caption", "url"]), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=r"list.parquet must have one column url, has 2"):
        survey(UrlsConfig(path=str(tmp_path / "list.parquet")))


def test_a_duplicate_is_found_in_a_later_shard(tmp_path):
    path = write_list(tmp_path / "list.csv", ROWS).path
    tables = [read_shard(UrlsConfig(path=path, shard_size=2), shard) for shard in (0, 1)]
    assert [t.num_rows for t in tables] == [2, 1]
    assert tables[1].column("refused").to_pylist() == ["duplicate"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_shard_in_the_middle_is_read_as_if_all_before_it_were(tmp_path, suffix):
    rows = [(f"http://a.example/{i % 40}.png", f"ü {i % 40}") for i in range(100)]
    path = write_list(tmp_path / f"list.{suffix}", rows).path
    whole = read_shard(UrlsConfig(path=path), 0).to_pylist()
    parts = [read_shard(UrlsConfig(path=path, shard_size=7), shard).to_pylist() for shard in range(15)]
    assert [row for part in parts for row in part] == whole
    assert [row["refused"] for row in whole] == [None] * 40 + ["duplicate"] * 60


def test_line_ends_quotes_and_a_byte_order_mark_do_not_move_a_shard(tmp_path):
    text = (
        '\ufeffurl,caption\r\nhttp://a/1,"two\r\nlines, ü"\r\n\r\nhttp://a/2,"a ""word"""\rhttp://a/3\nhttp://a/4,end'
    )
    (tmp_path / "list.csv").write_bytes(text.encode())
    config = UrlsConfig(path=str(tmp_path / "list.csv"), shard_size=1)
    captions = [read_shard(config, shard).column("caption")[0].as_py() for shard in range(len(survey(config)))]
    assert captions == ["two\r\nlines, ü", 'a "word"', "", "end"]


def test_a_list_changed_under_the_survey_is_refused(tmp_path):
    config = write_list(tmp_path / "list.csv", ROWS)
    stat = (tmp_path / "list.csv").stat()
    survey(config)
    write_list(tmp_path / "list.csv", [(url, caption[::-1]) for url, caption in ROWS])
    os.utime(tmp_path / "list.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValueError, match="shard 0 changed while it was being read: run again"):
        read_shard(config, 0)


@pytest.mark.parametrize("num_rows", [1, 1000, SPILL_ROWS + 77])
def test_repeats_found_on_disk_are_those_a_set_finds(num_rows):
    drawn = np.random.default_rng(0).integers(0, num_rows, num_rows)
    names, seen, repeats = [hashlib.sha256(bytes(n)).digest()[:16] for n in drawn], set(), []
    with Identities() as identities:
        for row, name in enumerate(names):
            identities.add(name, row)
            repeats.append(name in seen)
            seen.add(name)
        bits = identities.repeats()
    assert bits_between(bits, 0, num_rows).tolist() == repeats
    assert bits_between(bits, num_rows // 3, num_rows // 2).tolist() == repeats[num_rows // 3 :][: num_rows // 2]


@given(st.from_regex(NORMAL, fullmatch=True) | st.from_regex(r"https?://[a-zA-Z.]{1,9}[ -~]{0,9}", fullmatch=True))
def test_a_url_that_is_normal_already_stays_as_it_is(url):
    try:
        slowly = _normalised(url)
    except ValueError as error:
        slowly = str(error)
    assert not NORMAL.fullmatch(url) or slowly == url


def test_a_blocked_domain_takes_its_subdomains_with_it(tmp_path):
    (tmp_path / "domains").write_text("# asked in May\nOptOut.example\n\n*.bücher.example\n")
    (tmp_path / "urls").write_text("http://A.example:80/2.png\n")
    hosts = ["optout.example", "img.optout.example", "notoptout.example", "www.bücher.example", "a.example"]
    rows = [(f"http://{host}/{i}.png", "x") for i, host in enumerate(hosts)] + [("http://a.example/2.png", "y")] * 2
    blocked = {f"blocked_{kind}": str(tmp_path / kind) for kind in ("domains", "urls")}
    config = UrlsConfig(path=write_list(tmp_path / "list.csv", rows).path, **blocked)
    refused = read_shard(config, 0).column("refused").to_pylist()
    assert refused == [*["blocked_domain"] * 2, None, "blocked_domain", None, *["blocked_url"] * 2]
    assert write_pairs(config, 0, tmp_path / "pairs.parquet")["blocked_domain"] == 3


def test_an_opt_out_changes_only_the_shards_that_it_touches(tmp_path):
    rows = [(f"http://{host}.example/x.png", "x") for host in "abcd"]
    path, domains = write_list(tmp_path / "list.csv", rows).path, tmp_path / "domains"
    config = UrlsConfig(path=path, shard_size=2, blocked_domains=str(domains))
    domains.write_text("")
    before = pair_recipes(config)
    domains.write_text("d.example\n")
    after = pair_recipes(config)
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_a_broken_opt_out_list_names_its_line(tmp_path):
    (tmp_path / "domains").write_text("a.example\nno domain\n")
    config = write_list(tmp_path / "list.csv", ROWS)
    with pytest.raises(ValueError, match=r"domains:2 'no domain': URL with the impossible host"):
        survey(replace(config, blocked_domains=str(tmp_path / "domains")))


def test_bad_rows_are_kept_with_their_reason(tmp_path):
    rows = [("", "no url"), ("http:///x.png", "no host"), ("not a url", "none"), ("http://a.example/x.png", "  ")]
    table = read_shard(write_list(tmp_path / "list.csv", rows), 0)
    assert table.column("refused").to_pylist() == ["malformed"] * 4
    assert table.column("detail").to_pylist() == ["no URL", "URL without a host", "URL without a scheme", "no caption"]


def test_the_frozen_pairs_are_the_same_bytes_again(tmp_path):
    config = write_list(tmp_path / "list.csv", ROWS)
    assert write_pairs(config, 0, tmp_path / "a.parquet")["duplicate"] == 1
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
    before = read_shard(config, 0).num_rows
    write_list(tmp_path / "list.csv", ROWS[:1])
    assert (before, read_shard(config, 0).num_rows) == (3, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "url,text\nhttp://a.example/,x\n", "has no column 'caption'; it has url, text"),
        ("list.csv", "url,caption\n", "has no rows"),
        ("list.csv", "", "has no column 'url'; it has none"),
        ("list.csv", 'url,caption\nb,x\n"open,x\nc,x\n', "list.csv:3: the row is not CSV"),
        ("list.jsonl", '{"url": 1}\n{', "list.jsonl:1 has no column 'caption'"),
        ("list.jsonl", '{"url": "a", "caption": "b"}\n{', "list.jsonl:2 is not JSON"),
        ("list.jsonl", '{"url": "a", "caption": \n', "list.jsonl:1 is not JSON: Expecting value at column 24"),
        ("list.jsonl", "[1]\n", "list.jsonl:1 must be a JSON object"),
        ("list.parquet", "PAR", "is not Parquet"),
    ],
)
def test_a_malformed_list_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        survey(UrlsConfig(path=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "row", "detail"),
    [
        ("list.csv", "http://a.example/1," + "x" * 140_000, "caption of 140000 characters, more than 131072"),
        ("list.csv", "http://a.example/1", "no caption"),
        ("list.jsonl", '{"url": "http://a.example/1"}', "no caption"),
        ("list.jsonl", '{"caption": "b"}', "no URL"),
    ],
)
def test_a_bad_row_costs_no_other(tmp_path, name, row, detail):
    config = write_list(tmp_path / name, ROWS[:1])
    with (tmp_path / name).open("a") as file:
        file.write(f"{row}\n")
    pairs = read_shard(config, 0)
    assert pairs["refused"].to_pylist() == [None, "malformed"] and pairs["detail"][1].as_py() == detail


@pytest.mark.parametrize("depth", [300, 3_000, 100_000])
def test_brackets_however_deep_are_a_row_or_one_clear_error(tmp_path, depth):
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": "http://a.example/0", "caption": %s}\n' % ("[" * depth + "]" * depth))
    try:
        assert read_shard(UrlsConfig(path=str(path)), 0)["refused"].to_pylist() in ([None], ["malformed"])
    except ValueError as error:
        assert "list.jsonl:1 is not JSON that can be read" in str(error)


LISTS = {
    "csv": b'url,caption\nhttp://a.example/1,"one, ""two"""\n\nhttp://a.example/2,\xc3\xbc\n',
    "jsonl": b'{"url": "http://a.example/1", "caption": "\\ud83d\\ude00"}\n{"url": null, "caption": [1, {"a": 2}]}\n',
}


@pytest.fixture(scope="module")
def broken_list(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    pq.write_table(
        pa.table({"url": ["http://a.example/1"] * 9, "caption": list("abcdefghi")}), folder / "whole.parquet"
    )
    return folder / "list"


@example("parquet", 1048572, b"\x80", False)  # a column's name
@given(st.sampled_from(["csv", "jsonl", "parquet"]), st.integers(0, 2**32), st.binary(max_size=9), st.booleans())
def test_a_damaged_list_is_rows_or_one_clear_error(broken_list, suffix, where, junk, cuts):
    whole = LISTS.get(suffix) or broken_list.with_name("whole.parquet").read_bytes()
    at = where % (len(whole) + 1)
    path = broken_list.with_suffix(f".{suffix}")
    path.write_bytes(whole[:at] + junk + (b"" if cuts else whole[at + len(junk) :]))
    try:
        rows = sum(1 for _ in read_records(path, "url", "caption"))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert rows <= 200


def test_a_list_that_is_not_utf8_is_one_clear_error(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"url,caption\nhttp://a.example/,caf\xe9\n")
    with pytest.raises(ValueError, match="must be UTF-8"):
        survey(UrlsConfig(path=str(tmp_path / "list.csv")))


def test_a_missing_list_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*none\.csv"):
        survey(UrlsConfig(path=str(tmp_path / "none.csv")))


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
