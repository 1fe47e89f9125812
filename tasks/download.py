"""The `download` stage: one shard's pairs to pictures."""

from typing import Any

from tasks.context import Context
from unclip.data.download import download


def build(ctx: Context) -> dict[str, Any]:
    """`shard.tar` and `rows.parquet` from the `pairs.parquet` of one source shard; counts by status."""
    assert ctx.shard is not None
    return download(ctx.one("source").path / "pairs.parquet", ctx.shard, ctx.config, ctx.out, ctx.progress)
