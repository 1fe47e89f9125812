"""The files of a search index: replaced together, opened together, asked. Q queries, D dimensions."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.dump_records import record_or_none
from unclip.data.index_codes import DATA, open_index
from unclip.data.index_lists import BLOCK_ROWS
from unclip.data.index_recall import find
from unclip.data.table import Floats, opened, unit

ROWS_AT, NUMBER_BYTES = 8, 8  # the rows of an exact index in its file, after kind and dimension
KEY_COLUMNS = ("key", "shard", "row", "caption")  # of keys.parquet
STAMP = "parts"  # what the key map and index.json say of the parts that both are of
REPLACED = ("keys.parquet", "index.faiss", "index.json")  # in this order
REPLACED_S = 1.0  # that a search waits for a key map and an index that agree: they are replaced one after the other


def publish(aside: Path, out: Path) -> None:
    """Put a whole index in the place of the one before: whenever a search comes it finds one of them.

    Lists have a name of their own, so `index.faiss` decides; the key map is replaced a moment before it, what both are
    of a moment after it: of a kill between, a search says so.
    """
    lists = [path.name for path in aside.glob(f"*{DATA}")]
    for name in (*lists, *REPLACED):
        os.replace(aside / name, out / name)
    for old in out.glob(f"*{DATA}"):  # who has it mapped goes on reading it
        if old.name not in lists:
            old.unlink()


def write_flat(dimension: int, blocks: Iterable[NDArray[np.float16]], path: Path) -> None:
    """Write the bytes of faiss's exact index of all vectors (N, D) at norm one, with one block in memory at a time."""
    faiss.write_index(faiss.IndexFlatIP(dimension), str(path))
    size_at, rows = path.stat().st_size - NUMBER_BYTES, 0  # it ends with how many values follow: none yet
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        for block in blocks:
            for start in range(0, len(block), BLOCK_ROWS):
                file.write(unit(block[start : start + BLOCK_ROWS]).data)
            rows += len(block)
        for at, value in ((ROWS_AT, rows), (size_at, rows * dimension)):
            file.seek(at)
            file.write(value.to_bytes(NUMBER_BYTES, "little"))


def write_keys(parts: Sequence[Path], path: Path, stamp: str) -> None:
    """Write key, shard, row and caption by index id, one part in memory at a time. stamp: of the parts."""
    text, number = pa.string(), pa.int32()
    columns = [("key", text), ("shard", number), ("row", number), ("caption", text)]
    schema = pa.schema(columns, metadata={STAMP: stamp})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard, part in enumerate(parts):
            with opened(part) as (file, _):
                table = file.read(columns=["key", "caption"])
            places = [np.full(len(table), shard, np.int32), np.arange(len(table), dtype=np.int32)]
            writer.write_table(pa.table([table["key"], *places, table["caption"]], schema=schema))


class IndexKeys:
    """Key, shard, row and caption by index id, of which only what is asked for is read."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file, metadata = file, file.metadata
        self.stamp = (file.schema_arrow.metadata or {}).get(STAMP.encode(), b"").decode()
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of some ids, in their order: of each part that one is in, the map is read."""
        groups = np.searchsorted(self._ends, ids, side="right").tolist()
        tables = {group: self._file.read_row_group(group, columns=list(KEY_COLUMNS)) for group in set(groups)}
        starts = [0, *self._ends.tolist()]
        return [
            dict(tables[group].slice(int(i) - starts[group], 1).to_pylist()[0])
            for i, group in zip(ids, groups, strict=True)
        ]


def search(folder: Path, queries: Floats, k: int) -> tuple[IndexKeys, NDArray[np.int64], Floats]:
    """The key map, and of each unit query (Q, D) the ids (Q, k) of the nearest images and their cosines.

    Product codes are refined from `parts/*.parquet` beside the index.

    Raises: ValueError when the folder holds no index, or as `open_with_keys`.
    """
    index, keys = open_with_keys(folder)
    ids, cosines = find(index, sorted((folder / "parts").glob("??????.parquet")), queries, k)
    return keys, ids, cosines


def open_with_keys(folder: Path) -> tuple[Any, IndexKeys]:
    """An index and its key map, opened while neither was replaced.

    Raises: ValueError when the key map lacks a column, or is another index's and stays so.
    """
    until = time.monotonic() + REPLACED_S
    while True:
        before = written(folder)
        index, said = open_index(folder), record_or_none(folder / "index.json")
        file = pq.ParquetFile(folder / "keys.parquet")
        if lacking := [name for name in KEY_COLUMNS if name not in file.schema_arrow.names]:
            raise ValueError(f"{folder}/keys.parquet is damaged: it has no column {', '.join(lacking)}")
        keys = IndexKeys(file)
        if written(folder) != before:
            continue
        is_alike = said is None or said.get(STAMP, "") == keys.stamp
        if index.ntotal == len(keys) and is_alike:
            return index, keys
        if time.monotonic() > until:
            sizes = f"keys.parquet ({len(keys)} rows) is not of index.faiss ({index.ntotal} rows)"
            raise ValueError(f"{folder}: {sizes}: the run that replaced them did not end, run it again")


def written(folder: Path) -> list[tuple[int, int] | None]:
    """What changes when an index or its key map is replaced."""
    stats = [path.stat() if path.is_file() else None for path in (folder / name for name in REPLACED)]
    return [stat and (stat.st_ino, stat.st_mtime_ns) for stat in stats]
