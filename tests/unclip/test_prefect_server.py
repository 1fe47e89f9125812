"""A store's Prefect server is one, found by every command, and gone after the last."""

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unclip.data.web_server import serving
from unclip import prefect_server
from unclip.prefect_server import apply_environment, running_url, start_server

ROOT = Path(__file__).resolve().parents[2]
CLIENT = """
import sys
from pathlib import Path
from unclip.prefect_server import ensure_server
print(ensure_server(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def client(store: Path) -> subprocess.Popen[str]:
    """A command that uses the server until it is killed; its first line is the address."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    argv = [sys.executable, "-c", CLIENT, str(store)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True)


def seconds_until_down(store: Path) -> float:
    began = time.monotonic()
    while running_url(store) and time.monotonic() - began < 10:
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def no_server_of_the_users(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_two_commands_at_once_share_one_server_until_both_are_killed(tmp_path):
    first, second = client(tmp_path), client(tmp_path)
    url = first.stdout.readline().strip()
    assert second.stdout.readline().strip() == url == running_url(tmp_path)
    first.send_signal(signal.SIGKILL)
    time.sleep(2.5)
    assert urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    second.send_signal(signal.SIGKILL)
    assert seconds_until_down(tmp_path) < 4


def test_a_stale_record_is_not_believed(tmp_path):
    (tmp_path / "prefect").mkdir()
    stale = {"pid": os.getpid(), "url": "http://127.0.0.1:9/api"}  # a living process, but no server
    (tmp_path / "prefect" / "server.json").write_text(json.dumps(stale))
    assert running_url(tmp_path) is None
    server = start_server(tmp_path)
    assert server.wait() == server.address() == running_url(tmp_path) != stale["url"]
    server.close()
    assert seconds_until_down(tmp_path) < 4


def test_the_second_start_finds_the_records_of_the_first(tmp_path):
    server = start_server(tmp_path)
    body = json.dumps({"name": "kept"}).encode()
    made = urllib.request.Request(f"{server.wait()}/flows/", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(made, timeout=10).close()
    server.close()
    assert seconds_until_down(tmp_path) < 4
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT name FROM flow").fetchall() == [("kept",)]


def test_the_users_own_server_is_used_and_none_started(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    server = start_server(tmp_path)
    assert server.wait() == "http://127.0.0.1:9/api"
    assert list(tmp_path.iterdir()) == []


def test_the_environment_keeps_what_the_user_set(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, "PREFECT_HOME": "mine", "NO_PROXY": "intranet"})
    apply_environment(tmp_path, "http://127.0.0.1:1/api")
    assert os.environ["PREFECT_HOME"] == "mine" and os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_a_server_that_does_not_answer_is_said_with_the_limit(tmp_path):
    (tmp_path / "prefect").mkdir()
    with (tmp_path / "prefect" / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = start_server(tmp_path)
        for ask in (server.wait, server.address):
            with pytest.raises(TimeoutError, match=r"^the Prefect server did not answer within 0\.05 s: "):
                ask(0.05)
        shutil.rmtree(tmp_path / "prefect")  # so that it starts nothing once the lock is free


def test_a_server_that_ends_at_its_start_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'unclip.prefect_service' in sys.orig_argv: sys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the Prefect server ended while starting; see "):
        start_server(tmp_path / "store").wait(30)
    assert time.monotonic() - began < 15


def test_a_server_that_lives_is_waited_for_however_slowly_it_starts(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 100))  # seconds between two looks
    with serving() as address, subprocess.Popen(["sleep", "60"]) as slow:
        record = tmp_path / "server.json"
        late = [lambda: None] * 3 + [lambda: record.write_text(json.dumps({"url": f"{address}/plain.jpg?"}))]
        times = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: late.pop(0)())
        monkeypatch.setattr(prefect_server, "time", times)
        assert prefect_server._await_record(tmp_path, slow).startswith(address) and not late
        slow.kill()


def test_a_server_that_was_ending_when_it_was_found_is_followed_by_another(tmp_path):
    folder = tmp_path / "prefect"
    folder.mkdir()
    with (folder / "server.lock").open("w") as lock:  # as one has it that let go of its clients' lock already
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = start_server(tmp_path)
        with pytest.raises(TimeoutError):
            server.address(0.5)
    try:
        assert server.wait() == running_url(tmp_path)
    finally:
        server.close()
