"""The search index over the embedding table."""

from typing import Any

from tasks.context import Context
from unclip.data.index import build_index, write_index


def build(ctx: Context) -> dict[str, Any]:
    """Write `index.faiss` and `keys.parquet`; its kind, why, and its recall against exact search."""
    parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
    built = build_index(ctx.config, parts, ctx.seed)
    write_index(built, parts, ctx.out)
    return built.figures
