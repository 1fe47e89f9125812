"""Empty databases: migrated once, kept in the user's cache, copied into new stores, for migrations take seconds."""

import os
import shutil
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
        _publish(partial, database)
    except FileNotFoundError:  # there is none yet
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def keep_blank(package: str, write: Callable[[Path], None]) -> None:
    """Keep the empty database that `write` puts into an empty file; a cache that can't be written is no error."""
    blank = _blank(package)
    partial = blank.with_suffix(f".{os.getpid()}")
    try:
        blank.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")  # fails at once where `write` may try again and again
        write(partial)
        partial.replace(blank)
    except Exception as error:  # whatever a library raises: the next store is migrated by itself
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        print(f"no empty database of {package} kept: {error}", file=sys.stderr)


def _publish(partial: Path, database: Path) -> None:
    try:
        os.link(partial, database)
    except FileExistsError:  # another command was faster, and may write to it already
        pass
    except OSError:  # a disk without links
        partial.replace(database)


def _blank(package: str) -> Path:
    return cache_folder() / f"{package}-{version(package)}.db"
