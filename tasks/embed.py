"""One shard's part of the embedding table."""

from typing import Any

from tasks.clip_encoder import encoder_of
from tasks.clip_files import load_clip
from tasks.context import Context
from unclip.data.part_files import embed_shard


def build(ctx: Context) -> dict[str, Any]:
    """Write `part.parquet` and `rejects.parquet`: one row a sample of the shard, in one or the other."""
    artifact = ctx.one("clip")
    encoder = encoder_of(artifact.path, load_clip(artifact, ctx.device), ctx.config.precision, ctx.device)
    shard = ctx.one("shards").path / "shard.tar"
    return embed_shard(shard, encoder, ctx.out, ctx.config.batch_size, ctx.progress, ctx.config.workers)
