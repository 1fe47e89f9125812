"""The rows that embeddings let through."""

from pathlib import Path
from typing import Any

from tasks.context import Context
from unclip.data.candidates import Candidates
from unclip.data.config import SelectConfig
from unclip.data.evaluation_set import read_evaluation_set
from unclip.data.funnel import read_funnel
from unclip.data.select import KEPT_SCHEMA, kept_tables, select_rows
from unclip.data.selection import write_kept
from unclip.data.source_plan import EVALUATION_FILES, require_same_folder


def build(ctx: Context) -> dict[str, Any]:
    """Write `kept.parquet`, `dropped.parquet` and `funnel.json`, which begins with the rows of the source."""
    config: SelectConfig = ctx.config
    parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
    aesthetic = [artifact.path / "aesthetic.parquet" for artifact in ctx.inputs.get("aesthetic", ())]
    filtered = ctx.one("filter").path
    rows = Candidates(parts, filtered / "kept.parquet", aesthetic=aesthetic, work=ctx.cache)
    evaluation = read_evaluation_set(Path(config.evaluation), parts[0]) if config.evaluation else None
    selection = select_rows(config, rows, read_funnel(filtered / "funnel.json"), evaluation)
    if ctx.planned and config.evaluation:
        require_same_folder(config.evaluation, "select.evaluation", EVALUATION_FILES, ctx.planned["evaluation"])
    counts = write_kept(ctx.out / "kept.parquet", kept_tables(rows, selection), KEPT_SCHEMA)
    return {"rows": len(rows), **counts, **rows.figures, **selection.write(ctx.out)}
