"""Adam with decoupled weight decay (App. C): torch's fused kernel on moments that we name and save ourselves.

The class `torch.optim.AdamW` would do; constructing it imports torch's compiler, 1.2 s and 155 MB in every worker.
"""

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from unclip.training.config import TrainConfig
from unclip.training.sharding import local


class Adam:
    """The optimiser of parameters by name; weight decay spares vectors: biases, gains, lone tokens."""

    def __init__(self, parameters: dict[str, nn.Parameter], config: TrainConfig) -> None:
        self.config = config
        self.parameters = parameters
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = {name: torch.zeros((), device=p.device) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves every parameter that has a gradient; the gradients are used up."""
        for is_matrix, decay in ((True, self.config.weight_decay), (False, 0.0)):
            chosen = {n: p for n, p in self.parameters.items() if p.grad is not None and (p.ndim > 1) == is_matrix}
            if chosen:
                self._move(chosen, rate, decay)
        for parameter in self.parameters.values():
            parameter.grad = None

    def _move(self, chosen: dict[str, nn.Parameter], rate: float, decay: float) -> None:
        adamw(
            [local(p) for p in chosen.values()],
            [local(p.grad) for p in chosen.values() if p.grad is not None],
            [local(self.first[name]) for name in chosen],
            [local(self.second[name]) for name in chosen],
            [],
            [self.steps[name] for name in chosen],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=rate,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            eps=self.config.eps,
            weight_decay=decay,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All its state, by name."""
        parts = {"first": self.first, "second": self.second, "steps": self.steps}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
