"""Ctrl-C, SIGTERM and a dead parent end a run within seconds, whatever its threads are doing.

Left alone, Prefect waits for the task threads, which wait for their subprocesses. The store is complete-or-absent at
every instant, so nothing has to be unwound: the last words are said, subprocesses and views told, the process ends.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from types import FrameType

from unclip.launch import stop_all

PARENT = "UNCLIP_PARENT"  # environment variable: the process whose end is ours
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.5


@contextmanager
def on_interrupt(last_acts: Sequence[Callable[[], object]] = (), deadline_s: float = 3.0) -> Iterator[None]:
    """Within the block, SIGINT, SIGTERM, SIGHUP or the parent's end: stop all commands, do the acts, exit 128 + signal.

    last_acts: called in order, for `deadline_s` at most in all; what they raise is printed and passed over.
    A thread of its own does this, woken at once even while the main thread is inside foreign code. Main thread only.
    """
    assert current_thread() is main_thread()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    before = {number: signal.signal(number, _leave_to_thread) for number in _SIGNALS}
    woken_before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    thread = Thread(target=_watch, args=(wake_read, tuple(last_acts), deadline_s, _parent()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake_write)
        thread.join()
        os.close(wake_read)


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """The thread has been woken already; the main thread just goes on until the process exits."""


def _parent() -> int | None:
    """The parent whose end is ours; none unless whoever started us says so."""
    return os.getppid() if os.environ.get(PARENT) == str(os.getppid()) else None


def _watch(wake: int, last_acts: tuple[Callable[[], object], ...], deadline_s: float, parent: int | None) -> None:
    while True:
        ready, _, _ = select.select([wake], [], [], _POLL_S if parent else None)
        if parent and os.getppid() != parent:
            return _end(signal.SIGTERM, last_acts, deadline_s)
        if not ready:
            continue
        received = os.read(wake, 64)
        if not received:
            return  # the block was left
        for number in _SIGNALS:
            if number in received:
                return _end(number, last_acts, deadline_s)


def _end(number: signal.Signals, last_acts: tuple[Callable[[], object], ...], deadline_s: float) -> None:
    stop_all()
    acting = Thread(target=_act, args=(last_acts,), daemon=True)
    acting.start()
    acting.join(deadline_s)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)


def _act(last_acts: tuple[Callable[[], object], ...]) -> None:
    for act in last_acts:
        try:
            act()
        except Exception as error:  # one that goes wrong keeps no other from being done
            name = getattr(getattr(act, "func", act), "__name__", "a last act")
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
