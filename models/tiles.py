"""Convolutional networks on pictures that don't fit in memory whole: overlapping tiles, blended without a seam.

B batch, H x W the picture's sides, P a tile's side. Ours: the paper runs its upsamplers at full size (§2.1).
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

OVERLAP = 0.25  # of a tile's side, at least


def tiled(network: Callable[..., Tensor], x: Tensor, *others: Tensor, px: int, multiple: int) -> Tensor:
    """network(x, *others) of maps (B, C, H, W), tile by tile, one in memory at a time.

    Each tile counts with a window that fades towards its neighbours, so that what differs between them (group norm
    sees a tile only) nowhere shows as an edge.
    px: a tile's side; multiple: what divides it and all places, so that tiles are halved where the whole would be.
    Raises: ValueError for a side that `multiple` does not divide.
    """
    if px < multiple or px % multiple:
        raise ValueError(f"tile_px must be a multiple of {multiple}, got {px}")
    tops, lefts = (starts(side, px, multiple) for side in x.shape[-2:])
    total = weight = torch.zeros(1)
    for number, (top, left) in enumerate(product(tops, lefts)):
        inside = (..., slice(top, top + px), slice(left, left + px))
        made = network(*(images[inside] for images in (x, *others)))
        if number == 0:
            total = made.new_zeros((*made.shape[:-2], *x.shape[-2:]), dtype=torch.float32)
            weight = torch.zeros_like(total[:1, :1])
        height, width = (fade(side).to(total.device) for side in made.shape[-2:])
        window = height[:, None] * width
        total[inside] += made.float() * window
        weight[inside] += window
    return total / weight


def starts(side: int, px: int, multiple: int) -> list[int]:
    """Where tiles of `px` begin to cover a side, at multiples of `multiple`, neighbours sharing OVERLAP or more."""
    if side <= px:
        return [0]
    stride = max(multiple, int(px * (1 - OVERLAP)) // multiple * multiple)
    return [*range(0, side - px, stride), side - px]


def fade(px: int) -> Tensor:
    """Weights (px,) that rise from the edges to the middle of a tile, never zero."""
    places = torch.arange(px) + 0.5
    return torch.minimum(places, px - places) / (px / 2)
