"""The optimiser that a run is configured with: Adam for all parameters, or Muon for the matrices of repeated blocks."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from unclip.training.adam import Adam
from unclip.training.config import TrainConfig

MOMENTUM = 0.95  # Jordan et al. 2024
COEFFICIENTS, NUM_ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7  # of Newton-Schulz; Jordan et al. 2024
RMS = 0.2  # of a step's entries, which is about that of Adam's; Liu et al. 2025, §2.2


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with all their singular values near one, by Newton-Schulz (Jordan et al. 2024).

    In bf16, which the method bears. All but the smallest come out between about 0.7 and 1.2.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = (matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=EPS)).bfloat16()
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon:
    """Matrices and kernels move along their momentum with all singular values near one (Jordan et al. 2024).

    Steps have the size of Adam's, so `learning_rate` is one for both (Liu et al. 2025, §2.2). A kernel is seen as the
    matrix of its output channels by all the rest. Matrices of one shape are worked on together: the decoder of
    `shapes` moves in 42 ms on one thread, and in 66 with `torch.optim.Muon`'s steps, one matrix after the other.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], rest: Adam, config: TrainConfig) -> None:
        self.parameters, self.rest, self.config = parameters, rest, config
        self.momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves every parameter that has a gradient; the gradients are used up."""
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for name, p in self.parameters.items():
            if p.grad is not None:
                momentum = self.momentum[name].lerp_(p.grad, 1 - MOMENTUM)
                ahead = p.grad.lerp_(momentum, MOMENTUM).reshape(len(p), -1)  # Nesterov's
                alike[ahead.shape[0], ahead.shape[1]].append((p, ahead))
                p.grad = None
        while alike:
            shape, members = alike.popitem()
            moves = orthogonal(torch.stack([ahead for _, ahead in members]))
            for (p, _), move in zip(members, moves, strict=True):
                p.mul_(1 - rate * self.config.weight_decay).add_(move.view_as(p), alpha=-rate * RMS * max(shape) ** 0.5)
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
