"""The training loop. It knows nothing of what a batch is, where it comes from, or what happens between steps."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks
from unclip.training.job import Batch, Loss
from unclip.training.sam import ascended
from unclip.training.schedule import learning_rate
from unclip.training.seeds import step_seed
from unclip.training.sharding import is_shared, whole
from unclip.training.state import State

Figures = dict[str, Tensor]


def fit(
    state: State,
    step: Callable[[State, Batch], Figures],
    batches: Iterator[Batch],
    config: TrainConfig,
    on_step: Callable[[State, Figures], None],
) -> None:
    """Trains from the state's step to the configured last one; `on_step` follows each step."""
    while state.step < config.num_steps:
        figures = step(state, next(batches))
        state.advance(config)
        on_step(state, figures)


class Step:
    """One step of optimisation: (state, batch) -> figures. Everything random in it is seeded by (seed, step, rank).

    A batch is this rank's part; gradients and figures are means over all ranks.
    """

    def __init__(self, loss: Loss, config: TrainConfig, seed: int, device: str, ranks: Ranks) -> None:
        self.loss, self.config, self.seed, self.ranks = loss, config, seed, ranks
        self.generator = torch.Generator(device)
        self.device = device

    def __call__(self, state: State, batch: Batch) -> Figures:
        """Raises: FloatingPointError when loss or gradient is not finite; the weights are as before."""
        figures = self._gradients(state, batch)
        if self.config.sam_rho:
            with ascended(state.model, self.config.sam_rho):
                self._gradients(state, batch)
        own = [grad for grad in gradients_of(state.model) if not is_shared(grad)]  # shared out, they come as means
        self.ranks.average([*own, *figures.values()])
        norm = clip_gradients(state.model, self.config.clip_norm)
        check_finite(state.step, figures["loss"], norm)
        state.optimizer.step(learning_rate(self.config, state.step))
        return {**figures, "grad_norm": norm}

    def _gradients(self, state: State, batch: Batch) -> Figures:
        """Fills the gradients; the batch's figures. The same state draws the same again."""
        torch.manual_seed(self._seed_of(state.step, "global"))
        self.generator.manual_seed(self._seed_of(state.step, "loss"))
        parts = [self._backward(state.model, part) for part in split(batch, self.config.accumulate)]
        return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    def _backward(self, model: nn.Module, batch: Batch) -> Figures:
        """Adds a part's share to the gradients; its figures."""
        with autocast(self.config, self.device):
            loss, figures = self.loss(model, batch, self.generator)
        (loss / self.config.accumulate).backward()
        return {name: value.detach().float() for name, value in {**figures, "loss": loss}.items()}

    def _seed_of(self, step: int, purpose: str) -> int:
        return step_seed(self.seed, step, purpose if self.ranks.is_first else f"{purpose} {self.ranks.index}")


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """A batch in parts of one size, which `num_parts` divides it into."""
    if num_parts == 1:
        return [batch]
    chunks = {name: value.chunk(num_parts) for name, value in batch.items()}
    return [{name: parts[number] for name, parts in chunks.items()} for number in range(num_parts)]


def autocast(config: TrainConfig, device: str) -> AbstractContextManager[None]:
    """The configured precision for what runs inside. Of weights that are let go again no copy is kept."""
    device_type, is_bf16 = torch.device(device).type, config.precision == "bf16"
    return torch.autocast(device_type, torch.bfloat16, enabled=is_bf16, cache_enabled=not config.shard)


def gradients_of(model: nn.Module) -> list[Tensor]:
    """The gradients of the parameters that have one."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """The norm of all gradients together, which are then scaled to at most `max_norm` (0: left as they are)."""
    kinds: dict[bool, list[nn.Parameter]] = {}  # shared out or not: both at once torch does not take
    for p in model.parameters():
        if p.grad is not None:
            kinds.setdefault(is_shared(p.grad), []).append(p)
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind])) for kind in kinds.values()]
    norm = nn.utils.get_total_norm(norms)
    if max_norm:
        for kind in kinds.values():
            nn.utils.clip_grads_with_norm_(kind, max_norm, norm)
    return norm


def check_finite(step: int, loss: Tensor, norm: Tensor) -> None:
    """Raises: FloatingPointError naming what is not finite, and the step."""
    if not torch.isfinite(loss.detach() + norm):
        name, value = ("loss", loss) if not torch.isfinite(loss) else ("gradient norm", norm)
        raise FloatingPointError(f"{name} is {value.item()} at step {step}")
