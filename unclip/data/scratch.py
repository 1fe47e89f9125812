"""Columns longer than memory: written to files without a name, then mapped; no file outlives the process."""

import mmap
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

BLOCK_ROWS = 1 << 14  # rows whose numbers are in memory at once


def blocks(size: int) -> Iterator[slice]:
    """0 to `size` in slices of BLOCK_ROWS."""
    for start in range(0, size, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, size))


class Column:
    """Numbers, appended row by row and then read."""

    def __init__(self, dtype: DTypeLike, work: Path | None = None, *, width: int | None = None) -> None:
        """width: numbers a row, of an array (N, width); work: a folder for the file, else the system's for such."""
        self._dtype, self._width = np.dtype(dtype), width
        self._file = nameless(self, work)

    def append(self, values: NDArray[Any]) -> None:
        """Add rows at the end."""
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def array(self) -> NDArray[Any]:
        """All rows so far; pages that were read are the system's to take back."""
        found = np.frombuffer(mapped(self._file), self._dtype)
        return found if self._width is None else found.reshape(-1, self._width)


class Texts:
    """Strings, appended and then read."""

    def __init__(self, work: Path | None = None) -> None:
        """work: a folder for the files, else the system's for such."""
        self._ends, self._file = Column(np.int64, work), nameless(self, work)
        self._ends.append(np.zeros(1, np.int64))
        self._size, self._bytes = 0, 0

    def append(self, values: Sequence[str] | pa.Array) -> None:
        """Add strings at the end."""
        if not len(values):
            return
        array = pa.array(values, pa.large_string()) if not isinstance(values, pa.Array) else values
        array = array.cast(pa.large_string())
        ends = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
        self._file.write(memoryview(array.buffers()[2] or b"")[ends[0] : ends[-1]])
        self._ends.append(ends[1:] - ends[0] + self._bytes)
        self._bytes, self._size = self._bytes + int(ends[-1] - ends[0]), self._size + len(array)

    def __len__(self) -> int:
        return self._size

    def array(self) -> pa.LargeStringArray:
        """All strings so far, in one piece; pages that were read are the system's to take back."""
        buffers = [pa.py_buffer(self._ends.array()), pa.py_buffer(mapped(self._file))]
        return pa.LargeStringArray.from_buffers(self._size, *buffers)


def places(mask: NDArray[np.bool_], work: Path | None = None) -> NDArray[np.int64]:
    """The rows that a mask marks, ascending, mapped."""
    column = Column(np.int64, work)
    for block in blocks(len(mask)):
        column.append(block.start + np.flatnonzero(mask[block]))
    return column.array()


def taken(values: NDArray[Any], rows: NDArray[np.int64], work: Path | None = None) -> NDArray[Any]:
    """The values (M,) of some rows, mapped."""
    column = Column(values.dtype, work)
    for block in blocks(len(rows)):
        column.append(values[rows[block]])
    return column.array()


def filled(size: int, value: Any, dtype: DTypeLike, work: Path | None = None) -> NDArray[Any]:
    """An array (size,) of one value that can be written to and is no memory of the process's own."""
    column = Column(dtype, work)
    for block in blocks(size):
        column.append(np.full(block.stop - block.start, value, dtype))
    return np.frombuffer(mapped(column._file, mmap.ACCESS_WRITE), np.dtype(dtype))


def nameless(owner: Any, work: Path | None) -> BinaryIO:
    """A new file in `work` that no folder lists, closed when its owner goes."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=work)  # noqa: SIM115
    weakref.finalize(owner, file.close)
    return file


def mapped(file: Any, access: int = mmap.ACCESS_READ) -> mmap.mmap | bytes:
    """The bytes of a file; an empty file cannot be mapped."""
    file.flush()
    size = file.seek(0, 2)
    return mmap.mmap(file.fileno(), size, access=access) if size else b""
