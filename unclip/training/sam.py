"""Sharpness-aware minimisation (Foret et al. 2021): the gradient is taken where the loss rises most, near by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

TINY = 1e-12  # where no gradient says anything, no weight moves


@contextmanager
@torch.no_grad()
def ascended(model: nn.Module, rho: float) -> Iterator[None]:
    """While inside, the weights lie `rho` further along their gradients, which are emptied (Foret et al. 2021, eq. 2).

    Each process climbs along the gradient of its own part of the batch, as the paper's CLIP did on 64 images (App. C).
    Afterwards the weights are, to the bit, what they were.
    """
    weights = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in weights if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    before = [p.clone() for p in weights]
    torch._foreach_add_(weights, torch._foreach_mul(gradients, rho / norm.clamp(min=TINY)))
    for p in weights:
        p.grad = None
    try:
        yield
    finally:
        torch._foreach_copy_(weights, before)
