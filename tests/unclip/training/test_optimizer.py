"""Muon beside torch's own, which of a network's parameters it moves, and where it is refused."""

import copy

import pytest
import torch
from torch import nn

from unclip.training.adam import Adam
from unclip.training.config import TrainConfig
from unclip.training.optimizer import new_optimizer, orthogonal


class Block(nn.Sequential):
    """What a network repeats."""


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**{"num_steps": 10, "batch_size": 1, "learning_rate": 0.01, "optimizer": "muon", **changes})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 6)), nn.Linear(6, 2))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8)])
def test_a_matrix_keeps_its_singular_vectors_and_its_values_go_through_the_polynomial(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values /= values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left * values[:, None] @ right
    assert (orthogonal(matrices).double() - expected).norm() < 0.03 * expected.norm()  # in bf16
    assert 0.65 < torch.linalg.svdvals(orthogonal(matrices).float()).median() < 1.25


def test_a_matrix_of_zeros_stays_where_it_is() -> None:
    assert not orthogonal(torch.zeros(2, 4, 5)).any()


@pytest.mark.parametrize("sides", [(5, 4), (4, 9)])
def test_a_matrix_moves_as_under_torchs_muon(sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = Block(nn.Linear(*sides, bias=False)), nn.Linear(*sides, bias=False)
    theirs.weight.data.copy_(ours[0].weight)
    start = ours[0].weight.detach().clone()
    mine = new_optimizer(ours, config(weight_decay=0.1), (Block,))
    other = torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for x in torch.randn(10, 3, sides[0]):
        for linear in (ours, theirs):
            linear(x).square().sum().backward()
        mine.step(0.01)
        other.step()
        other.zero_grad()
    apart, moved = (ours[0].weight - theirs.weight).norm(), (theirs.weight - start).norm()
    assert apart < 0.03 * moved  # both in bf16, rounded at other places


def test_matrices_of_one_shape_move_each_as_if_alone() -> None:
    torch.manual_seed(0)
    together = Block(*(nn.Linear(5, 4, bias=False) for _ in range(3)))
    alone = [Block(copy.deepcopy(linear)) for linear in together]
    gradients = torch.randn(3, 4, 5)
    for linear, one, gradient in zip(together, alone, gradients, strict=True):
        linear.weight.grad, one[0].weight.grad = gradient.clone(), gradient.clone()
        new_optimizer(one, config(), (Block,)).step(0.01)
    new_optimizer(together, config(), (Block,)).step(0.01)
    assert all(torch.allclose(a.weight, b[0].weight, atol=1e-7) for a, b in zip(together, alone, strict=True))


def test_a_kernel_moves_as_the_matrix_of_its_output_channels() -> None:
    layers = [Block(nn.Conv2d(3, 4, 2, bias=False)), Block(nn.Linear(12, 4, bias=False))]
    torch.manual_seed(0)
    start, gradient = torch.randn(2, 4, 12)
    for layer in layers:
        layer[0].weight.data.copy_(start.view_as(layer[0].weight))
        layer[0].weight.grad = gradient.reshape(layer[0].weight.shape)
        new_optimizer(layer, config(), (Block,)).step(0.01)
    assert layers[0][0].weight.flatten(1).equal(layers[1][0].weight)


def test_it_moves_matrices_and_kernels_of_blocks_and_adam_the_rest() -> None:
    model = network()
    made = new_optimizer(model, config(), (Block,))
    assert made.parameters.keys() == {"0.0.weight", "0.2.weight"}
    assert made.rest.parameters.keys() == {"0.0.bias", "0.2.bias", "1.weight", "1.bias"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(1, 3, 4, 4)).sum().backward()
    made.step(0.01)
    assert all(not value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_adam_is_what_is_not_asked_otherwise() -> None:
    assert isinstance(new_optimizer(network(), config(optimizer="adam"), (Block,)), Adam)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.optimizer 'muon' has no effect: Linear has no blocks of its own"):
        new_optimizer(nn.Linear(2, 2), config(), (Block,))


@pytest.mark.parametrize("changes", [{"shard": True, "ranks": 2, "batch_size": 2}, {"channels_last": True}])
def test_what_it_cannot_do_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"train.optimizer must be adam with {next(iter(changes))}, got 'muon'"):
        config(**changes)
