"""One part of a dump against the contract: its vectors, its keys, and the fate of every row of its source.

N rows, D dimensions. One batch of rows is in memory at a time.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.dump import rejects_path, rows_path
from unclip.data.dump_records import read_record
from unclip.data.index_files import KEY_COLUMNS
from unclip.data.problems import Problem, name_in, shown
from unclip.data.rows import OK
from unclip.data.table import Floats, TableInfo, matrix

BATCH_ROWS = 8_192
HALF_STEP, LEAST_STEP = 2.0**-11, 2.0**-25  # of float16: relative, and among its smallest numbers


@dataclass(frozen=True)
class SampledRow:
    """A row that is embedded again."""

    file: str
    part: int  # its number
    place: int  # among all rows of the table
    key: str
    caption: str
    stored: dict[str, Floats]  # "image", "text": (D,)
    tokens: list[int] | None  # of an imported row, unknown


class KeyMap:
    """`keys.parquet` read in step with the parts."""

    def __init__(self, dump: Path) -> None:
        self._problem: Problem | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None
        try:
            file = pq.ParquetFile(dump / "keys.parquet")
            if lacking := [name for name in KEY_COLUMNS if name not in file.schema_arrow.names]:
                raise ValueError(f"it has no column {', '.join(lacking)}")
            self._batches = file.iter_batches(BATCH_ROWS, columns=list(KEY_COLUMNS))
        except (OSError, ValueError) as error:
            self._problem = Problem("keys.parquet", "table", f"refused: {error}", ", ".join(KEY_COLUMNS))

    def take(self, count: int) -> pa.Table | None:
        """The next rows; None where the file cannot be read. Fewer at its end."""
        while self._problem is None and (self._rest is None or len(self._rest) < count):
            batch = next(self._batches, None)
            if batch is None:
                break
            tables = [pa.Table.from_batches([batch])]
            self._rest = pa.concat_tables(([self._rest] if self._rest is not None else []) + tables)
        if self._rest is None:
            return None
        taken, self._rest = self._rest.slice(0, count), self._rest.slice(count)
        return taken

    def left(self) -> Iterator[Problem]:
        """What is wrong with the file as a whole, once all parts took their rows."""
        if self._problem is not None:
            yield self._problem
        elif (rest := self.take(1)) is not None and len(rest):
            yield Problem("keys.parquet", "row", "of no part", "a row of a part", rest["key"][0].as_py())


def batches_of(part: Path) -> Iterator[pa.Table]:
    """The rows of a part, some at a time."""
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            yield pa.Table.from_batches([batch])


class PartCheck:
    """One part read once, batch by batch."""

    def __init__(self, dump: Path, part: Path, info: TableInfo, wanted: Collection[int], number: int) -> None:
        """number: of the part in the dump; wanted: its rows that are to be embedded again, gathered in `sampled`."""
        self.part, self.number, self.info, self.wanted = part, number, info, wanted
        self.dump, self.name = dump, name_in(dump, self.part)
        self.sampled: list[SampledRow] = []
        self.keys: set[str] = set()

    def problems(self, keys: KeyMap | None, before: int, last: str) -> Iterator[Problem]:
        """Everything wrong with the part's rows, its fates, and its rows of the key map.

        before: rows of the parts before it; last: the last of their keys. The part's own is in `last` afterwards.
        """
        self.last, start = last, 0
        try:
            fates = self._fates()
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            fates = None
            yield Problem(name_in(self.dump, rows_path(self.part)), "table", f"refused: {error}", "every row's fate")
        try:
            for table in batches_of(self.part):
                yield from self._order(table)
                yield from row_problems(self.name, self.info, table)
                yield from self._map_problems(table, start, keys.take(len(table)) if keys else None)
                yield from self._fate_problems(table, fates)
                self._sample(table, start, before)
                start += len(table)
        except (OSError, pa.ArrowInvalid) as error:
            yield Problem(self.name, "table", f"refused: {error}", "an embedding table")
            _ = keys.take(self.info.num_rows - start) if keys else None
        if fates is not None:
            yield from self._unaccounted(fates)

    def _order(self, table: pa.Table) -> Iterator[Problem]:
        for key in table["key"].to_pylist():
            if key <= self.last:
                yield Problem(self.name, "key", "out of order or twice", f"above {self.last}", key)
            elif not key.startswith(self.part.stem):
                yield Problem(self.name, "key", "of another part", f"{self.part.stem} and five digits", key)
            self.last = max(key, self.last)
            self.keys.add(key)

    def _fates(self) -> dict[str, dict[str, Any]]:
        """The rows of the part's source that were taken, by key."""
        columns = ["key", "status", "sample_id", "image_sha256", "caption"]
        rows = pq.read_table(rows_path(self.part), columns=columns).to_pylist()
        return {row["key"]: row for row in rows if row["status"] == OK}

    def _fate_problems(self, table: pa.Table, fates: dict[str, dict[str, Any]] | None) -> Iterator[Problem]:
        if fates is None:
            return
        fields = [name for name in ("sample_id", "image_sha256", "caption") if name in table.column_names]
        for row in table.select(["key", *fields]).to_pylist():
            if row["key"] not in fates:
                yield Problem(self.name, "key", "of no row of the source", "one that was taken", row["key"])
                continue
            for field in fields:
                said = fates[row["key"]][field]
                if row[field] != said:
                    yield Problem(self.name, field, shown(row[field]), f"{shown(said)}, as its row says", row["key"])

    def _map_problems(self, table: pa.Table, start: int, found: pa.Table | None) -> Iterator[Problem]:
        if found is None:
            return
        size = len(table)
        said = {
            "key": table["key"].to_pylist(),
            "shard": [self.number] * size,
            "row": list(range(start, start + size)),
            "caption": table["caption"].to_pylist(),
        }
        for field, values in said.items():
            there = found[field].to_pylist()
            for key, value, other in zip(said["key"], values, there + [None] * (size - len(there)), strict=True):
                if value != other:
                    yield Problem("keys.parquet", field, shown(other), f"{shown(value)}, as {self.name} has", key)

    def _sample(self, table: pa.Table, start: int, before: int) -> None:
        for row in sorted(row for row in self.wanted if start <= row < start + len(table)):
            one = table.slice(row - start, 1)
            stored = {
                kind: matrix(one[f"{kind}_embedding"], self.info.dimension)[0].astype(np.float32)
                for kind in ("image", "text")
            }
            key, caption = one["key"][0].as_py(), one["caption"][0].as_py()
            tokens = one["tokens"][0].as_py() if "tokens" in one.column_names else None
            self.sampled.append(SampledRow(self.name, self.number, before + row, key, caption, stored, tokens))

    def _unaccounted(self, fates: dict[str, dict[str, Any]]) -> Iterator[Problem]:
        """Rows of the source that are neither embedded nor rejected, or both."""
        rows, rejects = rows_path(self.part), rejects_path(self.part)
        try:
            rejected = set(pq.read_table(rejects, columns=["key"])["key"].to_pylist())
            num_rows = pq.read_metadata(rows).num_rows
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            yield Problem(name_in(self.dump, rejects), "table", f"refused: {error}", "key, reason, detail of each")
            return
        for key in sorted(set(fates) - self.keys - rejected):
            yield Problem(name_in(self.dump, rows), "row", "neither embedded nor rejected", "one of the two", key)
        for key in sorted(rejected & self.keys):
            yield Problem(name_in(self.dump, rejects), "row", "embedded as well", "not in the part", key)
        for key in sorted(rejected - set(fates)):
            yield Problem(name_in(self.dump, rejects), "key", "of no row of the source", "one that was taken", key)
        record = self.part.with_suffix(".json")
        try:
            said = read_record(record, "source")["source"]["rows"]
        except ValueError as error:
            yield Problem(name_in(self.dump, record), "record", f"refused: {error}", "written when a part is whole")
            return
        if said != num_rows:
            yield Problem(name_in(self.dump, record), "rows", str(said), f"{num_rows}, as {rows.name} has")


def row_problems(name: str, info: TableInfo, table: pa.Table) -> Iterator[Problem]:
    """Vectors that are zero or not finite, norms and scores that are not those of the vectors."""
    keys, norms, slack, wide = table["key"], {}, {}, {}
    for kind in ("image", "text"):
        wide[kind] = matrix(table[f"{kind}_embedding"], info.dimension).astype(np.float32)
        norm = norms[kind] = np.sqrt(np.einsum("nd,nd->n", wide[kind], wide[kind]))
        is_bad = ~np.isfinite(norm) | (norm == 0)
        norm[is_bad] = np.nan
        slack[kind] = HALF_STEP + 1e-5 + np.sqrt(info.dimension) * LEAST_STEP / norm  # relative
        for i in np.flatnonzero(is_bad):
            yield Problem(name, f"{kind}_embedding", "zero or not finite", "a finite vector, not zero", keys[i].as_py())
        if f"{kind}_norm" not in table.column_names:  # of an imported part
            continue
        stored = table[f"{kind}_norm"].to_numpy()
        for i in np.flatnonzero(~is_bad & ~(np.abs(stored - norm) <= slack[kind] * norm)):
            allowed = f"{norm[i]:.6g} to {slack[kind][i]:.2%}, as the vector has"
            yield Problem(name, f"{kind}_norm", f"{stored[i]:.6g}", allowed, keys[i].as_py())
    with np.errstate(invalid="ignore"):
        cosine = np.einsum("nd,nd->n", wide["image"], wide["text"]) / (norms["image"] * norms["text"])
    score = table["clip_score"].to_numpy()
    for i in np.flatnonzero(np.isfinite(cosine) & ~(np.abs(score - cosine) <= slack["image"] + slack["text"])):
        allowed = f"{cosine[i]:.5f} to {slack['image'][i] + slack['text'][i]:.5f}, the cosine of the vectors"
        yield Problem(name, "clip_score", f"{score[i]:.5f}", allowed, keys[i].as_py())
