"""Every row that a source refused or a policy dropped: the reason, its file and caption, and what it was near to."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unclip.data.rows import OK


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """One row that is not among those kept."""

    stage: str
    reason: str
    detail: str
    shard: int
    key: str | None  # None of a row that the source refused: it has no sample
    file: str | None  # or address
    caption: str
    near: str | None = None  # the key of what it was too near to
    near_file: str | None = None

    @property
    def near_ours(self) -> str | None:
        """The key of what it was too near to where that is a row of ours, not of another evaluation set."""
        return None if self.reason.startswith("evaluation_") else self.near

    @property
    def said(self) -> str:
        """The detail as a person reads it: with the file in the place of the other row's key, without its own."""
        text = self.detail.replace(self.near, self.near_file) if self.near and self.near_file else self.detail
        return text.removeprefix(self.file or "").removeprefix(": ")

    def as_dict(self) -> dict[str, str | int | None]:
        """The row as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Where a pipeline's losses stand: the folders of its shards in order, and `dropped.parquet` of later stages."""

    source: str  # the stage that made the shards
    shards: Sequence[Path]
    dropped: Mapping[str, Path]  # by stage

    def rows(self, reason: str | None = None) -> Iterator[Dropped]:
        """Every lost row, or those lost for one reason: of the source by shard, then of each stage by key."""
        tables = {stage: of_reason(pq.read_table(path), "reason", reason) for stage, path in self.dropped.items()}
        wanted = {key for t in tables.values() for name in ("key", "near") for key in t[name].to_pylist() if key}
        known: dict[str, tuple[str | None, str]] = {}  # file and caption
        for number, folder in enumerate(self.shards):
            table = pq.read_table(folder / "rows.parquet", columns=["key", "url", "caption", "status", "detail"])
            yield from self._refused(
                number, of_reason(table.filter(pc.not_equal(table["status"], OK)), "status", reason)
            )
            kept = table.filter(pc.is_in(table["key"], pa.array(sorted(wanted), pa.string()))).to_pylist()
            known |= {row["key"]: (row["url"], row["caption"]) for row in kept}
        for stage, table in tables.items():
            for row in table.to_pylist():
                file, caption = known.get(row["key"], (None, ""))
                lost = Dropped(stage=stage, file=file, caption=caption, **row)
                near_file, _ = known.get(lost.near_ours or "", (None, ""))
                yield replace(lost, near_file=near_file)

    def _refused(self, shard: int, table: pa.Table) -> Iterator[Dropped]:
        for row in table.to_pylist():
            yield Dropped(
                stage=self.source,
                reason=row["status"],
                detail=row["detail"],
                shard=shard,
                key=None,
                file=row["url"],
                caption=row["caption"],
            )


def of_reason(table: pa.Table, column: str, reason: str | None) -> pa.Table:
    """The rows of one reason, or all."""
    return table if reason is None else table.filter(pc.equal(table[column], reason))


def samples(rows: Iterable[Dropped], num: int, seed: int) -> dict[tuple[str, str], list[Dropped]]:
    """Up to `num` rows of each stage and reason, drawn by `seed` whatever the order, in the order they came in."""
    drawn: dict[tuple[str, str], list[tuple[int, int, Dropped]]] = {}
    for number, row in enumerate(rows):
        name = f"{seed}\0{row.key}\0{row.file}\0{row.caption}".encode()
        place = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
        heap = drawn.setdefault((row.stage, row.reason), [])
        (heapq.heappush if len(heap) < num else heapq.heappushpop)(heap, (-place, -number, row))
    return {name: [row for _, _, row in sorted(heap, key=lambda item: -item[1])] for name, heap in drawn.items()}
