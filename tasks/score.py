"""The score columns of one shard."""

from typing import Any

import pyarrow.parquet as pq

from tasks.context import Context
from unclip.data.filters import score_shard
from unclip.data.shards import ShardReader


def build(ctx: Context) -> dict[str, Any]:
    """Write `scores.parquet`: one row a sample of the shard."""
    scores = score_shard(ShardReader(ctx.one("shards").path / "shard.tar"))
    pq.write_table(scores, ctx.out / "scores.parquet", compression="zstd")
    return {"rows": len(scores), "undecodable": scores["status"].to_pylist().count("undecodable")}
