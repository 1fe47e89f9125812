"""Refused rows of a URL list, fetched again as further shards with the sample ids that they had.

`unclip retry` writes a file a shard: its pairs, the shard where each was refused, how it is to be fetched, and by what
the refusal is known. A row is fetched only while its refusal stands: once the shard it came from is another (the list,
the settings or the code changed, or it was removed), that shard is fetched again as a whole, and this row with it.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unclip.data.config import RetryConfig
from unclip.data.urls import MORE, PAIRS_SCHEMA, write_table

FIRST = 900_000  # the number of the first such shard: after those of any list, which may still grow
ABOUT = b"unclip.retry"
COLUMNS = ["url", "caption", "sample_id", "status"]


class Origin(NamedTuple):
    """What a retry knows of a shard that refused rows: `token` names that refusal, `digest` its rows."""

    token: str
    digest: str
    statuses: dict[str, int]  # how many rows it refused for each reason


@dataclass(frozen=True, kw_only=True)
class Retry:
    """One shard of rows to be fetched again; `settings` replace some of the pipeline's `download` section."""

    path: Path
    shard: int
    settings: dict[str, Any]
    origins: dict[int, Origin]

    def standing(self, tokens: Mapping[int, str | None]) -> tuple[int, ...]:
        """The shards whose refusals stand, given what each shard's is known by now."""
        return tuple(shard for shard, origin in self.origins.items() if tokens.get(shard) == origin.token)

    def was(self, origins: Iterable[int]) -> Counter[str]:
        """Its rows of these origins by why they were refused."""
        return sum((Counter(self.origins[shard].statuses) for shard in origins), Counter())


def read_retries(folder: Path) -> list[Retry]:
    """The retries of a folder, in order; no rows are read."""
    return [read_retry(path) for path in sorted(folder.glob("*.parquet"))]


def read_retry(path: Path) -> Retry:
    """A retry without its rows."""
    about = json.loads(pq.read_schema(path).metadata[ABOUT])
    origins = {int(shard): Origin(*origin) for shard, origin in about["origins"].items()}
    return Retry(path=path, shard=int(path.stem), settings=about["settings"], origins=origins)


def retry_recipe(config: RetryConfig) -> dict[str, Any]:
    """The JSON-able values that decide the `pairs.parquet` of a retry."""
    retry = read_retry(Path(config.path))
    rows = {str(shard): retry.origins[shard].digest for shard in config.origins}
    return {"source": "retry", "shard": retry.shard, "rows": rows}


def write_retried(config: RetryConfig, path: Path) -> dict[str, int]:
    """Writes the pairs of a retry whose refusals stand as `pairs.parquet`; counts its rows."""
    table = pq.read_table(config.path)
    table = table.filter(pc.is_in(table["origin"], pa.array(config.origins, pa.int32())))
    retry = read_retry(Path(config.path))
    return write_table(table.drop_columns(["origin"]), retry.shard, path, dict(retry.was(config.origins)))


def refused_rows(
    parts: Mapping[int, Path], pairs: Mapping[int, Path], statuses: Iterable[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Shard and row of every pair whose last fate is one of these statuses.

    parts, pairs: `rows.parquet` and `pairs.parquet` of every shard by its number, in order, those of retries last.
    """
    last: dict[bytes, int] = {}  # the last shard of a row that was fetched again
    for shard, path in parts.items():
        if shard >= FIRST:
            ids = pq.read_table(path, columns=["sample_id"])["sample_id"].to_pylist()
            last |= dict.fromkeys(ids, shard)
    wanted = pa.array(sorted(statuses), pa.string())
    for shard, path in parts.items():
        table = pq.read_table(path, columns=COLUMNS)
        if MORE.name in pq.read_schema(pairs[shard]).names:
            table = table.append_column(MORE, pq.read_table(pairs[shard], columns=[MORE.name])[MORE.name])
        for row in table.filter(pc.is_in(table["status"], wanted)).to_pylist():
            if last.get(row["sample_id"], shard) == shard:
                yield shard, row


def write_retry(
    folder: Path, rows: list[tuple[int, dict[str, Any]]], tokens: Mapping[int, str], settings: dict[str, Any]
) -> Retry:
    """One further shard of the folder, of (shard, row) as `refused_rows` gives them; complete once it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    origins, by_shard = {}, dict[int, list[dict[str, Any]]]()
    for shard, row in rows:
        by_shard.setdefault(shard, []).append(row)
    for shard, own in sorted(by_shard.items()):
        said = [[row[name] for name in ("url", "caption", MORE.name) if name in row] for row in own]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        origins[shard] = Origin(tokens[shard], digest, dict(Counter(row["status"] for row in own)))
    pairs = [{**row, "refused": None, "detail": "", "origin": origin} for origin, row in rows]
    schema = PAIRS_SCHEMA.append(MORE) if MORE.name in rows[0][1] else PAIRS_SCHEMA
    schema = schema.append(pa.field("origin", pa.int32(), nullable=False))
    about = json.dumps({"settings": settings, "origins": origins})
    aside = folder / f".{uuid4().hex}"
    try:
        pq.write_table(pa.Table.from_pylist(pairs, schema).replace_schema_metadata({ABOUT: about}), aside)
        path = _link(aside, folder)
    finally:
        aside.unlink(missing_ok=True)
    return Retry(path=path, shard=int(path.stem), settings=settings, origins=origins)


def _link(whole: Path, folder: Path) -> Path:
    """The file under the first number of the folder that nobody has taken, whoever else writes there."""
    number = max((int(path.stem) for path in folder.glob("*.parquet")), default=FIRST - 1) + 1
    while True:
        try:
            os.link(whole, path := folder / f"{number}.parquet")
        except FileExistsError:
            number += 1
        else:
            return path
