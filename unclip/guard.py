"""Runs one command in a session of its own and ends all of it when the pipe from the parent closes.

Executed by path (`python -I -S guard.py PIPE_FD EVENTS_FD GRACE_S ARGV...`) by `unclip.launch`, so that it starts in
milliseconds and stands outside both the parent's process group and the command's: whatever ends either, it is there
to end the rest. Exit code: the command's, or 128 + the signal that killed it.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """In a process about to start: asks the kernel (Linux) to kill it should its parent be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether the child `pid` has ended; it stays unreaped, so its group number cannot be taken by a stranger."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Guard:
    """The command and the two ways to hear: the parent's pipe, and signals as bytes in a pipe of our own."""

    def __init__(self, pipe: int, events: int, argv: list[str]) -> None:
        self.pipe = pipe
        self.asked_to_end = False
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._ask_to_end)
        self.command = subprocess.Popen(argv, pass_fds=(events,), start_new_session=True, preexec_fn=die_with_parent)
        os.close(events)

    def _ask_to_end(self, *_: object) -> None:
        self.asked_to_end = True

    def wait(self) -> None:
        """Returns when the command has ended, or when it must."""
        while not has_ended(self.command.pid) and not self.asked_to_end:
            ready, _, _ = select.select([self.pipe, self.signals], [], [])
            if self.signals in ready:
                os.read(self.signals, 4096)
            self.asked_to_end |= self.pipe in ready  # nobody writes: readable is closed

    def end(self, grace_s: float) -> int:
        """Ends the whole group, politely first if its leader still runs; the exit code."""
        deadline = time.monotonic() + grace_s
        if not has_ended(self.command.pid):
            os.killpg(self.command.pid, signal.SIGTERM)
        while not has_ended(self.command.pid) and (left := deadline - time.monotonic()) > 0:
            select.select([self.signals], [], [], min(left, 0.05))
        os.killpg(self.command.pid, signal.SIGKILL)  # also what the leader left behind
        code = self.command.wait()
        return code if code >= 0 else 128 - code


def main() -> int:
    """Guards the command on the command line until it ends; its exit code."""
    pipe, events, grace_s, argv = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    try:
        guard = Guard(pipe, events, argv)
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    guard.wait()
    return guard.end(grace_s)


if __name__ == "__main__":
    sys.exit(main())
