"""Rows on their way through a policy: which are still in, and of each that is not, the reason.

Of each row one byte is in memory, and numbers of BLOCK_ROWS at a time; all else is in files for a while.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.dense import SPLITS
from unclip.data.funnel import Step, write_funnel
from unclip.data.groups import Groups, Indices, Mask
from unclip.data.scratch import Column, Texts, blocks, filled

DROPPED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("near", pa.string()),  # the key of the row that it was too near to, where there is one
    ]
)


class Record:
    """What was dropped and why, in the order in which it was."""

    def __init__(self, work: Path | None = None) -> None:
        """work: a folder for a while."""
        self.work, self._reasons = work, list[str]()
        self._row, self._reason = Column(np.int64, work), Column(np.int32, work)
        self._detail, self._near = Texts(work), Texts(work)

    def add(self, rows: Indices, reason: str, details: Sequence[str], nears: Sequence[str]) -> None:
        """Note that rows were dropped. details, nears: of each; "" where it was near to none."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._row.append(rows)
        self._reason.append(np.full(len(rows), self._reasons.index(reason)))
        self._detail.append(details)
        self._near.append(nears)

    def tables(self, keys: pa.Array, shard: NDArray[np.int32]) -> Iterator[pa.Table]:
        """The rows dropped as tables of DROPPED_SCHEMA, in the order of all rows, whose keys and shards these are."""
        row, reason, detail, near = (c.array() for c in (self._row, self._reason, self._detail, self._near))
        place = filled(len(keys), -1, np.int64, self.work)
        for some in blocks(len(row)):
            place[row[some]] = np.arange(some.start, some.stop)
        for some in blocks(len(keys)):
            rows = some.start + np.flatnonzero(place[some] >= 0)
            mine = pa.array(place[rows])
            nears = near.take(mine)
            columns = {
                "key": keys.take(pa.array(rows)),
                "shard": pa.array(shard[rows], pa.int32()),
                "reason": pa.array(self._reasons, pa.string()).take(pa.array(reason[place[rows]])),
                "detail": detail.take(mine),
                "near": pc.if_else(pc.equal(nears, ""), None, nears),
            }
            yield pa.table(columns).cast(DROPPED_SCHEMA)


@dataclass
class Selection:
    """Rows on their way through a policy, and the steps behind them: those of earlier stages too."""

    stage: str
    keys: pa.Array  # of strings
    shard: NDArray[np.int32]  # ascending
    kept: Mask
    record: Record  # of this stage
    funnel: list[Step] = field(default_factory=list)
    first_row: int = 0  # what the record calls the first of these rows

    @classmethod
    def of(
        cls, stage: str, keys: pa.Array, shard: NDArray[np.int32], before: Iterable[Step] = (), work: Path | None = None
    ) -> "Selection":
        """All rows, none dropped. before: the funnel that led to them; work: a folder for a while."""
        kept = np.ones(len(keys), bool)
        return cls(stage=stage, keys=keys, shard=shard, kept=kept, record=Record(work), funnel=list(before))

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.keys[row].as_py())

    def drop(
        self, reason: str, bad: Mask, detail: Callable[[int], str], near: Callable[[int], str] | None = None
    ) -> None:
        """Drop the rows marked bad that are still in.

        detail: what was found of a row; near: the key of the row that it was too near to.
        """
        before = int(np.count_nonzero(self.kept))
        for block in blocks(len(self.keys)):
            rows = block.start + np.flatnonzero(self.kept[block] & bad[block])
            places = rows.tolist()
            nears = [near(place) if near else "" for place in places]
            self.record.add(self.first_row + rows, reason, [detail(place) for place in places], nears)
            self.kept[rows] = False
        dropped = before - int(np.count_nonzero(self.kept))
        self.funnel.append(Step(stage=self.stage, reason=reason, rows_in=before, dropped=dropped))

    def drop_others(self, reason: str, groups: Groups, best: Indices) -> None:
        """Drop the rows in groups but the best. best: of each row in a group, the one of it that is kept."""
        bad = np.zeros(len(self.keys), bool)
        bad[groups.rows[best != groups.rows]] = True

        def near(row: int) -> str:
            return self.key(int(best[bisect_left(groups.rows, row)]))

        self.drop(reason, bad, lambda i: f"of {near(i)}", near)

    def refused(self) -> dict[str, int]:
        """How many rows this stage dropped, by reason."""
        steps = (step for step in self.funnel if step.stage == self.stage and step.dropped)
        return {step.reason: step.dropped for step in sorted(steps, key=lambda step: step.reason)}

    def dropped(self) -> Iterator[pa.Table]:
        """The rows that this stage dropped, in the order of all rows."""
        return self.record.tables(self.keys, self.shard)

    def write(self, out: Path) -> dict[str, Any]:
        """Write `dropped.parquet` and `funnel.json`, which begins with the rows of the source; the counts of both."""
        write_tables(out / "dropped.parquet", self.dropped(), DROPPED_SCHEMA)
        write_funnel(out / "funnel.json", self.funnel)
        return {"refused": self.refused()}


def added(funnels: Sequence[Sequence[Step]]) -> list[Step]:
    """The funnels of several parts by the same policy as one."""
    return [
        Step(
            stage=some[0].stage,
            reason=some[0].reason,
            rows_in=sum(step.rows_in for step in some),
            dropped=sum(step.dropped for step in some),
        )
        for some in zip(*funnels, strict=True)
    ]


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables one after the other as a Parquet file."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            if len(table):
                writer.write_table(table)


def write_kept(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> dict[str, int]:
    """Write the rows that are kept, with their splits; how many they are, and how many of each split."""
    counts = dict.fromkeys(("kept", *SPLITS), 0)

    def counted(table: pa.Table) -> pa.Table:
        counts["kept"] += len(table)
        for entry in pc.value_counts(table["split"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
        return table

    write_tables(path, map(counted, tables), schema)
    return counts
