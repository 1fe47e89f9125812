"""A validation loss on fixed rows with fixed noise: it moves only when the weights do."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from unclip.training.job import Batch, Indices, Loss

MAX_ROWS = 256


def validation(
    loss: Loss, batch: Callable[[Indices], Batch], num_rows: int, batch_size: int, device: str
) -> Callable[[nn.Module], dict[str, float]] | None:
    """A job's `validate`: the mean loss and figures over up to 256 rows spread over all; None where there are none."""
    if num_rows == 0:
        return None
    rows = np.unique(np.linspace(0, num_rows - 1, MAX_ROWS).astype(np.int64))
    parts = np.array_split(rows, -(-len(rows) // batch_size))

    def validate(model: nn.Module) -> dict[str, float]:
        generator = torch.Generator(device).manual_seed(0)
        sums: dict[str, float] = {}
        for part in parts:
            on_device = {name: value.to(device) for name, value in batch(part).items()}
            value, figures = loss(model, on_device, generator)
            for name, figure in {**figures, "loss": value}.items():
                sums[name] = sums.get(name, 0.0) + float(figure) * len(part)
        return {name: total / len(rows) for name, total in sorted(sums.items())}

    return validate
