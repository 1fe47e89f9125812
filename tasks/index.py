"""The search index over the embedding table."""

from typing import Any

from tasks.context import Context
from unclip.data.index import write_index


def build(ctx: Context) -> dict[str, Any]:
    """Write the index and its key map; its kind, why, and its recall against exact search."""
    parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
    digests = [artifact.digest for artifact in ctx.inputs["embed"]]
    return write_index(ctx.config, parts, digests, ctx.out, ctx.seed, ctx.piece)
