"""All that a resumed run needs: weights, their average, optimiser, step, and the figures not yet logged."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unclip.training.adam import Adam
from unclip.training.config import TrainConfig
from unclip.training.ema import average_of, ema_decay, update_average
from unclip.training.optimizer import Muon, new_optimizer
from unclip.training.sharding import local, shard


@dataclass(kw_only=True)
class State:
    """A run between two steps. Random state and data position are functions of `step`, so they are not in it."""

    model: nn.Module
    average: nn.Module
    optimizer: Adam | Muon
    step: int = 0  # steps done
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each figure since the last row of the curve
    num_summed: int = 0

    def __post_init__(self) -> None:
        self._online = [*self.model.parameters()]
        self._averaged = [*self.average.parameters()]
        self._buffers = [*zip(self.average.buffers(), self.model.buffers(), strict=True)]

    def advance(self, config: TrainConfig) -> None:
        """Counts a step of the optimiser: the average follows the weights."""
        averaged, online = ([local(p) for p in parameters] for parameters in (self._averaged, self._online))
        update_average(averaged, online, ema_decay(config.ema_decay, self.step))
        for copy, buffer in self._buffers:
            copy.copy_(buffer)
        self.step += 1

    def count(self, figures: dict[str, Tensor]) -> None:
        """Adds a step's figures to those that wait for the next row of the curve."""
        for name, value in figures.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.num_summed += 1

    def take_means(self) -> dict[str, float]:
        """The mean of each figure since the last call."""
        means = {name: float(total) / self.num_summed for name, total in self.sums.items()}
        self.sums, self.num_summed = {}, 0
        return means


def new_state(
    model: nn.Module,
    config: TrainConfig,
    device: str,
    *,
    units: tuple[type[nn.Module], ...] = (),
    blocks: tuple[type[nn.Module], ...] = (),
) -> State:
    """The state before the first step; the model moves to the device, or each rank's part of it.

    units: what `shard` gathers one by one; blocks: what the network repeats.
    """
    if not config.shard:
        model.to(device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    model.train()
    average = average_of(model)
    if config.shard:
        shard(model, units, config.ranks, device)
        shard(average, units, config.ranks, device)
    return State(model=model, average=average, optimizer=new_optimizer(model, config, blocks))
