"""What the prior stages share: cached embeddings as rows, and how a prior is scored on held-out ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.context import Context
from unclip.data.dense import Dense, dense, take_rows
from unclip.data.table import Part, check_agree, read_part
from unclip.data.tokens import token_sizes
from unclip.metrics.embeddings import embedding_figures
from unclip.training.job import Batch, Indices

VALIDATION_ROWS = 128
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Rows:
    """The kept rows of one split."""

    table: Dense

    def batch(self, indices: Indices) -> Batch:
        """zi, zt (B, D) unit float32 and tokens (B, L) int64."""
        zi, zt, tokens = (
            torch.from_numpy(take_rows(array, indices)) for array in (self.table.zi, self.table.zt, self.table.tokens)
        )
        return {"zi": zi, "zt": zt, "tokens": tokens.long()}

    def keys(self, indices: Indices) -> list[str]:
        """The keys of rows."""
        return [self.table.keys[i] for i in indices]

    def sizes(self) -> dict[str, int]:
        """What a network must know of the table: embed_dim, and of its tokens as `token_sizes`."""
        return {"embed_dim": self.table.zi.shape[1], **token_sizes(self.table.tokens, self.table.info.tokenizer)}


def rows_of(ctx: Context, split: str) -> Rows:
    """The kept rows of a split, gathered into memory maps in the work folder."""
    parts = [part.path / "part.parquet" for part in ctx.inputs["embed"]]
    return Rows(dense(parts, ctx.one("select").path / "kept.parquet", split, ctx.cache / "dense"))


def kept_parts(ctx: Context, split: str) -> Iterator[tuple[Part, NDArray[np.int64]]]:
    """Each part of the table with the numbers of its kept rows of a split, one part in memory at a time."""
    paths = [part.path / "part.parquet" for part in ctx.inputs["embed"]]
    check_agree(paths)
    kept = pq.read_table(ctx.one("select").path / "kept.parquet", columns=["shard", "row", "split"])
    kept = kept.filter(pc.equal(kept["split"], split))
    shard, row = kept["shard"].to_numpy(), kept["row"].to_numpy().astype(np.int64)
    for number, path in enumerate(paths):
        ctx.progress(number, len(paths))
        if (shard == number).any():
            yield read_part(path), row[shard == number]
    ctx.progress(len(paths), len(paths))


def validation_batch(rows: Rows) -> Batch | None:
    """Up to VALIDATION_ROWS rows, always the same of the same split; None where the split is empty."""
    count = len(rows.table)
    if count == 0:
        return None
    chosen = np.random.default_rng(VALIDATION_SEED).permutation(count)[:VALIDATION_ROWS]
    return rows.batch(np.sort(chosen))


def prior_figures(predicted: Tensor, zi: Tensor) -> dict[str, float]:
    """`embedding_figures` of unit predictions (N, D) and the true embeddings (N, D), which are their own reference."""
    drawn, truth = (rows.double().cpu().numpy() for rows in (predicted, F.normalize(zi, dim=-1)))
    return embedding_figures(drawn, truth, truth)


def validator(rows: Rows) -> Callable[[nn.Module], dict[str, float]] | None:
    """A score for priors in training: mean loss with nothing dropped, and the quality of draws with their defaults.

    Rows, noise and draws are the same at every call.
    """
    batch = validation_batch(rows)
    if batch is None:
        return None

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        held = {name: value.to(device) for name, value in batch.items()}
        generator = torch.Generator(device).manual_seed(VALIDATION_SEED)
        loss, _ = model.loss(**held, generator=generator)
        predicted = model.sample(held["zt"], held["tokens"], generator)
        return {"loss": float(loss), **prior_figures(predicted.float(), held["zi"])}

    return validate
