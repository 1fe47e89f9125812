"""The rows that embeddings let through."""

import json
from typing import Any

import pyarrow.parquet as pq

from tasks.context import Context
from unclip.data.select import Candidates, kept_table, select_rows


def build(ctx: Context) -> dict[str, Any]:
    """Write `kept.parquet`, `dropped.parquet` and `funnel.json`."""
    parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
    rows = Candidates(parts, ctx.one("filter").path / "kept.parquet", ctx.cache)
    selection = select_rows(ctx.config, rows)
    kept = kept_table(rows, selection)
    pq.write_table(kept, ctx.out / "kept.parquet", compression="zstd")
    selection.write_dropped(ctx.out / "dropped.parquet")
    (ctx.out / "funnel.json").write_text(json.dumps(selection.funnel, indent=1) + "\n")
    splits = kept["split"].to_pylist()
    counts = {name: splits.count(name) for name in ("train", "validation", "test")}
    near = {"near_duplicates": rows.near_duplicates} if rows.near_duplicates else {}
    return {"rows": len(rows.keys), "kept": len(kept), "refused": selection.refused(), **counts, **near}
