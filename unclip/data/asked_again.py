"""Rows of a fetched shard that were refused for a passing reason, asked for again: those that come join the others."""

import heapq
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.config import DownloadConfig
from unclip.data.download import download
from unclip.data.fates import UNFINISHED, may_pass
from unclip.data.rows import OK, Row, read_rows, refusals, write_rows
from unclip.data.shards import Sample, ShardReader, write_in_order
from unclip.data.urls import PAIRS_SCHEMA

NOT_ASKED = "not asked"  # a row that has its fate already; it is nobody's status in the end


def ask_again(place: Path, aside: Path, shard: int, how: DownloadConfig) -> dict[str, Any] | None:
    """Writes into `aside` what the shard in `place` is once its rows that may pass are fetched again; its counts.

    None where every row has the fate that it had: `aside` is then of no use.
    """
    before = read_rows(place / "rows.parquet")
    is_asked = [may_pass(row.status) for row in before]
    shutil.rmtree(aside, ignore_errors=True)
    if not any(is_asked):
        return None
    aside.mkdir()
    write_asked(place / "pairs.parquet", is_asked, aside / "pairs.parquet")
    gateless = replace(how, min_success_fraction=0)  # rows that failed once mostly fail again
    download(aside / "pairs.parquet", shard, gateless, aside, lambda *a, **k: None)
    now = read_rows(aside / "rows.parquet")
    rows = last_fates(before, now, is_asked)
    if [row.status for row in rows] == [row.status for row in before]:
        return None
    return join(place, aside, rows)


def write_asked(pairs: Path, is_asked: list[bool], out: Path) -> None:
    """The pairs of a shard, those that are not asked for refused."""
    table = pq.read_table(pairs)
    refused = pa.array([None if asked else NOT_ASKED for asked in is_asked], pa.string())
    place = table.schema.get_field_index("refused")
    pq.write_table(table.set_column(place, PAIRS_SCHEMA.field("refused"), refused), out)


def last_fates(before: list[Row], now: list[Row], is_asked: list[bool]) -> list[Row]:
    """What is known of every row by now; one that was not asked for after all keeps its refusal."""
    rows = zip(before, now, is_asked, strict=True)
    return [new if asked and new.status != UNFINISHED else old for old, new, asked in rows]


def join(place: Path, aside: Path, rows: list[Row]) -> dict[str, Any]:
    """Makes of what came in `aside` and what is in `place` one shard in `aside`; its counts."""
    shards = [samples(ShardReader(folder / "shard.tar")) for folder in (place, aside)]
    write_in_order(aside / "joined.tar", heapq.merge(*shards, key=lambda sample: sample.key))
    os.replace(aside / "joined.tar", aside / "shard.tar")
    write_rows(aside / "rows.parquet", rows)
    shutil.copyfile(place / "pairs.parquet", aside / "pairs.parquet")
    refused = refusals(row.status for row in rows)
    return {"rows": len(rows), "kept": sum(row.status == OK for row in rows), "refused": refused}


def samples(shard: ShardReader) -> Iterator[Sample]:
    """The samples of a shard, one in memory at a time."""
    return (shard.sample(i) for i in range(len(shard)))
