"""Rows on their way through a policy: which are still in, and of each that is not, the reason."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.funnel import Step, write_funnel

Mask = NDArray[np.bool_]
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("near", pa.string()),  # the key of the row that it was too near to, where there is one
    ]
)


@dataclass
class Selection:
    """Rows on their way through a policy, and the steps behind them: those of earlier stages too."""

    stage: str
    keys: pa.Array  # of strings
    shard: NDArray[np.int32]
    kept: Mask
    funnel: list[Step] = field(default_factory=list)
    dropped: list[pa.Table] = field(default_factory=list)  # of this stage, a table a step

    @classmethod
    def of(cls, stage: str, keys: pa.Array, shard: NDArray[np.int32], before: Iterable[Step] = ()) -> "Selection":
        """All rows, none dropped. before: the funnel that led to them."""
        return cls(stage=stage, keys=keys, shard=shard, kept=np.ones(len(keys), bool), funnel=list(before))

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.keys[row].as_py())

    def drop(
        self, reason: str, bad: Mask, detail: Callable[[int], str], near: Callable[[int], str] | None = None
    ) -> None:
        """Drop the rows marked bad that are still in.

        detail: what was found of a row; near: the key of the row that it was too near to.
        """
        before, rows = int(self.kept.sum()), np.flatnonzero(self.kept & bad)
        columns = {
            "key": self.keys.take(pa.array(rows)),
            "shard": pa.array(self.shard[rows], pa.int32()),
            "reason": pa.array([reason] * len(rows), pa.string()),
            "detail": pa.array((detail(int(i)) for i in rows), pa.string()),
            "near": pa.array((near(int(i)) if near else None for i in rows), pa.string()),
        }
        self.dropped.append(pa.table(columns, schema=DROPPED_SCHEMA))
        self.kept[rows] = False
        self.funnel.append(Step(stage=self.stage, reason=reason, rows_in=before, dropped=len(rows)))

    def refused(self) -> dict[str, int]:
        """How many rows this stage dropped, by reason."""
        steps = (step for step in self.funnel if step.stage == self.stage and step.dropped)
        return {step.reason: step.dropped for step in sorted(steps, key=lambda step: step.reason)}

    @classmethod
    def joined(cls, parts: Sequence["Selection"], before: Iterable[Step]) -> "Selection":
        """The rows of several selections by the same policy as one, none of them there twice."""
        steps = (
            Step(
                stage=some[0].stage,
                reason=some[0].reason,
                rows_in=sum(step.rows_in for step in some),
                dropped=sum(step.dropped for step in some),
            )
            for some in zip(*(part.funnel for part in parts), strict=True)
        )
        return cls(
            stage=parts[0].stage,
            keys=pa.concat_arrays([part.keys for part in parts]),
            shard=np.concatenate([part.shard for part in parts]),
            kept=np.concatenate([part.kept for part in parts]),
            funnel=[*before, *steps],
            dropped=[table for part in parts for table in part.dropped if len(table)],
        )

    def dropped_rows(self) -> pa.Table:
        """The rows that this stage dropped, sorted by key."""
        return pa.concat_tables([DROPPED_SCHEMA.empty_table(), *self.dropped]).sort_by("key")

    def write(self, out: Path) -> dict[str, Any]:
        """Write `dropped.parquet` and `funnel.json`, which begins with the rows of the source; the counts of both."""
        pq.write_table(self.dropped_rows(), out / "dropped.parquet", compression="zstd")
        write_funnel(out / "funnel.json", self.funnel)
        return {"refused": self.refused()}
