"""A pipeline on its schedule, served from this machine, and the web pages of its store."""

import asyncio
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from flows.interrupt import PARENT, on_interrupt
from unclip.launch import Command, run
from unclip.mlflow_view import tracking_uri
from unclip.prefect_server import OFFLINE, apply_environment, running_url, start_server

Schedule = str | float
_TRAINING = "#/experiments?workflowType=machine_learning"  # MLflow's page opens for chats otherwise


def serve(
    flow: Any, name: str, schedule: Schedule, store_root: Path, parameters: dict[str, Any], limit: int = 1
) -> None:
    """Run `flow(**parameters)` on the schedule until Ctrl-C or SIGTERM, each run in a process of its own.

    schedule: a cron line, or seconds between runs; limit: runs at the same time. A run that goes on is told to end with
    this process, and the schedule rests while nobody serves it. `flow` must be importable from its file.

    Raises: ValueError for a schedule that is neither.
    """
    when: dict[str, Any] = {"cron": schedule} if isinstance(schedule, str) else {"interval": schedule}
    if not isinstance(schedule, str) and schedule <= 0:
        raise ValueError(f"schedule must be a cron line or seconds > 0, got {schedule}")
    server = start_server(store_root)
    apply_environment(store_root, server.wait())
    os.environ[PARENT] = str(os.getpid())
    from prefect.runner import Runner

    class Served(Runner):
        """Ends its runs before itself, where Prefect's waits for them."""

        async def __aexit__(self, *raised: Any) -> None:
            for run_process in multiprocessing.active_children():
                run_process.terminate()
            await super().__aexit__(*raised)

        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            """As Ctrl-C."""
            signal.raise_signal(signal.SIGINT)

    try:
        runner = Served(name=name, limit=limit)
        runner.add_flow(flow, name=name, parameters=parameters, **when)
        with suppress(KeyboardInterrupt):
            asyncio.run(runner.start())
    finally:
        server.close()


@contextmanager
def pages(store_root: Path) -> Iterator[dict[str, str]]:
    """The addresses of the Prefect and the MLflow page of a store, up while the block runs."""
    root = store_root.absolute()
    server = start_server(root)
    (root / "mlflow").mkdir(parents=True, exist_ok=True)
    port, leaving = _free_port(), Event()
    mlflow = Thread(target=_serve_mlflow, args=(root, port, leaving), daemon=True)
    mlflow.start()
    try:
        _await(f"http://127.0.0.1:{port}/health", mlflow, root)
        yield {"prefect": server.wait().removesuffix("/api"), "mlflow": f"http://127.0.0.1:{port}/{_TRAINING}"}
    finally:
        leaving.set()
        mlflow.join()
        server.close()


def show_pages(store_root: Path, say: Callable[[str], None] = partial(print, flush=True)) -> None:
    """Say where the pages are and keep them up until Ctrl-C, SIGTERM or `stop_pages`; if they are up, only say so."""
    record = store_root.absolute() / "pages.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with on_interrupt(), open(record, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends
        except BlockingIOError:
            _say_addresses(_noted(record, "pages")["pages"], say)
            return
        lock.truncate(0)  # what the last process said of itself
        _note(record, {})
        with pages(store_root) as addresses:
            _note(record, addresses)
            _say_addresses(addresses, say)
            while True:
                time.sleep(3600)


def stop_pages(store_root: Path, limit_s: float = 5.0) -> str:
    """What was done, in words: the pages are ended, and with them a Prefect server that nothing else uses."""
    record, said = store_root.absolute() / "pages.json", f"no pages of {store_root} are up"
    if record.exists():
        with open(record) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(_noted(record)["pid"], signal.SIGTERM)  # the lock is held, so the id is still theirs
                fcntl.flock(lock, fcntl.LOCK_SH)
                said = f"the pages of {store_root} are ended"
    until = time.monotonic() + limit_s
    while running_url(store_root) and time.monotonic() < until:
        time.sleep(0.1)
    return f"{said}; its Prefect server stays up for the run that uses it" if running_url(store_root) else said


def _note(record: Path, addresses: dict[str, str]) -> None:
    record.write_text(json.dumps({"pid": os.getpid(), "pages": addresses}))


def _noted(record: Path, name: str = "pid", limit_s: float = 150.0) -> dict[str, Any]:
    """What the process that serves the pages says of itself, once it says `name`; a server may take long to start."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with suppress(ValueError):  # it is being written
            said: dict[str, Any] = json.loads(record.read_text())
            if said[name]:
                return said
        time.sleep(0.1)
    raise RuntimeError(f"a process that holds {record} never said where it serves the pages: try again")


def _say_addresses(addresses: dict[str, str], say: Callable[[str], None]) -> None:
    for page, address in addresses.items():
        say(f"{page:>8} {address}")


class _Leave(Exception):
    """The block that wanted the page is left."""


def _serve_mlflow(root: Path, port: int, leaving: Event) -> None:
    def leave() -> None:
        if leaving.is_set():
            raise _Leave

    places = ("--backend-store-uri", tracking_uri(root), "--artifacts-destination", str(root / "mlflow" / "artifacts"))
    argv = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    environment = OFFLINE | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # two processes, not eleven
    with suppress(_Leave):
        run(Command(argv=(*argv, *places), log=root / "mlflow" / "server.log", env=environment), poll=leave)


def _await(url: str, thread: Thread, root: Path, limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            if not thread.is_alive() or time.monotonic() > until:
                raise RuntimeError(f"the MLflow page did not come up: see {root / 'mlflow' / 'server.log'}") from None
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
