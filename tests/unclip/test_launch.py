"""Commands that never outlive who started them; real processes throughout."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unclip.launch import Command, run
from unclip.slots import slot

FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
PARENT = """
import signal
import sys
from pathlib import Path
from unclip.launch import Command, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs aside
run(Command(argv=(sys.executable, "-c", sys.argv[1]), log=Path(sys.argv[2]), grace_s=1.0))
"""
EVENTS = """
import sys
from unclip.launch import emit
for step in range(3):
    emit({"event": "progress", "done": step})
"""
ERROR = """
from unclip.launch import emit
emit({"event": "error", "kind": "ValueError", "message": "seed must be >= 0, got -1"})
raise SystemExit(1)
"""


def python(source: str, log: Path, grace_s: float = 1.0) -> Command:
    return Command(argv=(sys.executable, "-c", source), log=log, grace_s=grace_s)


def pids(log: Path) -> list[int]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if log.exists() and len(words := log.read_text().split()) == 2:
            return [int(word) for word in words]
        time.sleep(0.02)
    raise AssertionError("the family never started")


def lives(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(family: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(lives, family)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, family))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_orphan_whatever_ended_the_parent(tmp_path: Path, number: int) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, FAMILY, str(log)], stderr=subprocess.DEVNULL)
    family = pids(log)
    parent.send_signal(number)
    assert parent.wait(5) != 0
    assert gone_within(family, 5)


def test_a_killed_guard_takes_the_command_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, FAMILY, str(log)], stderr=subprocess.DEVNULL)
    leader, _ = pids(log)
    guard = int(Path(f"/proc/{leader}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(guard, signal.SIGKILL)
    assert gone_within([leader], 5)
    parent.wait(5)
    os.killpg(leader, signal.SIGKILL)


def test_what_a_callback_raises_ends_the_group(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def deadline() -> None:
        if log.stat().st_size:
            raise TimeoutError("too slow")

    with pytest.raises(TimeoutError, match="too slow"):
        run(python(FAMILY, log), poll=deadline)
    assert gone_within(pids(log), 0.5)


def test_what_a_finished_command_left_behind_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(python(FAMILY.replace("time.sleep(60)\n", "\n"), log))
    assert gone_within(pids(log), 0.5)


def test_events_arrive_in_order(tmp_path: Path) -> None:
    events: list[object] = []
    run(python(EVENTS, tmp_path / "log"), on_event=lambda event: events.append(event["done"]))
    assert events == [0, 1, 2]


def test_a_mistake_of_the_user_stays_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^seed must be >= 0, got -1$"):
        run(python(ERROR, tmp_path / "log"))


def test_a_crash_says_its_last_line_and_where_the_log_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: division by zero \(log: .*log\)$"):
        run(python("1 / 0", tmp_path / "log"))


def test_a_killed_command_says_the_signal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        run(python("import os; os.kill(os.getpid(), 9)", tmp_path / "log"))


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot start no-such-program: No such file"):
        run(Command(argv=("no-such-program",), log=tmp_path / "log"))


def test_stop_all_ends_commands_of_every_thread(tmp_path: Path) -> None:
    source = (
        "import threading, sys\nfrom unclip.launch import stop_all\nthreading.Timer(0.5, stop_all).start()\n" + PARENT
    )
    parent = subprocess.run([sys.executable, "-c", source, FAMILY, str(tmp_path / "log")], capture_output=True)
    assert b"Stopped: stopped on request" in parent.stderr
    assert gone_within(pids(tmp_path / "log"), 0.5)


def test_a_device_serves_one_job_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with slot("cuda", tmp_path):
            order.append("second")

    with slot("cuda:0", tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_slot_is_held_until_the_command_is_gone(tmp_path: Path) -> None:
    with slot("cuda:0", tmp_path) as held:
        guard = subprocess.Popen(["sleep", "0.5"], pass_fds=held)
    start = time.monotonic()
    with slot("cuda:0", tmp_path):
        assert time.monotonic() - start > 0.3
    guard.wait()


def test_the_cpu_has_no_slot(tmp_path: Path) -> None:
    with slot("cpu", tmp_path) as first, slot("cpu", tmp_path) as second:
        assert first == second == ()
