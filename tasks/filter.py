"""The rows that pixels and captions let through, and their split."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tasks.context import Context
from unclip.data.filters import Selection, filter_rows, read_scores
from unclip.data.rows import OK


def build(ctx: Context) -> dict[str, Any]:
    """Write `kept.parquet`, `dropped.parquet` and `funnel.json`; the funnel begins with the rows of the source."""
    scores, shard = read_scores([artifact.path / "scores.parquet" for artifact in ctx.inputs["score"]])
    selection = Selection.of(scores["key"].to_pylist(), shard)
    sources = [pq.read_table(a.path / "rows.parquet", columns=["status"])["status"] for a in ctx.inputs["shards"]]
    rows, refused = sum(map(len, sources)), sum(int(np.sum(s.to_numpy() != OK)) for s in sources)
    selection.funnel.append({"step": "refused", "rows_in": rows, "dropped": refused, "rows_out": rows - refused})
    kept = filter_rows(ctx.config, scores, selection)
    pq.write_table(kept, ctx.out / "kept.parquet", compression="zstd")
    selection.write_dropped(ctx.out / "dropped.parquet")
    (ctx.out / "funnel.json").write_text(json.dumps(selection.funnel, indent=1) + "\n")
    splits = kept["split"].to_pylist()
    counts = {name: splits.count(name) for name in ("train", "validation", "test")}
    return {"rows": rows, "kept": len(kept), "refused": selection.refused(), **counts}
