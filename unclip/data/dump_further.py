"""What the source of a dump says of its rows besides: further columns of a list, fields of the JSON in tars.

They stand as one JSON object a row in the column `more` of the table of rows beside each part: no two parts of it can
have different types.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.dump import rows_path
from unclip.data.more_columns import ENCODER, read_more
from unclip.data.rows import MORE, Row

TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
LARGEST_IN_FLOAT = 2**53
BATCH_ROWS = 8_192  # in memory at a time
Further = dict[str, Any]


@dataclass
class Field:
    """One further column over all rows of a dump, refused ones too."""

    kind: str  # of TYPES: what holds each of its values
    rows: int = 0  # that have a value
    largest: int = 0  # of the integers, whatever their sign

    def add(self, value: Any) -> None:
        """Counts a value. Integers that no float holds stand beside floats as text."""
        self.rows += 1
        if (kind := kind_of(value)) == "int":
            self.largest = max(self.largest, abs(value))
        if self.kind != kind:
            self.kind = "float" if {self.kind, kind} == {"int", "float"} else "text"
        if self.kind == "float" and self.largest > LARGEST_IN_FLOAT:
            self.kind = "text"

    def column(self, values: Sequence[Any]) -> pa.Array:
        """Values as a column; what is no text where others are, is JSON."""
        if self.kind == "text":
            values = [value if value is None or isinstance(value, str) else ENCODER.encode(value) for value in values]
        return pa.array(values, TYPES[self.kind])


def further_fields(parts: Sequence[Path]) -> dict[str, Field]:
    """The further columns of a dump, those without any value left out, in the order in which they are met."""
    found: dict[str, Field] = {}
    for row in further_rows(parts):
        for name, value in row.items():
            if value is not None:
                found.setdefault(name, Field(kind_of(value))).add(value)
    return found


def kind_of(value: Any) -> str:
    """What holds a value of JSON, of TYPES."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "text"
    return "float" if isinstance(value, float) else "text"


def further_rows(parts: Sequence[Path]) -> Iterator[Further]:
    """What the source says besides of every row that it says it of; some rows in memory at a time."""
    for path in filter(Path.is_file, map(rows_path, parts)):  # one that is missing is a problem of its own
        with pq.ParquetFile(path) as file:
            if MORE.name in file.schema_arrow.names:
                for batch in file.iter_batches(BATCH_ROWS, columns=[MORE.name]):
                    yield from (read_more(text) for text in batch[MORE.name].to_pylist())


def further_columns(rows: Sequence[Row | None], fields: dict[str, Field]) -> dict[str, pa.Array]:
    """The further columns for some rows; null where a row is not known."""
    said = [read_more(row.more) if row else {} for row in rows]
    return {name: field.column([more.get(name) for more in said]) for name, field in fields.items()}
