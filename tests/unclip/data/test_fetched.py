"""Facts about a dump of a URL list, fetched from a real server on loopback."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unclip.data.data_fixtures import TinyEncoder, needs_tool
from tests.unclip.data.dump_fixtures import embedded, put, quiet, rewrite, verified
from tests.unclip.data.test_download import slow_tool
from tests.unclip.data.web_server import Handler, serve
from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.dump import fill_dump, part_paths, rows_path
from unclip.data.dump_engine import Engine
from unclip.data.dump_figures import inspect_dump
from unclip.data.dump_pictures import DumpPictures
from unclip.data.fetched import RECORD, FetchedConfig, fetch_list
from unclip.data.rows import read_rows

HOW = DownloadConfig(allow_private=True, timeout_s=2, num_processes=1, num_threads=16, min_success_fraction=0)


pytestmark = needs_tool


def write_list(path, rows):
    path.write_text("url,caption\n" + "".join(f"{url},{caption}\n" for url, caption in rows))
    return UrlsConfig(path=str(path), shard_size=4)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """A list of a shard and a half, its dump, and where the server is."""
    server, folder = serve(), tmp_path_factory.mktemp("fetched")
    base = f"http://127.0.0.1:{server.server_port}"
    names = ["plain.jpg", "gone.jpg", "plain.jpg", "page.html", "wide.png", "moving.gif"]
    config = write_list(folder / "list.csv", [(f"{base}/{name}", "a word") for name in names])
    source = fetch_list(config, HOW, folder / "dump" / "pictures", lambda *a: None)
    embedded(source, folder / "dump")
    yield folder, config
    server.shutdown()


def statuses(dump):
    return [row["status"] for part in part_paths(dump) for row in pq.read_table(rows_path(part)).to_pylist()]


def test_every_row_of_the_list_has_its_fate_in_the_dump(fetched):
    folder, _ = fetched
    assert statuses(folder / "dump") == ["ok", "http_404", "duplicate", "not_an_image", "ok", "ok"]
    found = inspect_dump(folder / "dump")
    assert found["rows"] == 3 and found["refused"] == {"duplicate": 1, "http_404": 1, "not_an_image": 1}
    assert verified(folder / "dump") == []


def test_the_dump_says_in_words_why_a_row_is_missing(fetched):
    rows = [row for part in part_paths(fetched[0] / "dump") for row in pq.read_table(rows_path(part)).to_pylist()]
    found = [row["detail"] for row in rows if row["status"] != "ok"]
    assert found[:2] == ["HTTP Error 404: Not Found", "the same URL and caption stand earlier in the list"]
    assert found[2].endswith(": begins with b'<html><body>no p'") and len(found) == 3


def test_a_row_that_is_not_asked_again_in_time_keeps_its_refusal(fetched, tmp_path, monkeypatch):
    pictures = shutil.copytree(fetched[0] / "dump" / "pictures", tmp_path / "pictures")
    rewrite(pictures / "000000" / "rows.parquet", status=put(1, "http_503"))
    record = json.loads((pictures / "000000" / RECORD).read_text())
    record["sizes"]["rows.parquet"] = (pictures / "000000" / "rows.parquet").stat().st_size
    (pictures / "000000" / RECORD).write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in pictures.rglob("*.*")}
    slow_tool(tmp_path / "tool", monkeypatch, "\\n")
    fetch_list(fetched[1], replace(HOW, stall_s=0.1, retries=0), pictures, quiet, again=True)
    assert {path: path.read_bytes() for path in pictures.rglob("*.*")} == before


def test_a_second_run_fetches_and_embeds_nothing(fetched, tmp_path):
    folder, config = fetched
    before, asked = (
        {path: path.read_bytes() for path in (folder / "dump").rglob("*.*") if path.is_file()},
        dict(Handler.asked),
    )
    source = fetch_list(config, HOW, folder / "dump" / "pictures", lambda *a: None)
    embedded(source, folder / "dump")
    assert {path: path.read_bytes() for path in before} == before and dict(Handler.asked) == asked


def test_pictures_of_a_fetched_dump_are_its_own_wherever_it_goes(fetched):
    folder, _ = fetched
    moved = (folder / "dump").rename(folder / "moved")
    try:
        picture = Image.open(io.BytesIO(DumpPictures(moved)(1, "00000100000")))
        assert picture.size == (400, 100) and np.asarray(picture).shape[2] == 3
        assert verified(moved) == []
    finally:
        moved.rename(folder / "dump")


def test_a_shard_that_was_fetched_anew_is_embedded_anew(fetched, tmp_path):
    folder, config = fetched
    lines = Path(config.path).read_text().splitlines()
    try:
        Path(config.path).write_text("\n".join(lines[:-1]) + "\n")
        source = fetch_list(config, HOW, folder / "dump" / "pictures", lambda *a: None)
        embedded(source, folder / "dump")
        assert statuses(folder / "dump") == ["ok", "http_404", "duplicate", "not_an_image", "ok"]
        assert verified(folder / "dump") == []
    finally:
        Path(config.path).write_text("\n".join(lines) + "\n")


def test_what_a_list_no_longer_has_goes_with_its_pictures(fetched, tmp_path):
    base = Path(fetched[1].path).read_text().splitlines()[1].rpartition("/")[0]
    rows = [(f"{base}/plain.jpg", f"word {number}") for number in range(5)]
    pictures = tmp_path / "dump" / "pictures"
    for length in (5, 4):  # of which a shard holds four
        embedded(fetch_list(write_list(tmp_path / "list.csv", rows[:length]), HOW, pictures, quiet), tmp_path / "dump")
        if length == 5:
            shutil.copytree(pictures / "000001", pictures / ".000001.old")  # as a kill leaves it
            assert statuses(tmp_path / "dump") == ["ok"] * 5
    assert [path.name for path in pictures.iterdir()] == ["000000"] and statuses(tmp_path / "dump") == ["ok"] * 4
    assert verified(tmp_path / "dump") == []


def test_another_list_is_refused_before_anything_is_fetched(fetched, tmp_path):
    folder, _ = fetched
    pictures, engine = folder / "dump" / "pictures", Engine(TinyEncoder(), (TinyEncoder,), batch_size=4)
    before = {path: path.read_bytes() for path in pictures.rglob("*.*") if path.is_file()}
    other = write_list(tmp_path / "other.csv", [("http://127.0.0.1:9/none.jpg", "a word")])
    with pytest.raises(ValueError, match="give another --out"):
        fill_dump(
            FetchedConfig(urls=other, folder=pictures), folder / "dump", engine, folder / "clip", quiet,
            fetch=lambda: fetch_list(other, HOW, pictures, quiet),
        )  # fmt: skip
    assert {path: path.read_bytes() for path in pictures.rglob("*.*") if path.is_file()} == before


def test_other_settings_fetch_again(fetched, tmp_path):
    base = Path(fetched[1].path).read_text().splitlines()[1].rpartition("/")[0]
    config = write_list(tmp_path / "list.csv", [(f"{base}/plain.jpg", "a word"), (f"{base}/gone.jpg", "a word")])
    for how, fates in ((replace(HOW, allow_private=False), ["private_address"] * 2), (HOW, ["ok", "http_404"])):
        fetch_list(config, how, tmp_path / "pictures", quiet)
        rows = read_rows(tmp_path / "pictures" / "000000" / "rows.parquet")
        assert [row.status for row in rows] == fates


def test_no_redirect_leads_into_a_domain_that_the_list_must_not_be_fetched_from(fetched, tmp_path):
    base = Path(fetched[1].path).read_text().splitlines()[1].rpartition("/")[0]
    config = write_list(tmp_path / "list.csv", [(f"{base}/hostile-to-host?localhost", "a"), (f"{base}/plain.jpg", "b")])
    (tmp_path / "domains").write_text("LocalHost\n")
    fetch_list(replace(config, blocked_domains=str(tmp_path / "domains")), HOW, tmp_path / "pictures", quiet)
    rows = read_rows(tmp_path / "pictures" / "000000" / "rows.parquet")
    assert [row.status for row in rows] == ["blocked_domain", "ok"] and "redirected to http://localh" in rows[0].detail


def test_no_redirect_leads_to_a_url_that_the_list_must_not_fetch(fetched, tmp_path):
    base = Path(fetched[1].path).read_text().splitlines()[1].rpartition("/")[0]
    config = write_list(tmp_path / "list.csv", [(f"{base}/redirect", "a"), (f"{base}/hostile-to-host?localhost", "b")])
    (tmp_path / "urls").write_text(f"{base}/plain.jpg\n")
    fetch_list(replace(config, blocked_urls=str(tmp_path / "urls")), HOW, tmp_path / "pictures", quiet)
    rows = read_rows(tmp_path / "pictures" / "000000" / "rows.parquet")
    assert [row.status for row in rows] == ["blocked_url", "ok"] and "redirected to http://127.0" in rows[0].detail


@pytest.fixture
def busy(fetched, tmp_path):
    """A list whose second row comes when it is asked for the second time, fetched once."""
    Handler.asked.clear()
    base = Path(fetched[1].path).read_text().splitlines()[1].rpartition("/")[0]
    names = ("plain.jpg", "busy.jpg", "gone.jpg", "plain.jpg", "wide.png", "moving.gif")
    config = write_list(tmp_path / "list.csv", [(f"{base}/{name}", "a word") for name in names])
    fetch_list(config, replace(HOW, retries=0), tmp_path / "dump" / "pictures", quiet)
    return config, tmp_path / "dump"


def test_rows_that_may_pass_are_asked_again_alone_and_join_the_others(busy):
    config, dump = busy
    embedded(FetchedConfig(urls=config, folder=dump / "pictures"), dump)
    before, asked = statuses(dump), dict(Handler.asked)
    source = fetch_list(config, replace(HOW, timeout_s=9), dump / "pictures", quiet, again=True)
    embedded(source, dump)
    assert before == ["ok", "http_503", "http_404", "duplicate", "ok", "ok"]
    assert statuses(dump) == ["ok", "ok", "http_404", "duplicate", "ok", "ok"] and verified(dump) == []
    assert {path: n for path, n in Handler.asked.items() if n != asked.get(path)} == {"/busy.jpg": 2}
    names = sorted(path.name for path in (dump / "pictures").rglob("*"))
    assert names == ["000000", "000001", *sorted(2 * ["fetched.json", "pairs.parquet", "rows.parquet", "shard.tar"])]


def test_a_shard_of_which_nothing_more_came_stays_as_it_is(busy):
    config, dump = busy
    fetch_list(config, HOW, dump / "pictures", quiet, again=True)
    before = {path: path.stat().st_mtime_ns for path in (dump / "pictures").rglob("*")}
    fetch_list(config, HOW, dump / "pictures", quiet, again=True)
    assert {path: path.stat().st_mtime_ns for path in (dump / "pictures").rglob("*")} == before


def test_a_shard_that_was_being_put_in_its_place_is_found(busy):
    config, dump = busy
    (dump / "pictures" / "000000").rename(dump / "pictures" / ".000000")
    asked = dict(Handler.asked)
    fetch_list(config, replace(HOW, retries=0), dump / "pictures", quiet)
    assert dict(Handler.asked) == asked and (dump / "pictures" / "000000" / "shard.tar").is_file()


def test_what_a_killed_run_left_beside_a_whole_shard_goes(busy):
    config, dump = busy
    for name in (".000000", ".000001.old"):
        (dump / "pictures" / name).mkdir()
    fetch_list(config, replace(HOW, retries=0), dump / "pictures", quiet)
    assert sorted(path.name for path in (dump / "pictures").iterdir()) == ["000000", "000001"]


def test_pictures_without_a_part_are_kept_from_another_list_too(fetched, tmp_path):
    other = write_list(tmp_path / "other.csv", [("http://127.0.0.1:9/none.jpg", "a word")])
    pictures = fetched[0] / "dump" / "pictures"
    with pytest.raises(ValueError, match=r"holds pictures of .*list.csv, not of .*other.csv: give another --out"):
        fetch_list(other, HOW, pictures, quiet)


@pytest.mark.parametrize("name", ["shard.tar", "rows.parquet", "pairs.parquet"])
@pytest.mark.parametrize("is_cut", [True, False])
def test_fetched_files_that_are_gone_or_cut_short_are_fetched_again(fetched, tmp_path, name, is_cut):
    pictures = shutil.copytree(fetched[0] / "dump" / "pictures", tmp_path / "pictures")
    file = pictures / "000000" / name
    whole = file.read_bytes()
    file.unlink()
    if is_cut:
        file.write_bytes(whole[:100])
    asked = Handler.asked["/plain.jpg"]
    fetch_list(fetched[1], HOW, pictures, quiet)
    assert file.read_bytes() == whole and (Handler.asked["/plain.jpg"] > asked) == (name != "pairs.parquet")
