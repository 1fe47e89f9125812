"""Every row that a source refused or a policy dropped: the reason, its file and caption, and what it was near to."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unclip.artifact import Artifact
from unclip.data.funnel import asked_again
from unclip.data.rows import OK
from unclip.data.urls import REFUSALS

BATCH_ROWS = 10_000
FOREIGN = "evaluation_"  # what a reason begins with that names a row of another evaluation set


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
        return None if self.reason.startswith(FOREIGN) else self.near

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
    num_retries: int = 0  # of the shards, how many at the end hold rows of those before, asked again

    @classmethod
    def of(cls, shards: Sequence[Artifact], dropped: Mapping[str, Path]) -> "Losses":
        """The losses of these shards and stages."""
        source, num_retries = shards[0].kind if shards else "source", sum(bool(asked_again(one)) for one in shards)
        return cls(source=source, shards=[one.path for one in shards], dropped=dropped, num_retries=num_retries)

    def rows(self, reason: str | None = None) -> Iterator[Dropped]:
        """Every lost row, or those lost for one reason: of the source by shard, then of each stage by key."""
        near = {key for path in self.dropped.values() for key in near_keys(path, reason)}
        yield from self._named(self._lost(reason), near)

    def samples(self, num: int, seed: int, reason: str | None = None) -> dict[tuple[str, str], list[Dropped]]:
        """Up to `num` rows of each stage and reason, drawn by `seed`."""
        drawn = draw(self._lost(reason), num, seed)
        near = {row.near_ours for some in drawn.values() for row in some if row.near_ours}
        return {name: list(self._named(some, near)) for name, some in drawn.items()}

    def _lost(self, reason: str | None) -> Iterator[Dropped]:
        """The rows without what only the source's own table says: file and caption."""
        last = self._last_shards()
        for number, folder in enumerate(self.shards):
            table = pq.read_table(folder / "rows.parquet", columns=["url", "caption", "status", "detail", "sample_id"])
            for row in of_reason(table.filter(pc.not_equal(table["status"], OK)), "status", reason).to_pylist():
                if row["status"] not in REFUSALS and last.get(row["sample_id"], number) != number:
                    continue
                why = {"reason": row["status"], "detail": row["detail"], "file": row["url"], "caption": row["caption"]}
                yield Dropped(stage=self.source, shard=number, key=None, **why)
        for stage, path in self.dropped.items():
            for batch in of_reason(pq.read_table(path), "reason", reason).to_batches(BATCH_ROWS):
                yield from (Dropped(stage=stage, file=None, caption="", **row) for row in batch.to_pylist())

    def _last_shards(self) -> dict[bytes, int]:
        """The last shard of each row that was asked again: only its fate there counts."""
        last: dict[bytes, int] = {}
        for number in range(len(self.shards) - self.num_retries, len(self.shards)):
            ids = pq.read_table(self.shards[number] / "rows.parquet", columns=["sample_id"])["sample_id"]
            last |= dict.fromkeys(ids.to_pylist(), number)
        return last

    def _named(self, rows: Iterable[Dropped], near: set[str]) -> Iterator[Dropped]:
        """The rows with their files and captions, and with the files of those they were near to."""
        files: dict[str, str | None] = {}
        for table in map(self._table, range(len(self.shards)) if near else ()):
            found = table.filter(pc.is_in(table["key"], pa.array(sorted(near), pa.string())))
            files |= zip(found["key"].to_pylist(), found["url"].to_pylist(), strict=True)
        own: dict[str, tuple[str | None, str]] = {}
        shard = None
        for row in rows:
            if row.key is not None and row.shard != shard:
                shard, columns = row.shard, self._table(row.shard).to_pydict()
                own = dict(zip(columns["key"], zip(columns["url"], columns["caption"], strict=True), strict=True))
            file, caption = (row.file, row.caption) if row.key is None else own[row.key]
            yield replace(row, file=file, caption=caption, near_file=files.get(row.near_ours or ""))

    def _table(self, shard: int) -> pa.Table:
        """Key, file and caption of a shard's samples."""
        table = pq.read_table(self.shards[shard] / "rows.parquet", columns=["key", "url", "caption"])
        return table.filter(pc.is_valid(table["key"]))


def near_keys(path: Path, reason: str | None) -> list[str]:
    """The keys of rows of ours that rows of a `dropped.parquet` were too near to."""
    table = of_reason(pq.read_table(path, columns=["reason", "near"]), "reason", reason)
    ours = pc.and_(pc.is_valid(table["near"]), pc.invert(pc.starts_with(table["reason"], FOREIGN)))
    keys: list[str] = table["near"].filter(ours).unique().to_pylist()
    return keys


def of_reason(table: pa.Table, column: str, reason: str | None) -> pa.Table:
    """The rows of one reason, or all."""
    return table if reason is None else table.filter(pc.equal(table[column], reason))


def draw(rows: Iterable[Dropped], num: int, seed: int) -> dict[tuple[str, str], list[Dropped]]:
    """Up to `num` rows of each stage and reason, drawn by `seed` whatever the order, in the order they came in."""
    drawn: dict[tuple[str, str], list[tuple[int, int, Dropped]]] = {}
    for number, row in enumerate(rows):
        name = f"{seed}\0{row.key}\0{row.file}\0{row.caption}".encode()
        place = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
        heap = drawn.setdefault((row.stage, row.reason), [])
        (heapq.heappush if len(heap) < num else heapq.heappushpop)(heap, (-place, -number, row))
    return {name: [row for _, _, row in sorted(heap, key=lambda item: -item[1])] for name, heap in drawn.items()}
