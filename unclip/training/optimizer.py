"""The optimiser that a run is configured with: Adam for all parameters, or Muon for the matrices of repeated blocks."""

import torch
from torch import Tensor, nn
from torch.optim._muon import muon

from unclip.training.adam import Adam
from unclip.training.config import TrainConfig

MOMENTUM = 0.95  # Jordan et al. 2024
COEFFICIENTS, NUM_ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7  # of Newton-Schulz; Jordan et al. 2024


class Muon:
    """Matrices and kernels move along their momentum with all singular values near one (Jordan et al. 2024).

    Steps have the size of Adam's, so `learning_rate` is one for both (Liu et al. 2025, §2.2). torch's own kernel, which
    takes matrices alone: a kernel is seen as one of its output channels by all the rest.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], rest: Adam, config: TrainConfig) -> None:
        self.parameters, self.rest, self.config = parameters, rest, config
        self.momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves every parameter that has a gradient; the gradients are used up."""
        chosen = {name: p for name, p in self.parameters.items() if p.grad is not None}
        muon(
            [p.view(len(p), -1) for p in chosen.values()],
            [p.grad.reshape(len(p), -1) for p in chosen.values() if p.grad is not None],
            [self.momentum[name].view(len(p), -1) for name, p in chosen.items()],
            lr=rate,
            weight_decay=self.config.weight_decay,
            momentum=MOMENTUM,
            nesterov=True,
            ns_coefficients=COEFFICIENTS,
            ns_steps=NUM_ITERATIONS,
            eps=EPS,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )
        for parameter in chosen.values():
            parameter.grad = None
        self.rest.step(rate)

    def tensors(self) -> dict[str, Tensor]:
        """All its state, by name."""
        return self.rest.tensors() | {f"momentum.{name}": value for name, value in self.momentum.items()}


def new_optimizer(model: nn.Module, config: TrainConfig, blocks: tuple[type[nn.Module], ...]) -> Adam | Muon:
    """The configured optimiser of a model's trainable parameters; `blocks` are what the network repeats.

    Raises: ValueError where Muon would have nothing to move.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if config.optimizer == "adam":
        return Adam(parameters, config)
    inside = {id(p) for module in model.modules() if isinstance(module, blocks) for p in module.parameters()}
    matrices = {name: p for name, p in parameters.items() if id(p) in inside and p.ndim > 1}
    if not matrices:
        raise ValueError(f"train.optimizer 'muon' has no effect: {type(model).__name__} has no blocks of its own")
    rest = {name: p for name, p in parameters.items() if name not in matrices}
    return Muon(matrices, Adam(rest, config), config)
