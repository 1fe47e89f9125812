"""One shard of a source: drawn, read from a folder, or taken over; a URL list gives its pairs."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.config import SourceStage
from tasks.context import Context
from unclip.data.config import FolderConfig, RetryConfig, ShapesConfig, ShardsConfig
from unclip.data.images import png_bytes
from unclip.data.rows import sample_id
from unclip.data.shapes import render_shard
from unclip.data.shards import Sample, row_of, sample_key
from unclip.data.source_plan import SourceConfig, require_unchanged
from unclip.data.sources import Admission, folder_shard, foreign_shard, write_admissions


def build(ctx: Context) -> dict[str, Any]:
    """Write `shard.tar` and `rows.parquet` of shard `ctx.shard` (of a URL list: `pairs.parquet`).

    Raises: ValueError when what was read is not what the plan saw.
    """
    config = ctx.config.only if isinstance(ctx.config, SourceStage) else ctx.config
    assert ctx.shard is not None
    metrics = write_source(config, ctx.seed, ctx.shard, ctx.out)
    if ctx.planned:
        require_unchanged(config, ctx.shard, ctx.planned)
    return metrics


def write_source(config: SourceConfig, seed: int, shard: int, out: Path) -> dict[str, Any]:
    """The files of one shard, written into `out`; counts of its rows."""
    if isinstance(config, ShapesConfig):
        return write_admissions(out, drawn_shard(config, seed, shard))
    if isinstance(config, FolderConfig):
        return write_admissions(out, folder_shard(config, shard))
    if isinstance(config, ShardsConfig):
        return write_admissions(out, foreign_shard(config, shard))
    if isinstance(config, RetryConfig):
        from unclip.data.retries import write_retried

        return write_retried(config, out / "pairs.parquet")
    from unclip.data.urls import write_pairs

    return write_pairs(config, shard, out / "pairs.parquet")


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
