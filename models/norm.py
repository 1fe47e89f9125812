"""Group norm, and group norm with what follows it in a residual block, kept small for the backward pass.

B batch, C channels, P pixels of a side of a feature map, G groups.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with ADM's 32 groups, or as many as divide the channels of a small network."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def norm_silu(norm: nn.GroupNorm, x: Tensor, scale_shift: tuple[Tensor, ...] = ()) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift), of which only x is kept for the backward pass.

    x: (B, C, P, P); scale_shift: two of (B, C), of each sample. Returns the shape and layout of x. A norm of B * C
    channels in B * G groups has a gain and a bias for each channel of each sample, so all but the SiLU is one kernel.
    """
    gain, bias = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)  # (B, C)
    if scale_shift:
        scale, shift = scale_shift
        gain, bias = gain * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
    return _NormSilu.apply(x, gain, bias, norm.num_groups, norm.eps)


class _NormSilu(torch.autograd.Function):
    """Group norm with gain and bias by sample, then SiLU; the norm is computed again when gradients are asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
        flat, gain, bias = _flat(x, gain), gain.reshape(-1), bias.reshape(-1)
        sizes = (1, flat.shape[1], flat[0, 0].numel(), len(x) * num_groups)
        normed, mean, rstd = torch.native_group_norm(flat, gain, bias, *sizes, eps)
        ctx.save_for_backward(x, gain, bias, mean, rstd)
        ctx.sizes, ctx.eps = sizes, eps
        return _like(F.silu(normed, inplace=True), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gain, bias, mean, rstd = ctx.saved_tensors
        flat = _flat(x, gain)
        normed = torch.native_group_norm(flat, gain, bias, *ctx.sizes, ctx.eps)[0]
        inner = torch.ops.aten.silu_backward(grad.reshape(flat.shape).to(normed.dtype), normed)
        by_input = torch.ops.aten.native_group_norm_backward(inner, flat, mean, rstd, gain, *ctx.sizes, [True] * 3)
        by_x, by_gain, by_bias = by_input
        return _like(by_x, x), by_gain.view(x.shape[:2]), by_bias.view(x.shape[:2]), None, None


def _flat(x: Tensor, gain: Tensor) -> Tensor:
    """The maps of a batch as channels of one sample; in the precision of the gain but on a CPU, which mixes the two."""
    flat = x.reshape(1, -1, *x.shape[2:])
    return flat if x.device.type == "cpu" else flat.to(gain.dtype)


def _like(flat: Tensor, x: Tensor) -> Tensor:
    """The maps again in the shape, precision and layout of x."""
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return flat.view_as(x).to(x.dtype, memory_format=torch.channels_last if is_last else torch.contiguous_format)
