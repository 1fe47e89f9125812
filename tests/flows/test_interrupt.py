"""A run that is interrupted or killed leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unclip.prefect_server import running_url

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import os, sys
from pathlib import Path
from flows.interrupt import on_interrupt
from unclip.launch import Command, run
from unclip.prefect_server import apply_environment, start_server
from unclip.prefect_service import crash_running

store = Path(sys.argv[1])
server = start_server(store)
apply_environment(store, server.wait())
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

@task
def train():
    print("training", flush=True)
    sleep = "import time; time.sleep(99)"
    run(Command(argv=(sys.executable, "-c", sleep, str(store)), log=store / "log"))

@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def retrain():
    told = flow_run.id
    with on_interrupt([lambda: crash_running(server.wait(), "interrupted", told)]):
        train.submit().result()

with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
    retrain()
"""

STUCK = """
import hashlib
from flows.interrupt import on_interrupt
with on_interrupt([lambda: print("last words", flush=True)]):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # the main thread runs no Python signal handler in here
"""

ORPHAN = """
import os, subprocess, sys
os.environ["UNCLIP_PARENT"] = str(os.getpid())
code = "from flows.interrupt import on_interrupt; import time\\nwith on_interrupt(): time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]])
print("ready", flush=True)
child.wait()
"""


def start(code: str, store: Path, until: str) -> subprocess.Popen[str]:
    """The program, when it has printed a line that says `until`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    argv = [sys.executable, "-c", code, str(store)]
    started = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stdout is not None
    assert until in started.stdout.readline()
    time.sleep(1.0)
    return started


def left(store: Path) -> list[str]:
    """Command lines of living processes that name the store."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(str(store)) for word in words):
            found.append(" ".join(words))
    return found


def seconds_until_gone(store: Path, limit_s: float = 10.0) -> float:
    """How long until nothing of the run lives."""
    began = time.monotonic()
    while left(store) and time.monotonic() - began < limit_s:
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_a_run_outlives_a_signal(store, number):
    run = start(RUN, store, "training")
    assert len(left(store)) >= 3 and running_url(store)
    run.send_signal(number)
    assert run.wait(5) == (-number if number == signal.SIGKILL else 128 + number)
    assert seconds_until_gone(store) < 5
    assert not states(store) & {"RUNNING", "PENDING"}


def states(store: Path) -> set[str]:
    """States of the flow and task runs in the database that the server left."""
    import sqlite3

    with sqlite3.connect(store / "prefect" / "prefect.db") as database:
        rows = database.execute("SELECT state_type FROM flow_run UNION SELECT state_type FROM task_run").fetchall()
    assert rows
    return {state for (state,) in rows}


def test_a_signal_is_heard_while_the_main_thread_is_stuck(tmp_path):
    run = start(STUCK, tmp_path, "ready")
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    assert run.wait(5) == 130
    assert time.monotonic() - began < 2
    assert run.stdout.read() == "last words\n"


def test_a_served_run_ends_with_its_server(tmp_path):
    parent = start(ORPHAN, tmp_path, "ready")
    assert len(left(tmp_path)) == 2
    parent.kill()
    parent.wait()
    assert seconds_until_gone(tmp_path) < 5
