"""The norms of residual blocks, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from models.norm import group_norm, norm_silu


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def plain(norm: torch.nn.GroupNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.silu(norm(x) * (1 + scale[..., None, None]) + shift[..., None, None])


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=["fp32", "bf16"])
def test_norm_silu_is_the_three_in_turn(dtype: torch.dtype, within: float) -> None:
    norm, x = group_norm(48), random(3, 48, 4, 6, seed=0)
    norm.weight.data, norm.bias.data = random(48, seed=1).detach(), random(48, seed=2).detach()
    inputs = [x, random(3, 48, seed=3), random(3, 48, seed=4), norm.weight, norm.bias]
    theirs, ours = plain(norm, *inputs[:3]), norm_silu(norm, x.to(dtype), (inputs[1], inputs[2]))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, atol=within, rtol=within)
    weights = random(3, 48, 4, 6, seed=5).detach()
    grads = (torch.autograd.grad((y.float() * weights).sum(), inputs) for y in (theirs, ours))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, atol=5 * within, rtol=5 * within)


def test_its_gradients_are_those_of_differences() -> None:
    norm = group_norm(4).double()
    inputs = [
        random(2, 4, 2, 3, seed=0, dtype=torch.float64),
        *(random(2, 4, seed=i, dtype=torch.float64) for i in (1, 2)),
    ]
    assert gradcheck(lambda x, *scale_shift: norm_silu(norm, x, scale_shift), inputs)


def test_only_the_input_is_kept_for_the_backward_pass() -> None:
    norm, x, kept = group_norm(32), random(2, 32, 8, 8, seed=0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_silu(norm, x)
    assert [t.data_ptr() for t in kept if t.numel() >= x.numel()] == [x.data_ptr()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_keeps_the_layout(layout: torch.memory_format) -> None:
    x = random(2, 8, 4, 4, seed=0).detach().contiguous(memory_format=layout).requires_grad_()
    made = norm_silu(group_norm(8), x)
    (by_x,) = torch.autograd.grad(made.square().sum(), x)
    assert made.stride() == by_x.stride() == x.stride()
    torch.testing.assert_close(made, F.silu(group_norm(8)(x)))
