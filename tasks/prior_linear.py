"""Stage `prior_linear`: ridge regression from text to image embeddings, in one pass and without the training loop."""

import json
from typing import Any

import torch

from models.linear_prior import LinearPrior
from models.pca import Moments
from tasks.context import Context
from tasks.files import save_network, save_weights
from tasks.prior_rows import kept_parts, prior_figures

MIN_ROWS = 2


def build(ctx: Context) -> dict[str, Any]:
    """Fits the prior to the kept training rows and scores it on the validation rows.

    Raises: ValueError when fewer than two rows are left to train on.
    """
    joint: Moments | None = None
    for part, rows in kept_parts(ctx, "train"):
        pairs = torch.cat([torch.from_numpy(part.text[rows]), torch.from_numpy(part.image[rows])], dim=1)
        joint = Moments.of(pairs) if joint is None else joint.merge(Moments.of(pairs))
    if joint is None or joint.count < MIN_ROWS:
        raise ValueError(f"prior_linear needs at least {MIN_ROWS} training rows: the rest was dropped or held out")
    prior = LinearPrior.from_moments(joint, ctx.config.ridge)
    save_network(ctx.out, ctx.config, embed_dim=len(joint.mean) // 2)
    for name in ("ema", "online"):  # nothing to average: both names hold the solution
        save_weights(ctx.out / f"{name}.safetensors", prior)
    figures = score(prior, ctx)
    validation = {f"val_ema_{name}": value for name, value in figures.items() if name != "loss"}
    line = {"step": 1, "loss": figures.get("loss", 0.0), **validation}
    (ctx.out / "curve.jsonl").write_text(json.dumps(line) + "\n")
    return {"num_rows": joint.count, **figures}


@torch.no_grad()
def score(prior: LinearPrior, ctx: Context) -> dict[str, float]:
    """Mean squared error and `prior_figures` on the validation rows; nothing where there are none."""
    pairs = [
        (torch.from_numpy(part.text[rows]), torch.from_numpy(part.image[rows]))
        for part, rows in kept_parts(ctx, "validation")
    ]
    if not pairs:
        return {}
    zt, zi = (torch.cat(column) for column in zip(*pairs, strict=True))
    predicted = prior(zt)
    return {"loss": float((predicted - zi).square().mean()), **prior_figures(predicted, zi)}
