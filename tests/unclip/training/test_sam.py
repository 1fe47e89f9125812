"""Sharpness-aware minimisation: where the gradient is taken, and that weights come back to the bit."""

import pytest
import torch
from torch import Generator, Tensor, nn

from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks
from unclip.training.job import Batch
from unclip.training.loop import Step
from unclip.training.sam import ascended
from unclip.training.state import new_state

SLOPES = torch.tensor([3.0, 4.0])


def bowl(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss whose gradient by the weights w is w * SLOPES."""
    return (0.5 * SLOPES * next(model.parameters()).square()).sum(), {}


def plane() -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


def test_inside_the_weights_are_rho_uphill_and_afterwards_where_they_were() -> None:
    model = plane()
    bowl(model, {}, Generator())[0].backward()
    before = model.weight.detach().clone()
    with ascended(model, 0.1):
        torch.testing.assert_close(model.weight - before, torch.tensor([[0.06, 0.08]]))  # 0.1 along (3, 4)
        assert model.weight.grad is None and torch.is_grad_enabled()
    assert model.weight.equal(before)


def test_weights_come_back_after_an_error() -> None:
    model = plane()
    bowl(model, {}, Generator())[0].backward()
    with pytest.raises(RuntimeError, match="inside"), ascended(model, 0.1):
        raise RuntimeError("inside")
    assert model.weight.equal(torch.ones(1, 2))


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_a_step_takes_the_gradient_uphill_and_tells_the_loss_below(rho: float) -> None:
    config = TrainConfig(num_steps=2, batch_size=1, learning_rate=1e-3, sam_rho=rho, clip_norm=0, precision="fp32")
    figures = Step(bowl, config, 0, "cpu", Ranks())(new_state(plane(), config, "cpu"), {"x": torch.zeros(1)})
    uphill = SLOPES * (1 + rho * torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(figures["grad_norm"], uphill.norm())
    assert float(figures["loss"]) == 3.5


def test_where_nothing_slopes_nothing_moves() -> None:
    model = plane()
    model.weight.grad = torch.zeros(1, 2)
    with ascended(model, 0.1):
        assert model.weight.equal(torch.ones(1, 2))
