"""Rows on their way through a policy: which are still in; of each that is not, the reason; and the funnel of it all."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of a funnel: what a stage dropped for one reason of the rows that came to it."""

    stage: str
    reason: str
    rows_in: int
    dropped: int

    @property
    def rows_out(self) -> int:
        """The rows that go on."""
        return self.rows_in - self.dropped

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {**asdict(self), "rows_out": self.rows_out}


@dataclass
class Selection:
    """Rows on their way through a policy, and the steps behind them: those of earlier stages too."""

    stage: str
    keys: list[str]
    shard: NDArray[np.int32]
    kept: Mask
    funnel: list[Step] = field(default_factory=list)
    dropped: list[pa.Table] = field(default_factory=list)  # of this stage, a table a step

    @classmethod
    def of(cls, stage: str, keys: list[str], shard: NDArray[np.int32], before: Iterable[Step] = ()) -> "Selection":
        """All rows, none dropped. before: the funnel that led to them."""
        return cls(stage=stage, keys=keys, shard=shard, kept=np.ones(len(keys), bool), funnel=list(before))

    def drop(
        self, reason: str, bad: Mask, detail: Callable[[int], str], near: Callable[[int], str] | None = None
    ) -> None:
        """Drop the rows marked bad that are still in.

        detail: what was found of a row; near: the key of the row that it was too near to.
        """
        before, rows = int(self.kept.sum()), np.flatnonzero(self.kept & bad)
        columns = {
            "key": pa.array([self.keys[i] for i in rows], pa.string()),
            "shard": pa.array(self.shard[rows], pa.int32()),
            "reason": pa.array([reason] * len(rows), pa.string()),
            "detail": pa.array([detail(int(i)) for i in rows], pa.string()),
            "near": pa.array([near(int(i)) if near else None for i in rows], pa.string()),
        }
        self.dropped.append(pa.table(columns, schema=DROPPED_SCHEMA))
        self.kept[rows] = False
        self.funnel.append(Step(stage=self.stage, reason=reason, rows_in=before, dropped=len(rows)))

    def refused(self) -> dict[str, int]:
        """How many rows this stage dropped, by reason."""
        steps = (step for step in self.funnel if step.stage == self.stage and step.dropped)
        return {step.reason: step.dropped for step in sorted(steps, key=lambda step: step.reason)}

    def dropped_rows(self) -> pa.Table:
        """The rows that this stage dropped, sorted by key."""
        return pa.concat_tables([DROPPED_SCHEMA.empty_table(), *self.dropped]).sort_by("key")

    def write(self, out: Path) -> dict[str, Any]:
        """Write `dropped.parquet` and `funnel.json`, which begins with the rows of the source; the counts of both."""
        pq.write_table(self.dropped_rows(), out / "dropped.parquet", compression="zstd")
        lines = ",\n ".join(json.dumps(step.as_dict()) for step in self.funnel)
        (out / "funnel.json").write_text(f"[{lines}]\n")
        return {"refused": self.refused(), "funnel": by_stage(self.funnel)}


def source_steps(stage: str, fates: Mapping[str, int], kept: str) -> list[Step]:
    """The refusals of a source as steps, the most frequent first.

    fates: rows by status; kept: the status of the rows that go on.
    """
    left, steps = sum(fates.values()), []
    for reason, count in sorted(fates.items(), key=lambda item: (-item[1], item[0])):
        if reason != kept:
            steps.append(Step(stage=stage, reason=reason, rows_in=left, dropped=count))
            left -= count
    return steps


def read_funnel(path: Path) -> list[Step]:
    """The steps in a `funnel.json`."""
    names = ("stage", "reason", "rows_in", "dropped")
    return [Step(**{name: line[name] for name in names}) for line in json.loads(path.read_text())]


def by_stage(steps: Iterable[Step]) -> dict[str, dict[str, int]]:
    """How many rows each stage dropped for each reason."""
    counts: dict[str, dict[str, int]] = {}
    for step in steps:
        counts.setdefault(step.stage, {})[step.reason] = step.dropped
    return counts
