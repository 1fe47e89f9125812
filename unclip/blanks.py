"""Empty databases: migrated once, kept in the user's cache, copied into new stores, for migrations take seconds."""

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from unclip.data.digests import cache_folder


def adopt_blank(database: Path, package: str) -> bool:
    """Whether the database is there: its own, or now a copy of the empty one of this version of the package."""
    if database.exists():
        return True
    partial = database.with_suffix(f".{os.getpid()}")
    try:
        shutil.copyfile(_blank(package), partial)
        with suppress(FileExistsError):  # another command was faster, and may write to it already
            os.link(partial, database)
    except OSError:  # there is none yet, or this disk has no links
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def keep_blank(package: str, write: Callable[[Path], None]) -> None:
    """Keep the empty database that `write` puts at a path; a cache that can't be written is no error."""
    blank = _blank(package)
    partial = blank.with_suffix(f".{os.getpid()}")
    try:
        blank.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        write(partial)
        partial.replace(blank)
    except (OSError, sqlite3.Error) as error:
        print(f"no empty database of {package} kept: {error}", file=sys.stderr)


def _blank(package: str) -> Path:
    return cache_folder() / f"{package}-{version(package)}.db"
