"""Commands that never outlive who started them.

`run` starts a command under `unclip/guard.py`, which holds the read end of a pipe from this process: when the pipe
closes, whatever closed it (an exception, Ctrl-C, SIGKILL), the guard ends the command's whole process group.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
EVENTS_FD = "UNCLIP_EVENTS_FD"  # environment variable that tells the command where its events go
GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.2
_stopping = threading.Event()


class Stopped(RuntimeError):
    """The command was ended because `stop_all` was called."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program, where its output goes, and how long it may take to end after SIGTERM."""

    argv: tuple[str, ...]
    log: Path  # stdout and stderr, appended
    env: Mapping[str, str] = field(default_factory=dict)  # on top of this process's
    cwd: Path | None = None
    grace_s: float = 3.0


def _nothing(*_: object) -> None:
    """Nobody listens."""


def stop_all() -> None:
    """Ends every command that any thread of this process is running; none can be started after."""
    _stopping.set()


def check_stopped() -> None:
    """Raises: Stopped after `stop_all`; for whatever else waits in a thread."""
    if _stopping.is_set():
        raise Stopped("stopped on request")


def emit(event: Event) -> None:
    """Sends an event from a command to whoever `run` it; does nothing outside such a command or when they are gone."""
    if fd := os.environ.get(EVENTS_FD):
        with suppress(BrokenPipeError):  # the guard is about to end us, politely first
            os.write(int(fd), json.dumps(event).encode() + b"\n")


def run(
    command: Command,
    on_event: Callable[[Event], None] = _nothing,
    poll: Callable[[], None] = _nothing,
    hold: tuple[int, ...] = (),
) -> None:
    """Runs the command to its end, handing each event it emits to `on_event`; both callbacks run in this thread.

    poll: called some five times a second; what it (or `on_event`) raises ends the whole group and is raised.
    hold: file descriptors, such as a device slot's, kept open until the whole group is gone.

    Raises: ValueError with the command's own message if it emitted one as {"event": "error", "kind": "ValueError",
    "message": ...}, RuntimeError for every other failure, Stopped after `stop_all`.
    """
    errors: list[Event] = []
    size = command.log.stat().st_size if command.log.exists() else 0
    with _started(command, hold) as (guard, events):
        for event in _events(guard, events, poll):
            if event.get("event") == "error":
                errors.append(event)
            on_event(event)
        code = guard.wait()
    if code:
        raise _failure(command, code, errors, size)


@contextmanager
def _started(command: Command, hold: tuple[int, ...]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The guard and the read end of its events; on leaving, the pipe closes and the group is gone."""
    pipe_read, pipe_write = os.pipe()
    events_read, events_write = os.pipe()
    argv = [sys.executable, "-I", "-S", str(GUARD), str(pipe_read), str(events_write), str(command.grace_s)]
    env = {**os.environ, **command.env, EVENTS_FD: str(events_write)}
    try:
        with command.log.open("ab") as log:
            guard = subprocess.Popen(
                [*argv, *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=command.cwd,
                pass_fds=(pipe_read, events_write, *hold),
                start_new_session=True,
            )
    except BaseException:  # raised again: the ends that nobody will use are closed
        os.close(pipe_write)
        os.close(events_read)
        raise
    finally:
        os.close(pipe_read)
        os.close(events_write)
    try:
        yield guard, events_read
    finally:
        os.close(pipe_write)
        os.close(events_read)
        guard.wait()


def _events(guard: subprocess.Popen[bytes], fd: int, poll: Callable[[], None]) -> Iterator[Event]:
    """Events as they come, until the command and all it started are gone."""
    rest, is_open = b"", True
    while is_open or guard.poll() is None:
        check_stopped()
        poll()
        ready, _, _ = select.select([fd] if is_open else [], [], [], POLL_S if is_open else POLL_S / 20)
        if not ready:
            continue
        chunk = os.read(fd, 65536)
        is_open = bool(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (json.loads(line) for line in lines)


def _failure(command: Command, code: int, errors: list[Event], log_start: int) -> Exception:
    """The one-line error that says what went wrong and where to read more."""
    if errors and errors[0]["kind"] == "ValueError":
        return ValueError(errors[0]["message"])
    if errors:
        said = str(errors[0]["message"])  # the first rank that fails takes the others down with it
    elif code > 128:
        said = f"killed by {signal.Signals(code - 128).name}"
    else:
        said = _last_line(command.log, log_start) or f"exit code {code}"
    return RuntimeError(f"{said} (log: {command.log})")


def _last_line(log: Path, start: int) -> str:
    """The last line with anything on it that was written after `start` bytes."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
