"""Classifier-free guidance (Ho & Salimans 2021), written `u + s (c - u)`: s = 1 is the conditional model itself."""

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # (x, t) to (prediction, variance channels)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """The guided prediction `u + s (c - u)`."""
    return unconditional + scale * (conditional - unconditional)


def guided(network: Network, scale: float) -> Network:
    """A network that predicts under guidance; at scale 1 it is `network` itself.

    Elsewhere `network` is called once with the batch twice over, so it must hold the conditions of the first half
    followed by the null conditions of the second. The variance channels are the conditional ones, not guided.
    """
    if scale == 1:
        return network

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        prediction, variance = network(torch.cat([x, x]), torch.cat([t, t]))
        conditional, unconditional = prediction.float().chunk(2)
        return guide(conditional, unconditional, scale), None if variance is None else variance.chunk(2)[0]

    return both
