"""What can be done to the blocks that a network repeats: compile them, or keep less of them for the backward pass."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from unclip.training.config import TrainConfig

SDP_BACKENDS = {  # ways to compute attention, and whether one may be taken now: a second time it is to be the same
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


def prepare(model: nn.Module, blocks: tuple[type[nn.Module], ...], config: TrainConfig) -> None:
    """Recomputes and compiles the model's blocks as configured; names and weights stay what they are.

    Compiled one by one, blocks that are alike share what is compiled.
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
    if config.compile:  # all blocks count as one function: each may be another shape, with gradients and without
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, 2 * len(found))


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """The block's result; of what leads to it nothing is kept: it is computed again when gradients are asked for."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    again = partial(sdpa_kernel, [backend for backend, is_on in SDP_BACKENDS.items() if is_on()])
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()), **options)
