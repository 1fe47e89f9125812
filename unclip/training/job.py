"""What a trained stage hands to the training loop; the loop knows nothing else about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from unclip.training.config import TrainConfig

Batch = dict[str, Tensor]
Indices = NDArray[np.int64]
Loss = Callable[[nn.Module, Batch, Generator], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network, its loss and its rows.

    `batch` and `keys` take row numbers in [0, num_rows) and may be called from several threads at once; what they
    return depends on the row numbers alone. `loss` draws from the generator it is given or from torch's global one:
    both are seeded anew each step. `validate` scores a network on a fixed, seeded set; `finish` gets the averaged
    network and the stage's folder after the last step, writes what goes beside the weights, and returns metrics.
    """

    model: nn.Module
    loss: Loss
    batch: Callable[[Indices], Batch]
    num_rows: int
    keys: Callable[[Indices], list[str]]
    train: TrainConfig
    validate: Callable[[nn.Module], dict[str, float]] | None
    finish: Callable[[nn.Module, Path], dict[str, Any]]
    blocks: tuple[type[nn.Module], ...] = ()  # that the network repeats: compiled or recomputed one by one
    units: tuple[type[nn.Module], ...] = ()  # whose weights nothing uses but a call of theirs: gathered one by one
    example: tuple[Tensor, ...] | None = None  # what the model takes for one row, on the meta device

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError("there is no row to train on: every row was dropped or held out")
        if self.train.keep_best and self.validate is None:
            raise ValueError("train.keep_best has no effect: there is no row to validate on")
        if self.train.keep_best and not 0 < self.train.validate_every < self.train.num_steps:
            raise ValueError("train.keep_best has no effect: validate_every names no step but the last")
