"""What files hold, remembered between plans: what has not changed is not read again."""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

SETTLED_S = 2.0  # a file changed more recently may change again within one tick of its clock: it is not remembered
TABLE = (
    "CREATE TABLE IF NOT EXISTS facts "
    "(path TEXT, kind TEXT, state TEXT NOT NULL, fact TEXT NOT NULL, PRIMARY KEY (path, kind))"
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read now.

    Raises: ValueError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def known_digest(path: Path) -> str:
    """SHA-256 of a file, read only if its size or times differ from when it was last read.

    Raises: ValueError when it cannot be read.
    """
    return remembered(path, "sha256", file_digest)


def remembered(path: Path, kind: str, read: Callable[[Path], str]) -> str:
    """read(path), called only if the file's size or times differ from when it last was, for this kind of fact.

    Raises: ValueError when the file cannot be read, and what `read` raises.
    """
    state, place = _state(path), str(path.absolute())
    try:
        known = _open_cache(cache_folder(), os.getpid(), threading.get_ident())
        row = known.execute("SELECT state, fact FROM facts WHERE path = ? AND kind = ?", (place, kind)).fetchone()
    except (OSError, sqlite3.Error):  # no place to remember anything: a plan works all the same
        return read(path)
    if row is not None and row[0] == state:
        return str(row[1])
    fact = read(path)
    if state == _state(path) and time.time() - path.stat().st_mtime > SETTLED_S:
        with suppress(sqlite3.Error):  # full, or locked for long: read again next time
            known.execute("REPLACE INTO facts VALUES (?, ?, ?, ?)", (place, kind, state, fact))
    return fact


def cache_folder() -> Path:
    """What this user's commands remember for each other; losing it loses nothing."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unclip"


def _state(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


@cache
def _open_cache(folder: Path, process: int, thread: int) -> sqlite3.Connection:
    """The facts known to this user, opened once by each thread; several processes may use them at once."""
    folder.mkdir(parents=True, exist_ok=True)
    known = sqlite3.connect(folder / "facts.sqlite", isolation_level=None)
    known.execute("PRAGMA journal_mode=WAL")
    known.execute("PRAGMA synchronous=NORMAL")
    known.execute(TABLE)
    return known
