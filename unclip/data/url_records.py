"""The rows of a URL list, streamed from any place in it: CSV, JSONL or Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.source_plan import QUOTES

BATCH_ROWS = 2_000  # of a Parquet file that are in memory at once
BUFFER_BYTES = 1 << 20  # of each column, so that a large row group is not read whole
MAX_CELL_CHARS = 1 << 24  # of a CSV: where a quote is left open, the rest of the list is one cell
BOM = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """Where a row begins: bytes into a text, rows into a Parquet file; and how many lines stand before it."""

    at: int = 0
    line: int = 0


class Record(NamedTuple):
    """One row as it stands in the list."""

    place: Place
    url: Any
    caption: Any
    more: tuple[Any, ...] = ()  # of further columns
    fault: str = ""  # why it is no row of this list


class Lines:
    """The lines of a UTF-8 file from a place on, with their ends; `place` is where the next one begins."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path, self.place, self._file = path, place, path.open("rb")
        if place.at == 0 and self._file.read(len(BOM)) == BOM:
            self.place = Place(len(BOM), place.line)
        self._file.seek(self.place.at)
        self._text = io.TextIOWrapper(self._file, encoding="utf-8", newline="")

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            text = next(self._text)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} must be UTF-8: {error.reason} after line {self.place.line}") from error
        num_bytes = len(text) if text.isascii() else len(text.encode())
        self.place = Place(self.place.at + num_bytes, self.place.line + 1)
        return text


def read_records(
    path: Path, url: str, caption: str, place: Place | None = None, more: tuple[str, ...] = ()
) -> Iterator[Record]:
    """Every row of the list from `place` on, in order; memory does not grow with the list. more: further columns.

    Raises: ValueError when the list is absent, malformed or lacks a column.
    """
    if not path.is_file():
        raise ValueError(
            f"source.urls.path: no file {path}: put a list of URLs and captions there, or --set source.urls.path=LIST"
        )
    return READERS[path.suffix.lower()](path, (url, caption, *more), place or Place())


def _csv_records(path: Path, wanted: tuple[str, ...], place: Place) -> Iterator[Record]:
    csv.field_size_limit(max(MAX_CELL_CHARS, csv.field_size_limit()))  # of the whole process
    with Lines(path, Place()) as lines:
        try:
            names = next(csv.reader(lines, strict=True), [])
        except csv.Error as error:
            raise ValueError(f"{path}:1: the header is not CSV: {error}") from error
        first = lines.place
    require_columns(path, names, *wanted)
    columns = [len(names) - 1 - names[::-1].index(name) for name in wanted]  # of two with one name, the last
    with Lines(path, place if place.at else first) as lines:
        reader = csv.reader(lines, strict=True)
        while True:
            here = lines.place
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{path}:{here.line + 1}: the row is not CSV: {error}") from error
            if row is None:
                return
            if row:
                cells = tuple([row[column] if column < len(row) else None for column in columns])
                yield Record(here, cells[0], cells[1], cells[2:], too_many(row, len(names)))


def _jsonl_records(path: Path, wanted: tuple[str, ...], place: Place) -> Iterator[Record]:
    is_first = place.at == 0  # a later row without a column lacks its value, as in a CSV
    with Lines(path, place) as lines:
        while True:
            here = lines.place
            line = next(lines, None)
            if line is None:
                return
            if not line.strip():
                continue
            where = f"{path}:{lines.place.line}"
            try:
                row = json.loads(line.rstrip(" \t\r\n"))  # the end of the line would be another line's first column
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
            except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
                raise ValueError(f"{where} is not JSON that can be read: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where} must be a JSON object, got {line.strip()[:40]}")
            if is_first:
                require_columns(where, list(row), *wanted)
            is_first = False
            address, text, *more = map(row.get, wanted)
            yield Record(here, address, text, tuple(more), not_text(wanted[0], address) or not_text(wanted[1], text))


def _parquet_records(path: Path, wanted: tuple[str, ...], place: Place) -> Iterator[Record]:
    try:
        yield from _row_groups(path, wanted, place)
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:  # of dates; of columns' names
        raise ValueError(f"{path} is not Parquet: {' '.join(str(error).split())}") from error


def _row_groups(path: Path, wanted: tuple[str, ...], place: Place) -> Iterator[Record]:
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        require_columns(path, file.schema_arrow.names, *wanted)
        require_text(path, file.schema_arrow, *wanted[:2])
        first, start = _row_group(file, place.at)
        groups = range(first, file.num_row_groups)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(wanted), use_threads=False):
            there = batch.slice(max(0, place.at - start))
            start += len(batch)
            rows = zip(*(there.column(name).to_pylist() for name in wanted), strict=True)
            for number, (address, text, *more) in enumerate(rows, start=start - len(there)):
                yield Record(Place(number), address, text, tuple(more))


def _row_group(file: pq.ParquetFile, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the number of that group's first row."""
    start = 0
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if row < start + num_rows:
            return group, start
        start += num_rows
    return file.num_row_groups, start


def too_many(row: list[str], num_names: int) -> str:
    """What is wrong with a row of a CSV that says more than its header asks for; "" where nothing is."""
    return f"{len(row)} cells, {num_names} in the header: {QUOTES}" if any(row[num_names:]) else ""


def require_columns(where: object, names: list[str], *wanted: str) -> None:
    """Raises: ValueError naming the first wanted column that is not among the list's."""
    for name in wanted:
        if name not in names:
            raise ValueError(f"{where} has no column {name!r}; it has {', '.join(names) or 'none'}")


def require_text(path: Path, schema: pa.Schema, *wanted: str) -> None:
    """Raises: ValueError naming the first wanted column of a Parquet list that holds something else than text."""
    for name in wanted:
        if schema.names.count(name) > 1:
            raise ValueError(f"{path} must have one column {name}, has {schema.names.count(name)}")
        kind = schema.types[schema.names.index(name)]
        held = kind.value_type if pa.types.is_dictionary(kind) else kind
        if held not in (pa.string(), pa.large_string(), pa.string_view()):
            raise ValueError(f"column {name} of {path} is {kind}, must be text")


def not_text(name: str, value: Any) -> str:
    """What is wrong with a JSON value that stands for text; "" of text, and of null and NaN, which are no value."""
    if isinstance(value, str) or value is None or value != value:
        return ""
    kind = {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value), "a number")
    return f"{name} is {kind}, must be text"


READERS: dict[str, Callable[[Path, tuple[str, ...], Place], Iterator[Record]]] = {
    ".csv": _csv_records,
    ".jsonl": _jsonl_records,
    ".parquet": _parquet_records,
}
