"""The stage `decoder`: pictures and their cached embeddings to a network that turns embeddings into pictures (§2.1)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from models.decoder import BLOCKS, Decoder
from tasks.context import Context
from tasks.train import run
from unclip.data.dense import Dense, dense
from unclip.data.pictures import Pictures, to_unit_range
from unclip.data.tokens import token_sizes
from unclip.training.job import Batch, Indices, Job
from unclip.training.validation import validation


def build(ctx: Context) -> dict[str, Any]:
    """Trains the decoder in a process of its own; the metrics."""
    return run(ctx)


def job(ctx: Context) -> Job:
    """The decoder and its rows: shards joined by key to the embedding parts through what `select` kept."""
    network, train = ctx.config.network, ctx.config.train
    rows, held = Rows(ctx, "train"), Rows(ctx, "validation")
    shape = {"embed_dim": rows.table.info.dimension, **token_sizes(rows.table.tokens, rows.table.info.tokenizer)}

    def finish(model: nn.Module, out: Path) -> dict[str, Any]:
        (out / "config.json").write_text(json.dumps({"network": asdict(network), **shape}, indent=1))
        return {"train_rows": len(rows), "validation_rows": len(held)}

    model = Decoder(network, **shape)
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
    """The decoder's own loss on a batch."""
    assert isinstance(model, Decoder)
    return model.loss(batch["x0"], batch["zi"], batch["tokens"], generator)


class Rows:
    """The kept rows of a split: pictures, the embeddings that they are drawn from, and tokens."""

    def __init__(self, ctx: Context, split: str) -> None:
        cache, px = ctx.cache, ctx.config.network.image_px
        parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
        shards = [artifact.path / "shard.tar" for artifact in ctx.inputs["shards"]]
        self.table: Dense = dense(parts, ctx.one("select").path / "kept.parquet", split, cache)
        self._given = self.table.zi if ctx.config.network.embedding == "image" else self.table.zt
        self._pictures = Pictures(shards, self.table.keys, self.table.shard, px, cache / f"{split}-{px}.npy")

    def __len__(self) -> int:
        return len(self.table)

    def keys(self, indices: Indices) -> list[str]:
        """The keys of rows."""
        return [self.table.keys[i] for i in indices]

    def batch(self, indices: Indices) -> Batch:
        """Pictures in [-1, 1], the unit embeddings that they are drawn from, tokens."""
        return {
            "x0": to_unit_range(self._pictures[indices]),
            "zi": torch.from_numpy(self._given[indices]),
            "tokens": torch.from_numpy(self.table.tokens[indices]),
        }
