"""Stage `prior_ar`: the autoregressive prior (§2.2), trained on cached embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator, Tensor, nn

from models.ar_prior import ArPrior
from models.blocks import BLOCKS
from tasks import train
from tasks.config import PriorArStage
from tasks.context import Context
from tasks.files import save_network
from tasks.pca_files import load_pca
from tasks.prior_rows import Rows, rows_of, validator
from unclip.training.job import Batch, Job

BUCKET_ROWS = 100_000  # at most, from which the dot product's buckets are fitted


def build(ctx: Context) -> dict[str, Any]:
    """Trains the prior; its metrics."""
    return train.run(ctx)


def job(ctx: Context) -> Job:
    """The training of an autoregressive prior on the kept training rows."""
    config: PriorArStage = ctx.config
    rows = rows_of(ctx, "train")
    model, sizes = new_network(ctx, rows)
    validate = validator(rows_of(ctx, "validation"))

    def finish(model: nn.Module, out: Path) -> dict[str, Any]:
        save_network(out, config.network, **sizes)
        return {"num_codes": sizes["num_components"]}

    return Job(
        model=model,
        loss=loss,
        batch=rows.batch,
        num_rows=len(rows.table),
        keys=rows.keys,
        train=config.train,
        validate=validate,
        finish=finish,
        blocks=BLOCKS,
        example=model.example_inputs(),
    )


def new_network(ctx: Context, rows: Rows) -> tuple[ArPrior, dict[str, int]]:
    """The untrained prior with its buckets fitted to the rows, and its sizes.

    Raises: ValueError when the components are of another embedding space than the rows.
    """
    pca, sizes = load_pca(ctx.one("pca")), rows.sizes()
    if len(pca.mean) != sizes["embed_dim"]:
        raise ValueError(f"pca has dimension {len(pca.mean)}, the embedding table {sizes['embed_dim']}")
    model = ArPrior(ctx.config.network, pca, **sizes)
    count = len(rows.table)
    chosen = np.sort(np.random.default_rng(ctx.seed).permutation(count)[:BUCKET_ROWS])
    batch = rows.batch(chosen)
    model.fit_dot_buckets(batch["zi"], batch["zt"])
    return model, sizes | {"num_components": pca.num_components, "num_buckets": pca.num_buckets}


def loss(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """The prior's loss of a batch."""
    assert isinstance(model, ArPrior)
    return model.loss(batch["zi"], batch["zt"], batch["tokens"], generator)
