"""What can be done to the blocks that a network repeats: compile them, or keep less of them for the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unclip.training.config import TrainConfig


def prepare(model: nn.Module, blocks: tuple[type[nn.Module], ...], config: TrainConfig) -> None:
    """Recomputes and compiles the model's blocks as configured; names and weights stay what they are.

    A block compiled on its own is compiled once for all that are like it.
    Raises: ValueError where a setting would have no effect: the network has none of these blocks.
    """
    found = [module for module in model.modules() if isinstance(module, blocks)]
    for name in ("recompute", "compile"):
        if getattr(config, name) and not found:
            raise ValueError(f"train.{name} has no effect: {type(model).__name__} has no blocks of its own")
    for block in found:
        if config.recompute:
            block.forward = partial(_recomputed, block.forward)
        if config.compile:
            block.compile()


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """The block's result; of what leads to it nothing is kept: it is computed again when gradients are asked for."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
