"""A served pipeline fires on its schedule; both pages of a store come up and go."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.serve import pages, serve, stop_pages
from unclip.prefect_server import running_url, start_server

ROOT = Path(__file__).resolve().parents[2]
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def wait_for(condition, limit_s: float = 60.0) -> None:
    """Wait until the condition holds: generously, for a busy machine is slow and not wrong."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.1)


@contextmanager
def started(*argv, **how):
    """A command that runs while the block does, and no longer, whatever fails in it."""
    process = subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT, **how)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def without_server():
    """The environment of a command that starts its own Prefect server."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}


def test_a_served_flow_fires_twice_and_leaves_nothing(tmp_path):
    environment = without_server() | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    fired = tmp_path / "fired"
    with started(ROOT / "tests" / "flows" / "tiny.py", tmp_path, 0, env=environment, **SILENT) as served:
        wait_for(lambda: fired.exists() and len(fired.read_text().splitlines()) >= 2)
        assert running_url(tmp_path)
        assert len({line.split()[1] for line in fired.read_text().splitlines()}) >= 2  # a process a run
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=60) == 0
    wait_for(lambda: running_url(tmp_path) is None)


def test_a_run_that_goes_on_ends_with_the_process_that_serves_it(tmp_path):
    environment = without_server() | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    fired = tmp_path / "fired"
    with started(ROOT / "tests" / "flows" / "tiny.py", tmp_path, 250, env=environment, **SILENT) as served:
        wait_for(lambda: fired.exists() and fired.read_text())
        served.send_signal(signal.SIGTERM)
        assert served.wait(timeout=60) == 0
    run = int(fired.read_text().split()[1])
    wait_for(lambda: not Path(f"/proc/{run}").exists())


def test_a_served_pipeline_makes_its_report_and_ends_with_ctrl_c(tmp_path):
    options = ["--file", ROOT / "tests" / "shrunken.yaml", "--store", tmp_path, "--set", "schedule.every_s=2"]
    argv = ["-c", "from flows.cli import main; main()", "serve", "shrunken", *options]
    log = tmp_path / "served.log"
    with log.open("w") as file, started(*argv, env=without_server(), stdout=file, stderr=file) as served:
        wait_for(lambda: list(tmp_path.glob("artifacts/report/*/index.html")), limit_s=240)
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=60) == 0, log.read_text()
    wait_for(lambda: running_url(tmp_path) is None)


def test_both_pages_answer_while_wanted(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pages(tmp_path) as addresses:
        for address in addresses.values():
            assert b"<html" in urllib.request.urlopen(address, timeout=10).read().lower()
    with pytest.raises(OSError):
        urllib.request.urlopen(addresses["mlflow"], timeout=2)
    wait_for(lambda: running_url(tmp_path) is None)


def test_pages_are_served_once_and_ended_without_the_server_of_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    argv = ["-c", "from flows.cli import main; main()", "ui", "--store", str(tmp_path)]
    with started(*argv, stdout=subprocess.PIPE, text=True) as shown:
        said = [shown.stdout.readline().strip() for _ in range(2)]
        again = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
        assert [line.strip() for line in again.splitlines()] == said
        run = start_server(tmp_path)
        run.wait()
        ended = f"the pages of {tmp_path} are ended; its Prefect server stays up for the run that uses it"
        assert stop_pages(tmp_path) == ended
        assert shown.wait(timeout=60) == 143 and running_url(tmp_path)
    run.close()
    wait_for(lambda: running_url(tmp_path) is None)


def test_stopping_where_nothing_runs_says_so(tmp_path):
    assert stop_pages(tmp_path) == f"no pages of {tmp_path} are up"


def test_a_schedule_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="schedule must be a cron line or seconds > 0, got 0"):
        serve(None, "tiny", 0, tmp_path, {})
