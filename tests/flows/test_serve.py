"""A served pipeline fires on its schedule; both pages of a store come up and go."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.serve import pages, serve, stop_pages
from unclip.prefect_server import running_url, start_server

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition, limit_s: float = 60.0) -> None:
    """Wait until the condition holds: generously, for a busy machine is slow and not wrong."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.1)


def test_a_served_flow_fires_twice_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("PREFECT_API_URL", None)
    argv = [sys.executable, str(ROOT / "tests" / "flows" / "tiny.py"), str(tmp_path)]
    served = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    fired = tmp_path / "fired"
    wait_for(lambda: fired.exists() and len(fired.read_text().splitlines()) >= 2)
    assert running_url(tmp_path)
    assert len({line.split()[1] for line in fired.read_text().splitlines()}) >= 2  # a process a run
    served.send_signal(signal.SIGINT)
    wait_for(lambda: served.poll() is not None)
    wait_for(lambda: running_url(tmp_path) is None)


def test_a_served_pipeline_makes_its_report_and_ends_with_ctrl_c(tmp_path):
    options = ["--file", str(ROOT / "tests" / "shrunken.yaml"), "--store", str(tmp_path), "--set", "schedule.every_s=2"]
    program = "from flows.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    argv = [sys.executable, "-c", program, "serve", "shrunken", *options]
    with open(tmp_path / "served.log", "w") as log:
        served = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
    wait_for(lambda: list(tmp_path.glob("artifacts/report/*/index.html")), limit_s=240)
    served.send_signal(signal.SIGINT)
    wait_for(lambda: served.poll() is not None)
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
    argv = [sys.executable, "-c", "from flows.cli import main; main()", "ui", "--store", str(tmp_path)]
    shown = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = [shown.stdout.readline().strip() for _ in range(2)]
    again = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert [line.strip() for line in again.splitlines()] == said
    run = start_server(tmp_path)
    run.wait()
    assert (
        stop_pages(tmp_path)
        == f"the pages of {tmp_path} are ended; its Prefect server stays up for the run that uses it"
    )
    assert shown.wait(timeout=60) == 143 and running_url(tmp_path)
    run.close()
    wait_for(lambda: running_url(tmp_path) is None)


def test_stopping_where_nothing_runs_says_so(tmp_path):
    assert stop_pages(tmp_path) == f"no pages of {tmp_path} are up"


def test_a_schedule_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="schedule must be a cron line or seconds > 0, got 0"):
        serve(None, "tiny", 0, tmp_path, {})
