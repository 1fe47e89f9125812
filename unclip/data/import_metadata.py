"""What the metadata of a clip-retrieval dump say of each image, some rows in memory at a time."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.more_columns import more_json

NAMING = ("url", "image_path", "key")  # columns that name a picture, the best first: who has a list has its addresses
SIDES = ("width", "height")
MAX_SIDE_PX = 2**31 - 1


@dataclass(frozen=True)
class Said:
    """Some rows of metadata."""

    names: list[str]  # path, address or key of the picture
    captions: list[str]
    sides: list[dict[str, int | None]]  # width and height
    more: list[str | None]  # JSON of all other columns

    def __len__(self) -> int:
        return len(self.names)


def said_in(path: Path, num_rows: int, left_out: Container[str] = ()) -> Iterator[Said]:
    """What a file of metadata says, so many rows at a time. left_out: columns that say nothing more.

    Raises: ValueError for a file without captions, with two columns of one name, or one that cannot be read.
    """
    there = pq.read_schema(path).names
    if "caption" not in there:
        raise ValueError(f"{path} has no column 'caption'; it has {', '.join(there)}")
    if repeated := sorted({name for name in there if there.count(name) > 1}):
        raise ValueError(f"{path} has more than one column named {', '.join(map(repr, repeated))}")
    start = 0
    for table in tables_in(path, num_rows):
        columns = {name: values_of(table[name], f"{path}: column {name!r}") for name in there}
        rows = [dict(zip(there, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        named = [next((name for name in NAMING if row.get(name)), None) for row in rows]
        yield Said(
            names=[
                f"{path.name} row {place}" if name is None else str(row[name])
                for place, (row, name) in enumerate(zip(rows, named, strict=True), start)
            ],
            captions=["" if row["caption"] is None else str(row["caption"]) for row in rows],
            sides=[{side: as_side(row.get(side)) for side in SIDES} for row in rows],
            more=[said_besides(row, name, left_out) for row, name in zip(rows, named, strict=True)],
        )
        start += len(rows)


def tables_in(path: Path, num_rows: int) -> Iterator[pa.Table]:
    """The rows of a file, so many at a time however they are grouped in it."""
    with pq.ParquetFile(path) as file:
        waiting = file.schema_arrow.empty_table()
        for batch in file.iter_batches(num_rows):
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while len(waiting) >= num_rows:
                yield waiting.slice(0, num_rows)
                waiting = waiting.slice(num_rows)
        if len(waiting):
            yield waiting


def values_of(column: pa.ChunkedArray, where: str) -> list[Any]:
    """The values of a column, times as text. Raises: ValueError for what Python cannot hold, such as broken text."""
    try:
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:  # of a zone that nobody may know
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))
        values: list[Any] = (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()
    except (ValueError, OverflowError, NotImplementedError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    return values


def said_besides(row: Mapping[str, Any], naming: str | None, left_out: Container[str]) -> str | None:
    """JSON of what a row says besides the caption, the name of its picture and sides that are numbers of pixels."""
    again = [name for name in NAMING if naming and row.get(name) == row[naming]]
    told = {"caption", *again, *(side for side in SIDES if as_side(row.get(side)) is not None)}
    more = {name: value for name, value in row.items() if name not in told and name not in left_out}
    return more_json(more, more.values()) if more else None


def as_side(value: Any) -> int | None:
    """Pixels; None for what is no such number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value <= MAX_SIDE_PX and value % 1 == 0 else None
