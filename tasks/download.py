"""The `download` stage: one shard's pairs to pictures."""

from typing import Any

from tasks.context import Context
from unclip.data.download import download
from unclip.data.urls import shard_number


def build(ctx: Context) -> dict[str, Any]:
    """`shard.tar` and `rows.parquet` from the `pairs.parquet` of one source shard; counts by status."""
    pairs = ctx.one("source").path / "pairs.parquet"
    return download(pairs, shard_number(pairs), ctx.config, ctx.out, ctx.progress)
