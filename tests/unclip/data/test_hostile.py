"""Hosts that mean harm cost a bounded time and memory, and end as rows with reasons."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unclip.data import web_server as web
from tests.unclip.data.data_fixtures import needs_tool
from tests.unclip.data.test_download import freeze, processes_naming
from unclip.data import fetcher, web_address
from unclip.data.config import DownloadConfig, UrlsConfig
from unclip.data.download import download
from unclip.data.fates import status_of
from unclip.data.opt_outs import blocked_urls
from unclip.data.rows import read_rows
from unclip.data.urls import write_pairs

TIMEOUT_S, MAX_BYTES = 2.0, 200_000
REQUESTS = {  # what each ends as, where requests are made
    "endless": "too_large",
    "endless-chunks": "too_large",
    "endless-redirect": "ok",
    "endless-continue": "timeout",
    "endless-header": "protocol",
    "slow-headers": "timeout",
    "slow-redirect": "timeout",
    "slow-circle": "timeout",
    "loop": "redirects",
    "to-private": "private_address",
    "lying-more": "too_large",
    "lying-less": "ok",  # cut short: the decoder sees it
    "lying-words": "ok",  # as if there were none
    "gzip-bomb": "too_large",  # as it came; unpacked it would be 150 MB
    "garbage": "protocol",
    "named-opt-out": "ok",  # img2dataset reads the header
}
DECODED = {"hostile-lying-less": "truncated"}  # what else the decoder finds
ELSEWHERE = {  # and what no server of ours answers
    "{server}/status-403": "http_403",
    "{server}/status-429": "http_429",
    "{server}/status-500": "http_500",
    "{secure}/plain.jpg": "tls",
    "http://127.0.0.1:1/plain.jpg": "connection",
    "http://no-such-host.invalid/plain.jpg": "dns",
}
BOMBS = {"pixels.png": "png", "text.png": "not_an_image", "profile.png": "not_an_image"}
BOMBS |= {"archive.zip": "not_an_image", "header.png": "too_many_pixels"}
ASK = """
import importlib.util, json, sys, threading, time
spec = importlib.util.spec_from_file_location("fetcher", sys.argv[1])
fetcher = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetcher)
guard, found = fetcher.Fetcher(**json.loads(sys.argv[2])), {}
guard.install()
def memory(name):
    return int(open("/proc/self/status").read().partition(name + ":")[2].split()[0]) * 1024
def ask(url):
    start, said = time.monotonic(), "ok"
    try:
        fetcher.urllib.request.urlopen(url)
    except Exception as error:
        said = str(error)
    found[url] = [time.monotonic() - start, said]
before = memory("VmRSS")
threads = [threading.Thread(target=ask, args=(url,)) for url in sys.argv[3:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps([found, memory("VmHWM") - before]))
"""


@pytest.fixture(scope="module")
def server():
    with web.serving() as address:
        yield address


def ask(*urls, allow_private=True, blocked=(), **environment):
    """Seconds and words of each request, all made at once by one process, and the memory that they took."""
    limits = {"schemes": ["http"], "allow_private": allow_private, "timeout_s": TIMEOUT_S, "max_bytes": MAX_BYTES}
    limits |= {"marks": os.devnull, "blocked": dict(blocked)}
    command = [sys.executable, "-I", "-c", ASK, fetcher.__file__, json.dumps(limits), *urls]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def asked(server):
    found, num_bytes = ask(*(f"{server}/hostile-{name}" for name in REQUESTS if name != "to-private"))
    return {url.partition("hostile-")[2]: answer for url, answer in found.items()}, num_bytes


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "to-private"])
def test_a_hostile_answer_ends_in_time_and_with_a_reason(asked, name):
    seconds, said = asked[0][name]
    assert ("ok" if said == "ok" else status_of(said)) == REQUESTS[name], said
    assert seconds < TIMEOUT_S + 1


def test_all_hostile_answers_at_once_take_little_memory(asked):
    assert asked[1] < len(REQUESTS) * 10 * MAX_BYTES  # 30 MB


def test_a_redirect_to_a_private_address_is_refused_even_where_a_proxy_would_follow_it(server):
    urls = ["http://public.example/hostile-to-private", "http://public.example/plain.jpg"]
    found, _ = ask(*urls, allow_private=False, http_proxy=server)
    assert [status_of(found[urls[0]][1]), found[urls[1]][1]] == ["private_address", "ok"]


def test_a_redirect_into_a_blocked_domain_is_refused_however_it_is_spelled(server, tmp_path):
    (tmp_path / "blocked").write_text("other.example\nlocalhost")
    hosts = {"127.0.0.1": "ok"} | dict.fromkeys(("localhost", "LOCALHOST.", "%6cocalhost"), "blocked_domain")
    found, _ = ask(
        *(f"{server}/hostile-to-host?{host}" for host in hosts), blocked={"domains": str(tmp_path / "blocked")}
    )
    said = {url.partition("?")[2]: answer[1] for url, answer in found.items()}
    assert {host: "ok" if text == "ok" else status_of(text) for host, text in said.items()} == hosts
    assert fetcher.is_below("www.xn--bcher-kva.example", frozenset({"xn--bcher-kva.example"}))
    assert not fetcher.is_below("otherlocalhost", frozenset({"localhost"}))


def test_a_redirect_to_a_blocked_url_is_refused_however_its_host_is_spelled(server, tmp_path):
    port = server.rpartition(":")[2]
    (tmp_path / "list").write_text(f"http://other.example/1.png\nHTTP://LocalHost:{port}/plain.jpg#x\n")
    (tmp_path / "numbers").write_bytes(blocked_urls(str(tmp_path / "list")))
    hosts = {"127.0.0.1": "ok"} | dict.fromkeys(("localhost", "LOCALHOST.", "%6cocalhost"), "blocked_url")
    found, _ = ask(*(f"{server}/hostile-to-host?{host}" for host in hosts), blocked={"urls": str(tmp_path / "numbers")})
    said = {url.partition("?")[2]: answer[1] for url, answer in found.items()}
    assert {host: "ok" if text == "ok" else status_of(text) for host, text in said.items()} == hosts
    is_listed = web_address.among(str(tmp_path / "numbers"))
    assert is_listed("http://Other.example:80/1.png") and not is_listed("http://other.example/2.png")
    assert not any(map(is_listed, ("", "http://[", "http://a:b@other.example/1.png")))


@pytest.mark.parametrize("name", [socket.gethostname()])
def test_a_name_that_resolves_to_a_private_address_is_refused(name):
    try:
        address = socket.gethostbyname(name)
    except OSError:
        pytest.skip("this machine's name has no address")
    assert not fetcher.is_private_host(name), "the spelling says nothing"
    said = ask(f"http://{name}:80/", allow_private=False)[0][f"http://{name}:80/"][1]
    assert fetcher.is_public(address) or status_of(said) == "private_address"


def test_addresses_that_do_not_answer_share_the_time_of_one_request():
    guard = fetcher.Fetcher(
        schemes=["http"], allow_private=True, timeout_s=1, max_bytes=9, marks=os.devnull, blocked={}
    )
    with socket.socket() as full, contextlib.ExitStack() as queue:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # whoever comes next waits
            one = queue.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        guard.resolve = lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", full.getsockname())] * 9
        start = time.monotonic()
        guard.request.connections, guard.request.deadline = [], start + 1
        with pytest.raises(TimeoutError):
            guard.create_connection(("nine.example", 80))
    assert time.monotonic() - start < 1.5


@pytest.fixture(scope="module")
def fetched(server, tmp_path_factory):
    """All of it through img2dataset: rows, wanted statuses, seconds, and the most memory of a process that fetched."""
    out, memory, ended = tmp_path_factory.mktemp("hostile"), [0], threading.Event()
    wanted = {f"{server}/hostile-{name}": status for name, status in REQUESTS.items() if name != "to-private"}
    places = {"server": server, "secure": server.replace("http", "https")}
    wanted |= {url.format(**places): status for url, status in ELSEWHERE.items()}
    (out / "list.csv").write_text("url,caption\n" + "".join(f"{url},x\n" for url in [*wanted, next(iter(wanted))]))
    write_pairs(UrlsConfig(path=str(out / "list.csv")), 0, out / "pairs.parquet")
    limits = {"timeout_s": TIMEOUT_S, "max_bytes": MAX_BYTES, "num_processes": 1, "num_threads": 40, "retries": 0}
    config = DownloadConfig(allow_private=True, min_success_fraction=0, user_agent_token="ourbot", **limits)
    watch = threading.Thread(target=watch_memory, args=(str(out), memory, ended))
    watch.start()
    start = time.monotonic()
    metrics = download(out / "pairs.parquet", 0, config, out, lambda *_, **__: None)
    ended.set()
    watch.join()
    return read_rows(out / "rows.parquet"), wanted, metrics | {"s": time.monotonic() - start, "memory": memory[0]}


def watch_memory(text, memory, ended):
    """Keeps the peak of the processes that have `text` in their environment."""
    while not ended.wait(0.1):
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                if text.encode() in (entry / "environ").read_bytes():
                    peak = int((entry / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
                    memory[0] = max(memory[0], peak)


@needs_tool
def test_every_hostile_row_is_refused_with_its_reason(fetched):
    rows, wanted, metrics = fetched
    seen = DECODED | {"hostile-named-opt-out": "robots"}
    statuses = [seen.get(row.url.rpartition("/")[2], wanted[row.url]) for row in rows[:-1]]
    assert [row.status for row in rows] == [*statuses, "duplicate"], [(r.url, r.status, r.detail) for r in rows]
    assert metrics["kept"] + sum(metrics["refused"].values()) == metrics["rows"] == len(wanted) + 1


@needs_tool
def test_hostile_rows_cost_a_shard_little(fetched):
    assert fetched[2]["s"] < 20 and fetched[2]["memory"] < 400_000_000


@needs_tool
def test_where_no_request_ends_the_watchdog_does(tmp_path, server):
    limits = {"stall_s": 0.5, "timeout_s": 90, "retries": 0, "min_success_fraction": 0}  # less than the start takes
    config, start = DownloadConfig(allow_private=True, num_processes=1, **limits), time.monotonic()
    before = web.Handler.asked["/drip.jpg"]
    download(freeze(tmp_path, [(f"{server}/drip.jpg", "slow")]), 0, config, tmp_path, lambda *_, **__: None)
    (row,) = read_rows(tmp_path / "rows.parquet")
    assert (row.status, row.detail) == ("unfinished", "no request ended for download.stall_s = 0.5 s")
    assert web.Handler.asked["/drip.jpg"] == before + 1
    assert time.monotonic() - start < 40 and not processes_naming(f"{tmp_path}/work/staging")


DECODE = """
import sys, time
from pathlib import Path
from unclip.data.config import DownloadConfig
from unclip.data.originals import Refused, take_picture
def memory(name):
    return int(open("/proc/self/status").read().partition(name + ":")[2].split()[0]) * 1024
take_picture(Path(sys.argv[1]).read_bytes(), DownloadConfig())
before = memory("VmRSS")
for path in sys.argv[2:]:
    start = time.monotonic()
    try:
        said = take_picture(Path(path).read_bytes(), DownloadConfig()).extension
    except Refused as error:
        said = error.status
    print(Path(path).name, said, time.monotonic() - start)
print("memory", memory("VmHWM") - before, 0)
"""


def test_a_bomb_is_not_unpacked(tmp_path):
    for name, data in {"/plain.png": web.PICTURES["/plain.png"], **web.BOMBS}.items():
        (tmp_path / name[1:]).write_bytes(data)
    files = [str(tmp_path / name) for name in ("plain.png", *BOMBS)]
    done = subprocess.run([sys.executable, "-c", DECODE, *files], capture_output=True, text=True, check=True)
    found = {name: (said, float(seconds)) for name, said, seconds in map(str.split, done.stdout.splitlines())}
    assert int(found.pop("memory")[0]) < 60_000_000  # of 150 MB that each would be
    assert all(seconds < 1 for _, seconds in found.values())
    assert {name: said for name, (said, _) in found.items()} == BOMBS
