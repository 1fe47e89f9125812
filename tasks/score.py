"""The score columns of one shard."""

from typing import Any

import pyarrow.parquet as pq

from tasks.config import ScoreStage
from tasks.context import Context
from unclip.data.scores import score_shard
from unclip.data.shards import ShardReader


def build(ctx: Context) -> dict[str, Any]:
    """Write `scores.parquet`: one row a sample of the shard."""
    config: ScoreStage = ctx.config
    given = {"unsafe": config.unsafe_field, "watermark": config.watermark_field}
    scores = score_shard(ShardReader(ctx.one("shards").path / "shard.tar"), given)
    pq.write_table(scores, ctx.out / "scores.parquet", compression="zstd")
    found = {f"with_{name}": len(scores) - scores[name].null_count for name in given}
    return {"rows": len(scores), "undecodable": scores["status"].to_pylist().count("undecodable"), **found}
