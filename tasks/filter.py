"""The rows that pixels and captions let through, and their split."""

from collections import Counter
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.context import Context
from unclip.data.filters import KEPT_SCHEMA, filter_rows
from unclip.data.funnel import Step, asked_again, source_steps
from unclip.data.rows import OK
from unclip.data.scores import read_scores
from unclip.data.selection import write_kept


def build(ctx: Context) -> dict[str, Any]:
    """Write `kept.parquet`, `dropped.parquet` and `funnel.json`; the funnel begins with the rows of the source."""
    scores = read_scores(artifact.path / "scores.parquet" for artifact in ctx.inputs["score"])
    selection, kept = filter_rows(ctx.config, scores, refused_steps(ctx), ctx.cache)
    counts = write_kept(ctx.out / "kept.parquet", kept, KEPT_SCHEMA)
    return {"rows": selection.funnel[0].rows_in, **counts, **selection.write(ctx.out)}


def refused_steps(ctx: Context) -> list[Step]:
    """What the source, or the download, refused in the end: a row that was asked again counts for its last fate."""
    fates: Counter[str] = Counter()
    for artifact in ctx.inputs["shards"]:
        status = pq.read_table(artifact.path / "rows.parquet", columns=["status"])["status"]
        fates.update({entry["values"]: entry["counts"] for entry in pc.value_counts(status).to_pylist()})
        fates.subtract(asked_again(artifact))
    return source_steps(ctx.inputs["shards"][0].kind, +fates, OK)
