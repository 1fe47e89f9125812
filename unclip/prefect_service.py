"""One Prefect server process: `python -m unclip.prefect_service FOLDER GRACE_S SOCKET`, as `prefect_server` starts it.

It ends itself soon after no process holds a shared lock on `FOLDER/clients.lock`, and first marks what still counts as
running in its database as crashed: whoever ran it is gone. The time from start to ready is mostly Prefect's migrations
of a new database (7 s of 11 s): a new store gets a copy of an empty one.
"""

import fcntl
import json
import os
import socket
import sqlite3
import sys
import time
import urllib.request
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread, Timer
from typing import Any

from unclip.blanks import adopt_blank, keep_blank
from unclip.prefect_server import OFFLINE

_POLL_S = 0.25
_END_S = 3.0  # a server that has not shut down by then is ended


def main(folder: Path, grace_s: float, listener: socket.socket) -> None:
    """Serve on a bound socket until no client is left for `grace_s`, or until SIGTERM."""
    ending = Thread(target=_end_when_unused, args=(folder, grace_s), daemon=True)
    ending.start()
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)  # held until this process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    with listener:
        port = listener.getsockname()[1]
        fresh = not adopt_blank(folder / "prefect.db", "prefect")
        _configure(folder, port)
        _serve(folder, listener, port, fresh)


def _configure(folder: Path, port: int) -> None:
    """Prefect's settings for this process; it reads them from the environment when imported, so before that."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= OFFLINE | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def _serve(folder: Path, listener: socket.socket, port: int, fresh: bool) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(final=True), log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    Thread(target=_announce, args=(server, folder, port, fresh), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        (folder / "server.json").unlink(missing_ok=True)


def _announce(server: Any, folder: Path, port: int, fresh: bool) -> None:
    """Write the record that clients wait for, once the server answers."""
    while not server.started:
        time.sleep(0.02)
    if fresh:
        keep_blank("prefect", partial(_copy, folder / "prefect.db"))  # before its first client
    record = {"pid": os.getpid(), "port": port, "url": f"http://127.0.0.1:{port}/api", "started": time.time()}
    aside = folder / "server.json.partial"
    aside.write_text(json.dumps(record))
    aside.replace(folder / "server.json")


def _copy(database: Path, to: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(to),))


def _end_when_unused(folder: Path, grace_s: float) -> None:
    """End this process once nobody has held the clients' lock for `grace_s`; a client that comes later waits for it."""
    lock = os.open(folder / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    unused_since: float | None = None
    while unused_since is None or time.monotonic() - unused_since < grace_s:
        time.sleep(_POLL_S)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unused_since = None
            continue
        unused_since = unused_since or time.monotonic()
        if time.monotonic() - unused_since < grace_s:
            fcntl.flock(lock, fcntl.LOCK_UN)
    _close_and_end(folder)


def _close_and_end(folder: Path) -> None:
    Timer(_END_S, os._exit, (1,)).start()
    try:
        record = json.loads((folder / "server.json").read_text())
        crash_running(record["url"], "the command that ran it is gone")
        (folder / "server.json").unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        print(f"unfinished runs were not closed: {error}", file=sys.stderr)
    os._exit(0)  # SQLite survives it, and a graceful end waits for open connections


def crash_running(url: str, message: str, flow_run_id: str | None = None) -> int:
    """How many flow and task runs were marked crashed: every running one, or those of one flow run."""
    count = 0
    for kind, parent in (("task_runs", "flow_run_id"), ("flow_runs", "id")):
        query: dict[str, Any] = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        if flow_run_id:
            query[parent] = {"any_": [flow_run_id]}
        for run in _post(f"{url}/{kind}/filter", {kind: query, "limit": 200}):
            state = {"type": "CRASHED", "name": "Crashed", "message": message}
            _post(f"{url}/{kind}/{run['id']}/set_state", {"state": state, "force": True})
            count += 1
    return count


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=2) as reply:
        return json.load(reply)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), socket.socket(fileno=int(sys.argv[3])))
