"""Stage `prior_diffusion`: the diffusion prior (§2.2), trained on cached embeddings."""

from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn

from models.blocks import BLOCKS
from models.diffusion_prior import DiffusionPrior
from tasks import train
from tasks.config import PriorDiffusionStage
from tasks.context import Context
from tasks.files import save_network
from tasks.prior_rows import rows_of, validator
from unclip.training.job import Batch, Job


def build(ctx: Context) -> dict[str, Any]:
    """Trains the prior; its metrics."""
    return train.run(ctx)


def job(ctx: Context) -> Job:
    """The training of a diffusion prior on the kept training rows."""
    config: PriorDiffusionStage = ctx.config
    rows = rows_of(ctx, "train")
    sizes = rows.sizes()
    validate = validator(rows_of(ctx, "validation"))

    def finish(model: nn.Module, out: Path) -> dict[str, Any]:
        save_network(out, config.network, **sizes)
        return {}

    model = DiffusionPrior(config.network, **sizes)
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
        units=BLOCKS,
        example=model.example_inputs(),
    )


def loss(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """The prior's loss of a batch."""
    assert isinstance(model, DiffusionPrior)
    return model.loss(batch["zi"], batch["zt"], batch["tokens"], generator)
