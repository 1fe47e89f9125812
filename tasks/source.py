"""One shard of a source: drawn, read from a folder, or taken over; a URL list gives its pairs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tasks.config import SourceStage
from tasks.context import Context
from unclip.data.config import FolderConfig, ShapesConfig, ShardsConfig
from unclip.data.images import png_bytes
from unclip.data.rows import sample_id
from unclip.data.shapes import render_shard
from unclip.data.shards import Sample, row_of, sample_key
from unclip.data.sources import Admission, folder_shard, foreign_shard, write_admissions


def build(ctx: Context) -> dict[str, Any]:
    """Write `shard.tar` and `rows.parquet` of shard `ctx.shard` (of a URL list: `pairs.parquet`)."""
    config = ctx.config.only if isinstance(ctx.config, SourceStage) else ctx.config
    assert ctx.shard is not None
    if isinstance(config, ShapesConfig):
        return write_admissions(ctx.out, drawn_shard(config, ctx.seed, ctx.shard))
    if isinstance(config, FolderConfig):
        return write_admissions(ctx.out, folder_shard(config, ctx.shard))
    if isinstance(config, ShardsConfig):
        return write_admissions(ctx.out, foreign_shard(config, ctx.shard))
    from unclip.data.urls import write_pairs

    return write_pairs(config, ctx.shard, ctx.out / "pairs.parquet")


def drawn_shard(config: ShapesConfig, seed: int, shard: int) -> Iterator[Admission]:
    """The pictures of one shard of the generator as PNG."""
    drawing = {name: value for name, value in asdict(config).items() if name != "num_samples"}
    for row, picture in enumerate(render_shard(config, seed, shard)):
        sample = Sample(
            key=sample_key(shard, row),
            image=png_bytes(picture.pixels),
            extension="png",
            caption=picture.caption,
            sample_id=sample_id(f"shapes:{seed}:{shard}:{row}:{drawing}", picture.caption),
            meta=picture.meta,
        )
        yield Admission(row=row_of(sample, config.image_px, config.image_px), sample=sample)
