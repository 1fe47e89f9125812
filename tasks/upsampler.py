"""What both upsamplers share: pictures to a network that turns a small picture into a larger one (§2.1).

They read what `filter` kept, so that they train beside CLIP. What `select` drops on top are rows whose embedding is bad
or tells of a held-out one; an upsampler never sees an embedding, and copies of a picture share their split already.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Generator, Tensor, nn

from models.blocks import BLOCKS
from models.upsampler import Upsampler
from tasks.context import Context
from unclip.data.pictures import Pictures, to_unit_range
from unclip.training.job import Batch, Indices, Job
from unclip.training.validation import validation


def upsampler_job(ctx: Context) -> Job:
    """An upsampler and the pictures that `filter` kept, at its higher resolution."""
    network, train = ctx.config.network, ctx.config.train
    rows, held = Rows(ctx, "train"), Rows(ctx, "validation")

    def finish(model: nn.Module, out: Path) -> dict[str, Any]:
        (out / "config.json").write_text(json.dumps({"network": asdict(network)}, indent=1))
        return {"train_rows": len(rows), "validation_rows": len(held)}

    model = Upsampler(network)
    return Job(
        model=model,
        loss=loss,
        batch=rows.batch,
        num_rows=len(rows),
        keys=rows.keys,
        train=train,
        validate=validation(loss, held.batch, len(held), train.batch_size, ctx.device),
        finish=finish,
        blocks=BLOCKS,
        units=BLOCKS,
        example=model.example_inputs(),
    )


def loss(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """The upsampler's own loss on a batch."""
    assert isinstance(model, Upsampler)
    return model.loss(batch["high"], generator)


class Rows:
    """The kept pictures of a split."""

    def __init__(self, ctx: Context, split: str) -> None:
        px = ctx.config.network.high_px
        kept = pq.read_table(ctx.one("filter").path / "kept.parquet", columns=["key", "shard", "split"])
        kept = kept.filter(pc.equal(kept["split"], split))
        shards = [artifact.path / "shard.tar" for artifact in ctx.inputs["shards"]]
        self._keys = kept["key"].to_pylist()
        cache = ctx.cache / f"{split}-{px}.npy"
        self._pictures = Pictures(shards, self._keys, kept["shard"].to_numpy(), px, cache)

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, indices: Indices) -> list[str]:
        """The keys of rows."""
        return [self._keys[i] for i in indices]

    def batch(self, indices: Indices) -> Batch:
        """Pictures in [-1, 1]."""
        return {"high": to_unit_range(self._pictures[indices])}
