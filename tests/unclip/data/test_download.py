import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unclip.data import web_server as web
from tests.unclip.data.data_fixtures import needs_tool
from unclip.data import fetch
from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.download import download, last_answers, refuse
from unclip.data.fates import status_of
from unclip.data.fetch import Answer, require_distributor, tool_python
from unclip.data.fetcher import Fetcher, is_public
from unclip.data.gate import TooFewSuccesses
from unclip.data.rows import read_rows
from unclip.data.shards import ShardReader
from unclip.data.urls import write_pairs
from unclip.launch import Stopped

GOOD = ["plain.jpg", "plain.png", "wide.png", "sideways.jpg", "grey16.png"]
GOOD += ["palette.png", "cmyk.jpg", "moving.gif", "redirect", "busy.jpg"]
GOOD += ["hostile-named-opt-out"]  # by X-Robots-Tag to a reader that we are not; one that we are: test_hostile.py
CONFIG = DownloadConfig(
    allow_private=True, timeout_s=2, max_bytes=200_000, max_side_px=200, num_processes=1, num_threads=16
)


def freeze(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "list.csv").write_text("url,caption\n" + "".join(f"{url},{caption}\n" for url, caption in lines))
    write_pairs(UrlsConfig(path=str(folder / "list.csv")), 0, folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.fixture(scope="module")
def server():
    with web.serving() as address:
        yield address


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, server):
    """One download of every kind of row: (folder, rows by the URL's last part, metrics)."""
    out = tmp_path_factory.mktemp("download")
    lines = [(f"{server}/{name}", name) for name in [*GOOD, *web.FATES, "plain.jpg"]]
    web.Handler.asked.clear()  # other files' tests may have asked the same process
    pairs = freeze(out, [*lines, ("file:///etc/hostname", "file"), ("nonsense", "nonsense"), (lines[0][0], "again")])
    metrics = download(pairs, 3, CONFIG, out, lambda *_, **__: None)
    return out, read_rows(out / "rows.parquet"), metrics


def pixels(fetched, caption):
    reader = ShardReader(fetched[0] / "shard.tar")
    return reader.decode([reader.caption(i) for i in range(len(reader))].index(caption))


@needs_tool
def test_every_row_of_the_list_is_accounted_for(fetched):
    wanted = ["ok"] * len(GOOD) + list(web.FATES.values()) + ["duplicate", "scheme", "malformed", "ok"]
    assert [row.status for row in fetched[1]] == wanted, [(r.status, r.detail) for r in fetched[1]]
    assert all(row.detail for row in fetched[1] if row.status != "ok")


@needs_tool
def test_the_shard_holds_exactly_the_good_rows_sorted(fetched):
    reader = ShardReader(fetched[0] / "shard.tar")
    assert reader.keys == [row.key for row in fetched[1] if row.status == "ok"] == sorted(reader.keys)
    assert reader.keys[0] == "00000300000" and reader.keys[-1] == "00000300023"
    assert {path.name for path in fetched[0].glob("[!lp]*")} == {"shard.tar", "rows.parquet", "work"}


@needs_tool
def test_a_plain_jpeg_keeps_its_bytes_and_its_caption(fetched):
    reader = ShardReader(fetched[0] / "shard.tar")
    assert (reader.image_bytes(0), reader.caption(0)) == (web.PICTURES["/plain.jpg"], "plain.jpg")


@needs_tool
def test_a_picture_turned_by_exif_stands_upright(fetched):
    image = pixels(fetched, "sideways.jpg")
    assert image.shape == (40, 30, 3)
    assert np.abs(image[5, 15].astype(int) - web.RED).max() < 12
    assert np.abs(image[35, 15].astype(int) - web.GREEN).max() < 12


@needs_tool
def test_sixteen_bits_are_scaled_to_eight(fetched):
    assert np.all(pixels(fetched, "grey16.png") == 128)


@needs_tool
def test_transparency_lies_over_the_background(fetched):
    image = pixels(fetched, "palette.png")
    assert image[0, 0].tolist() == [255, 255, 255] and image[5, 5].tolist() == list(web.GREEN)


@needs_tool
def test_print_colours_become_screen_colours(fetched):
    assert np.abs(pixels(fetched, "cmyk.jpg")[5, 5].astype(int) - (255, 0, 0)).max() < 12


@needs_tool
def test_an_animation_gives_its_first_frame(fetched):
    assert pixels(fetched, "moving.gif")[5, 5].tolist() == list(web.RED)


@needs_tool
def test_a_large_picture_shrinks(fetched):
    assert pixels(fetched, "wide.png").shape == (50, 200, 3)


@needs_tool
def test_only_what_may_pass_is_asked_for_again(fetched):
    asked = web.Handler.asked
    assert (asked["/busy.jpg"], asked["/drip.jpg"], asked["/gone.jpg"], asked["/page.html"]) == (2, 2, 1, 1)


PRIVATE = ["127.0.0.1:80", "10.1.2.3", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"]
PRIVATE += ["localhost.", "LOCALHOST", "127.0.0.1.", "2130706433", "0x7f.1", "127.1", "0177.0.0.1"]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_host_is_refused_before_fetching(host):
    pair = {"url": f"http://{host}/x.png", "refused": None}
    assert refuse(pair, DownloadConfig())[0] == "private_address"
    assert refuse(pair, DownloadConfig(allow_private=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "localhost"])
def test_a_private_address_is_refused_where_the_connection_is_made(monkeypatch, server, host):
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, getattr(socket, name))
    monkeypatch.setattr(urllib.request, "urlopen", urllib.request.urlopen)
    Fetcher(schemes=["http"], allow_private=False, timeout_s=2, max_bytes=9, marks=os.devnull, blocked={}).install()
    with pytest.raises(OSError, match=r"^private address") as error:
        urllib.request.urlopen(f"http://{host}:{server.rsplit(':', 1)[1]}/secret.png")
    assert status_of(str(error.value)) == "private_address" and web.Handler.asked["/secret.png"] == 0


def test_a_list_that_cannot_succeed_is_not_fetched_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_IMG2DATASET", "/nowhere")
    pairs = freeze(tmp_path, [("nonsense", "x"), ("http://10.0.0.1/", "y"), ("http://a.example/", "z")])
    with pytest.raises(TooFewSuccesses, match=r"at most 0\.33 can still be"):
        download(pairs, 0, DownloadConfig(), tmp_path, lambda *_, **__: None)
    assert json.loads((tmp_path / "work" / "failed.json").read_text()) == {"malformed": 1, "private_address": 1}


@needs_tool
def test_a_hopeless_list_is_not_fetched_to_its_end(tmp_path, server):
    pairs = freeze(tmp_path, [(f"{server}/hostile-late-404?{i}", "x") for i in range(100)])
    config = replace(CONFIG, num_threads=1, min_success_fraction=0.9)
    with pytest.raises(TooFewSuccesses, match=r"http_404: it is gone"):
        download(pairs, 0, config, tmp_path, lambda *_, **__: None)
    assert 10 < web.Handler.asked["/hostile-late-404"] < 50


@needs_tool
def test_the_same_list_and_the_same_answers_give_the_same_bytes(tmp_path, server):
    lines = [(f"{server}/{name}?{i}", f"{i}") for i in range(9) for name in ("plain.jpg", "gone.jpg", "wide.png")]
    contents = []
    for name, threads in (("one", 1), ("two", 16)):
        pairs = freeze(tmp_path / name, lines)
        download(pairs, 0, replace(CONFIG, num_threads=threads), pairs.parent, lambda *_, **__: None)
        contents.append([(pairs.parent / file).read_bytes() for file in ("shard.tar", "rows.parquet")])
    assert contents[0] == contents[1]


@needs_tool
def test_a_distributor_that_is_not_installed_is_one_clear_error():
    with pytest.raises(ValueError, match=r"distributor 'ray' needs ray in .* -m pip install ray; on a cluster"):
        require_distributor(DownloadConfig(distributor="ray"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distributor": "dask"}, "distributor must be one of multiprocessing, ray, pyspark, got 'dask'"),
        ({"subjob_size": 9}, "subjob_size must be null without pyspark, got 9"),
        ({"user_agent_token": "a b"}, "user_agent_token must be a name of letters"),
        ({"user_agent_token": "a", "disallowed_directives": ()}, "user_agent_token must be null without directives"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DownloadConfig(**settings)


@needs_tool
def test_at_the_deadline_the_rest_is_refused(tmp_path, server):
    config = DownloadConfig(allow_private=True, deadline_s=0.5, timeout_s=60, min_success_fraction=0, num_processes=1)
    before = web.Handler.asked["/drip.jpg"]
    download(freeze(tmp_path, [(f"{server}/drip.jpg", "slow")]), 0, config, tmp_path, lambda *_, **__: None)
    (row,) = read_rows(tmp_path / "rows.parquet")
    assert (row.status, row.detail) == ("unfinished", "download.deadline_s was reached first")
    assert web.Handler.asked["/drip.jpg"] == before + 1  # the start counts for nothing


def slow_tool(path, monkeypatch, words):
    """A tool that says what requests say at their begin and end, and then nothing more."""
    path.write_text(f'#!/bin/sh\nprintf "{words}" >> "$(dirname "$3")/marks"\nexec sleep 60\n')
    path.chmod(0o755)
    monkeypatch.setenv("UNCLIP_IMG2DATASET", str(path))


def test_a_tool_that_does_not_start_refuses_no_row(tmp_path, monkeypatch):
    slow_tool(tmp_path / "tool", monkeypatch, "")
    monkeypatch.setattr(fetch, "START_S", 0.5)
    pairs, config = freeze(tmp_path, [("http://a.example/1", "x")]), replace(CONFIG, stall_s=0.1, deadline_s=0.1)
    with pytest.raises(RuntimeError, match=r"did not start within 0\.5 s: not one request was made.* \(log: .*log\)"):
        download(pairs, 0, config, tmp_path, lambda *_, **__: None)
    assert not (tmp_path / "rows.parquet").exists() and (tmp_path / "work" / "staging").is_dir()


@pytest.mark.parametrize("marks, said", [("", None), ("\\n", "stall_s = 0.1"), ("\\n0 HTTP Error 404\\n", None)])
def test_only_a_request_under_way_can_stall(tmp_path, marks, said, monkeypatch):
    monkeypatch.setattr(fetch, "POLL_S", 0)
    (tmp_path / "marks").write_text(marks.replace("\\n", "\n"))
    told = []
    watch = fetch.Watch(tmp_path / "marks", 0.1, 60, lambda done, errors: told.append((done, list(errors))))
    watch()
    time.sleep(0.15)
    with pytest.raises(fetch.Overdue, match=said) if said else contextlib.nullcontext():
        watch()
    assert told == ([(1, ["HTTP Error 404"])] if "404" in marks else [(0, [])] if marks else [])


def test_a_pass_that_does_not_come_to_a_row_leaves_its_answer():
    late, busy = Answer(error="download.deadline_s was reached first"), Answer(error="HTTP Error 503: Busy")
    gone, came = Answer(error="HTTP Error 404: Not Found"), Answer(tar=Path("0.tar"))
    found = last_answers({b"a": busy, b"b": busy, b"c": late}, {b"a": late, b"b": gone, b"c": came, b"d": late})
    assert found == {b"a": busy, b"b": gone, b"c": came, b"d": late}


@pytest.mark.parametrize(
    ("least", "error", "stays"), [(0, KeyboardInterrupt, True), (0, Stopped, True), (1, ValueError, False)]
)
def test_an_interrupted_download_goes_on_and_a_failed_one_starts_afresh(tmp_path, least, error, stays):
    def interrupt(done, total):
        if not least:
            raise error

    (tmp_path / "work" / "staging").mkdir(parents=True)
    with pytest.raises(error):
        pairs = freeze(tmp_path, [("nonsense", "nonsense")])
        download(pairs, 0, DownloadConfig(min_success_fraction=least), tmp_path, interrupt)
    assert (tmp_path / "work" / "staging").exists() is stays


KILLED = """
import sys
from pathlib import Path
from unclip.data.advice import ADVICE, advice_on
from unclip.data.config import DownloadConfig
from unclip.data.download import download
folder = Path(sys.argv[1])
config = DownloadConfig(allow_private=True, timeout_s=60, num_processes=1)
download(folder / "pairs.parquet", 0, config, folder, lambda *_, **__: None)
"""


def processes_naming(text):
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [entry.parent.name] if text.encode() in entry.read_bytes() else []
        except OSError:
            continue
    return found


@needs_tool
def test_a_killed_parent_leaves_no_process_behind(tmp_path, server):
    pairs = freeze(tmp_path / "killed", [(f"{server}/drip.jpg", "slow")])
    parent = subprocess.Popen([sys.executable, "-c", KILLED, str(pairs.parent)], env={**os.environ})
    asked, limit = web.Handler.asked["/drip.jpg"], time.monotonic() + 30
    while web.Handler.asked["/drip.jpg"] == asked and time.monotonic() < limit:
        time.sleep(0.1)
    assert processes_naming(f"{pairs.parent}/work/staging")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    limit = time.monotonic() + 8
    while processes_naming(f"{pairs.parent}/work/staging") and time.monotonic() < limit:
        time.sleep(0.1)
    assert not processes_naming(f"{pairs.parent}/work/staging")


def test_a_missing_tool_environment_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("UNCLIP_IMG2DATASET", str(tmp_path / "python"))
    with pytest.raises(ValueError, match="does not exist; run `make setup` or set UNCLIP_IMG2DATASET"):
        tool_python()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("fd00::1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
        ("192.0.0.8", False),
        ("192.0.1.8", True),
        ("2606:4700::1111", True),
    ],
)
def test_only_the_internet_is_public(address, public):
    assert is_public(address) is public
