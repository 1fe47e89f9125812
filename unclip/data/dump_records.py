"""What a dump says of itself in JSON: a record beside every part, and one manifest."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unclip.store import write_atomically


def read_record(path: Path, *needed: str) -> dict[str, Any]:
    """A record, with the fields needed. Raises: ValueError when it is missing, damaged or lacks one."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object")
    if lacking := [name for name in needed if name not in record]:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}")
    return record


def record_or_none(path: Path, *needed: str) -> dict[str, Any] | None:
    """The same; None for a record that cannot be used: what it is of is made again."""
    try:
        return read_record(path, *needed)
    except ValueError:
        return None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record that is whole, on the disk, or not there."""
    write_atomically(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def sizes_of(paths: Iterable[Path]) -> dict[str, int]:
    """The bytes of files, by name."""
    return {path.name: path.stat().st_size for path in paths}


def are_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether files in a folder are there and as large as a record says, if it does."""
    sizes: dict[str, int] = record.get("sizes", {})
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
