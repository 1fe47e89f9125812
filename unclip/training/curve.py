"""The learning curve: one JSON object a line, appended; its length is part of every checkpoint."""

import json
import os
from pathlib import Path


class Curve:
    """`curve.jsonl`, cut back to what a checkpoint knew: a resumed run neither repeats nor loses a row."""

    def __init__(self, path: Path, size: int) -> None:
        """size: bytes to keep of the file; 0 starts it anew.

        Raises: ValueError when the file is shorter than that.
        """
        self._file = path.open("ab")
        if self._file.tell() < size:
            raise ValueError(f"{path} has {self._file.tell()} bytes, its checkpoint knew {size}: remove {path.parent}")
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def append(self, row: dict[str, float]) -> None:
        """Adds a row; NaN is not JSON and never gets here."""
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """The size in bytes, all of it on the disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
