"""`rows.parquet`: what became of every row of a source, kept or refused."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OK = "ok"
ROWS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),  # null if refused
        pa.field("sample_id", pa.binary(16), nullable=False),
        pa.field("url", pa.string()),  # or the file in a folder or tar; null of what was drawn
        pa.field("caption", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("image_sha256", pa.binary(32)),  # of the encoded bytes in the shard; null if refused
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
MORE = pa.field("more", pa.string())  # where a source says more of its rows: fields and values as a JSON object


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source: its key in the shard, or why it was refused."""

    sample_id: bytes
    caption: str
    key: str | None = None
    url: str | None = None
    status: str = OK  # or a short reason: "http_404", "undecodable", "no_caption"
    detail: str = ""
    image_sha256: bytes | None = None
    width: int | None = None
    height: int | None = None
    more: str | None = None  # JSON of what the source says besides

    def __post_init__(self) -> None:
        if (self.key is None) == (self.status == OK):
            raise ValueError(f"a row has a key exactly if its status is ok, got key {self.key!r} and {self.status!r}")


def sample_id(source_id: str, caption: str) -> bytes:
    """The 16-byte identity of a pair: of its URL (or other source id) and caption, wherever it stands in a list."""
    return hashlib.sha256(f"{source_id}\0{caption}".encode()).digest()[:16]


def image_digest(data: bytes) -> bytes:
    """SHA-256 of an encoded picture."""
    return hashlib.sha256(data).digest()


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write every row of a shard's source, in the order given; with the column `more` if one of them has it."""
    values = [vars(row) for row in rows]
    has_more = any(row["more"] is not None for row in values)
    table = pa.Table.from_pylist(values, schema=ROWS_SCHEMA.append(MORE) if has_more else ROWS_SCHEMA)
    pq.write_table(table, path, compression="zstd")


def refusals(reasons: Iterable[str]) -> dict[str, int]:
    """How many rows were refused for each reason; `OK` is none."""
    counts = Counter(reasons)
    counts.pop(OK, None)
    return dict(sorted(counts.items()))


def read_rows(path: Path) -> list[Row]:
    """The rows of a `rows.parquet`.

    Raises: ValueError when the file has other columns.
    """
    table = pq.read_table(path)
    if table.schema not in (ROWS_SCHEMA, ROWS_SCHEMA.append(MORE)):
        raise ValueError(f"{path} must have the columns {', '.join(ROWS_SCHEMA.names)}, has {table.schema.names}")
    return [Row(**values) for values in table.to_pylist()]
