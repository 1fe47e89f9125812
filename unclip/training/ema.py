"""An exponential moving average of weights, kept beside them."""

from copy import deepcopy

import torch
from torch import Tensor, nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of the model that will not be trained."""
    return deepcopy(model).eval().requires_grad_(False)


def ema_decay(decay: float, step: int) -> float:
    """The decay of step `step` (from 0): small at first, so that a short run's average forgets the random start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: list[Tensor], online: list[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * online, in place, all tensors at once."""
    torch._foreach_lerp_(average, online, 1 - decay)
