"""The local Prefect server of a store: found by later commands, else started, gone soon after the last of them.

Every command that uses the server holds a shared lock on `clients.lock` while it lives, and the kernel frees the lock
however the command ends. The server (`unclip/prefect_service.py`) holds `server.lock`, which tells the living from the
dead whatever has become of its process id, and ends itself once no client is left. All of it lies in `STORE/prefect`.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

OFFLINE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the terminal belongs to our progress; the server gets it all
}


class Server:
    """A store's server, perhaps still starting, kept alive until `close` or the end of this process."""

    def __init__(self, store_root: Path, grace_s: float = 1.0) -> None:
        self.folder = store_root.absolute() / "prefect"
        self._clients: int | None = None
        self._address: Future[str] = Future()  # known before anything answers there
        self._url: Future[str] = Future()
        given = os.environ.get("PREFECT_API_URL")
        if given:
            self._address.set_result(given)
            self._url.set_result(given)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        Thread(target=self._start, args=(grace_s,), daemon=True).start()

    def address(self, timeout_s: float = 90.0) -> str:
        """Where the server's API will answer.

        Raises: as `wait`.
        """
        return self._known(self._address, timeout_s)

    def wait(self, timeout_s: float = 90.0) -> str:
        """The address of the server's API, once it answers.

        Raises: RuntimeError when the server ended at start; TimeoutError.
        """
        return self._known(self._url, timeout_s)

    def _known(self, what: Future[str], timeout_s: float) -> str:
        try:
            return what.result(timeout_s)
        except TimeoutError:
            if what.done():  # what its start raised
                raise
            raise TimeoutError(
                f"the Prefect server did not answer within {timeout_s:g} s: run again when this machine is less busy; "
                f"if it is not, see {self.folder / 'server.log'}"
            ) from None

    def close(self) -> None:
        """Let go of the server: it ends after its grace unless another command uses it."""
        if self._clients is not None:
            os.close(self._clients)
            self._clients = None

    def _start(self, grace_s: float) -> None:
        try:
            with _locked(self.folder / "start.lock"):
                self._clients = _lock(self.folder / "clients.lock", fcntl.LOCK_SH)  # waits for a server that is ending
                url: str | None = None
                while url is None:
                    started: subprocess.Popen[bytes] | None = None
                    if not _is_held(self.folder / "server.lock"):
                        (self.folder / "server.json").unlink(missing_ok=True)
                        address, started = _spawn(self.folder, grace_s)
                        self._address.set_result(address)
                    url = _await_record(self.folder, started)
                if not self._address.done():
                    self._address.set_result(url)
                self._url.set_result(url)
        except BaseException as error:  # of a thread: it is raised where the address is waited for
            if not self._address.done():
                self._address.set_exception(error)
            self._url.set_exception(error)


def start_server(store_root: Path, grace_s: float = 1.0) -> Server:
    """The store's server, found or starting in the background; `PREFECT_API_URL`, where the user set it, wins.

    grace_s: how long a server started here outlives its last client.
    """
    return Server(store_root, grace_s)


_kept: dict[Path, Server] = {}


def ensure_server(store_root: Path) -> str:
    """The API address of the store's server, running now and as long as this process lives."""
    root = store_root.absolute()
    if root not in _kept:
        server = start_server(root)
        server.wait()
        _kept[root] = server
    return _kept[root].wait()


def running_url(store_root: Path) -> str | None:
    """The API address of the store's own server if it runs, without starting or keeping it."""
    folder = store_root.absolute() / "prefect"
    record = _record(folder)
    return str(record["url"]) if record and _is_held(folder / "server.lock") else None


def apply_environment(store_root: Path, url: str) -> None:
    """Point Prefect, not yet imported, at the server in this process and its children; nothing phones home.

    The user's own variables win, and with a server of their own also their Prefect folder and its profiles.
    """
    defaults = dict(OFFLINE)
    if os.environ.get("PREFECT_API_URL") != url:
        defaults["PREFECT_HOME"] = str(store_root.absolute() / "prefect" / "home")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ["PREFECT_API_URL"] = url
    bypass = os.environ.get("NO_PROXY", "").split(",")
    os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*filter(None, bypass), "127.0.0.1", "localhost"]))


def _spawn(folder: Path, grace_s: float) -> tuple[str, subprocess.Popen[bytes]]:
    """Starts a server on a free port; the address where it will answer, and its process."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    with (folder / "server.log").open("ab") as log, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "unclip.prefect_service", str(folder), str(grace_s), str(listener.fileno())],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api", process


def _await_record(folder: Path, started: subprocess.Popen[bytes] | None) -> str | None:
    """The address in the server's record once it is there and answers; None where another's server is gone instead.

    started: its process, where it was started here; another's holds its lock meanwhile, and a moment longer than the
    clients' lock when it ends, for the kernel frees them one after the other.
    """
    while True:
        is_alive = started.poll() is None if started else _is_held(folder / "server.lock")
        record = _record(folder)
        if record is not None and is_alive:
            urllib.request.urlopen(f"{record['url']}/health", timeout=10).close()
            return str(record["url"])
        if started and not is_alive:
            raise RuntimeError(f"the Prefect server ended while starting; see {folder / 'server.log'}")
        if not is_alive:
            return None
        time.sleep(0.05)


def _record(folder: Path) -> dict[str, str | int] | None:
    try:
        loaded: dict[str, str | int] = json.loads((folder / "server.json").read_text())
        return loaded
    except FileNotFoundError:
        return None


def _lock(path: Path, mode: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        os.close(_lock(path, fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
