"""Convolutional networks on pictures that don't fit in memory whole: overlapping tiles, blended without a seam.

B batch, H x W the picture's sides, P a tile's side. Ours: the paper runs its upsamplers at full size (§2.1).
"""

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 0.25  # of a tile's side, at least


def tiled(network: Callable[..., Tensor], *maps: Tensor, px: int, multiple: int) -> Tensor:
    """network(*maps) in float32, maps (B, C, H, W) of one size, tile by tile, one in memory at a time.

    Each tile counts with a window that fades towards its neighbours, so that what differs between them (group norm
    sees a tile only) nowhere shows as an edge. The network keeps sides.
    px: a tile's side; multiple: what the network needs to divide its sides.
    Raises: ValueError for a tile or a map that `multiple` does not divide, or a tile without room to overlap.
    """
    height, width = maps[0].shape[-2:]
    if px % multiple or px < 2 * multiple:
        raise ValueError(f"tile_px must be a multiple of {multiple} and at least {2 * multiple}, got {px}")
    if height % multiple or width % multiple:
        raise ValueError(f"image sides must be multiples of {multiple}, got {(height, width)}")
    window = fade(min(px, height))[:, None] * fade(min(px, width))
    window = window.to(maps[0].device)
    total, weight = 0.0, maps[0].new_zeros((1, 1, height, width), dtype=torch.float32)
    for top, left in product(starts(height, px, multiple), starts(width, px, multiple)):
        bottom, right = top + window.shape[0], left + window.shape[1]
        made = network(*(part[..., top:bottom, left:right] for part in maps)).float() * window
        total = total + F.pad(made, (left, width - right, top, height - bottom))
        weight[..., top:bottom, left:right] += window
    return total / weight


def starts(side: int, px: int, multiple: int) -> list[int]:
    """Where tiles of `px` begin to cover a side, at multiples of `multiple`, neighbours sharing OVERLAP or more."""
    if side <= px:
        return [0]
    stride = int(px * (1 - OVERLAP)) // multiple * multiple
    return [*range(0, side - px, stride), side - px]


def fade(px: int) -> Tensor:
    """Weights (px,) that rise from the edges to the middle of a tile, never zero."""
    places = torch.arange(px) + 0.5
    return torch.minimum(places, px - places) / (px / 2)
