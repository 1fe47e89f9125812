"""A list of image URLs and captions, frozen: normalised, identified, and every row refused that cannot be fetched."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.config import UrlsConfig
from unclip.data.rows import sample_id
from unclip.data.source_plan import ALL
from unclip.data.web_address import normalise_url

Record = tuple[Any, Any]  # URL, caption: as they stand in the list
PAIRS_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("sample_id", pa.binary(16), nullable=False),
        pa.field("refused", pa.string()),  # "malformed" or "duplicate"; null if it is to be fetched
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def read_pairs(config: UrlsConfig) -> list[pa.Table]:
    """The list as tables of `shard_size` rows (the last may be shorter), every row of it in its place.

    Read once a process, and again when the file has changed. Memory: about 150 bytes a row.

    Raises: ValueError when the list is absent, malformed or empty, or lacks a column.
    """
    path = Path(config.path)
    if not path.is_file():
        raise ValueError(
            f"source.urls.path: no file {path}: put a list of URLs and captions there, or --set source.urls.path=LIST"
        )
    stat = path.stat()
    return _read(config, stat.st_mtime_ns, stat.st_size)


def write_pairs(config: UrlsConfig, shard: int, path: Path) -> dict[str, int]:
    """Writes shard `shard` of the list as `pairs.parquet`; counts its rows by what will become of them.

    The number stands in the file, as it will in the keys: the same pairs in another place are another content.
    """
    table = read_pairs(config)[shard]
    pq.write_table(table.replace_schema_metadata({"shard": str(shard)}), path, compression="zstd")
    refused = table.column("refused").to_pylist()
    return {
        "rows": len(refused),
        **{reason: refused.count(reason) for reason in ("malformed", "duplicate")},
    }


def pair_recipes(config: UrlsConfig, wanted: slice = ALL) -> list[dict[str, Any]]:
    """For each wanted shard of the list, in order, the JSON-able values that decide its `pairs.parquet`."""
    tables = list(enumerate(read_pairs(config)))[wanted]
    return [{"source": "urls", "shard": shard, "pairs": _digest(table)} for shard, table in tables]


def _digest(table: pa.Table) -> str:
    """SHA-256 of a table's URLs, captions and refusals."""
    digest = hashlib.sha256()
    for row in table.select(["url", "caption", "refused"]).to_pylist():
        digest.update(json.dumps(list(row.values())).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _read(config: UrlsConfig, mtime_ns: int, size: int) -> list[pa.Table]:
    seen: set[bytes] = set()
    rows, tables = [], []
    for url, caption in read_records(config):
        rows.append(freeze_pair(url, caption, seen))
        if len(rows) == config.shard_size:
            tables.append(pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA))
            rows = []
    if rows:
        tables.append(pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA))
    if not tables:
        raise ValueError(f"{config.path} has no rows: a URL list needs one at least")
    return tables


def freeze_pair(url: Any, caption: Any, seen: set[bytes]) -> dict[str, Any]:
    """One row of `pairs.parquet`; `seen` holds the identities met before and gets this one."""
    address, text = (_clean(value) for value in (url, caption))
    refused, detail = None, ""
    try:
        address = normalise_url(address)
        if not text:
            raise ValueError("no caption")
    except ValueError as error:
        refused, detail = "malformed", str(error)
    identity = sample_id(address, text)
    if refused is None and identity in seen:
        refused, detail = "duplicate", "the same URL and caption stand earlier in the list"
    seen.add(identity)
    return {"url": address, "caption": text, "sample_id": identity, "refused": refused, "detail": detail}


def _clean(value: Any) -> str:
    """A cell as text that can be written as UTF-8, without the white space around it."""
    return "" if value is None else str(value).strip().encode(errors="replace").decode()


def read_records(config: UrlsConfig) -> Iterator[Record]:
    """URL and caption of every row of the list, streamed.

    Raises: ValueError when the list is malformed or lacks a column.
    """
    read = READERS[Path(config.path).suffix]
    try:
        yield from read(Path(config.path), config.url_column, config.caption_column)
    except UnicodeDecodeError as error:
        raise ValueError(f"{config.path} must be UTF-8: {error.reason} at byte {error.start}") from error


def _csv_records(path: Path, url: str, caption: str) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _require_columns(path, list(reader.fieldnames or []), url, caption)
            for row in reader:
                yield row[url], row[caption]
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num} is not CSV: {error}") from error


def _jsonl_records(path: Path, url: str, caption: str) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error.msg} at column {error.colno}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} must be a JSON object, got {line.strip()[:40]}")
            _require_columns(f"{path}:{number}", list(row), url, caption)
            yield row[url], row[caption]


def _parquet_records(path: Path, url: str, caption: str) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet: {error}") from error
    with file:
        _require_columns(path, file.schema_arrow.names, url, caption)
        for batch in file.iter_batches(batch_size=10_000, columns=[url, caption]):
            yield from zip(batch.column(url).to_pylist(), batch.column(caption).to_pylist(), strict=True)


def _require_columns(where: object, names: list[str], *wanted: str) -> None:
    """Raises: ValueError naming the first wanted column that is not among the list's."""
    for name in wanted:
        if name not in names:
            raise ValueError(f"{where} has no column {name!r}; it has {', '.join(names) or 'none'}")


READERS: dict[str, Callable[[Path, str, str], Iterator[Record]]] = {
    ".csv": _csv_records,
    ".jsonl": _jsonl_records,
    ".parquet": _parquet_records,
}
