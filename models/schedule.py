"""Noise schedules and the sub-chains that samplers walk, in float64.

T training steps, n positions of a chain; alpha_bar is the cumulative signal power, 1 - alpha_bar the noise power.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MAX_BETA = 0.999  # Nichol & Dhariwal 2021, §3.2


@dataclass(frozen=True)
class Schedule:
    """A chain of n noise levels from nearly clean to nearly noise, and what follows from them (Ho et al. 2020, §2).

    alpha_bar: (n,) float64, falling; timesteps: (n,) int64, the step of the training chain a network is told.
    Every property is (n,) float64. A sub-chain is a chain: all of it is computed from its own levels.
    """

    alpha_bar: Tensor
    timesteps: Tensor

    @property
    def num_steps(self) -> int:
        """The number of levels, which is the number of network calls a sampler makes."""
        return len(self.alpha_bar)

    @cached_property
    def alpha_bar_prev(self) -> Tensor:
        """Signal power one level cleaner; 1 before the first level."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @cached_property
    def beta(self) -> Tensor:
        """Variance added from one level to the next."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of the cleaner level given this one and x0 (Ho et al. 2020, eq. 7); 0 at the first level."""
        return self.beta * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Its logarithm, the first level's 0 replaced by the second level's variance (Nichol & Dhariwal 2021, §3.1)."""
        floor = self.posterior_variance[1] if self.num_steps > 1 else self.beta[0]
        return torch.cat([floor[None], self.posterior_variance[1:]]).log()

    @cached_property
    def posterior_x0_weight(self) -> Tensor:
        """Weight of x0 in the posterior mean (Ho et al. 2020, eq. 7)."""
        return self.alpha_bar_prev.sqrt() * self.beta / (1 - self.alpha_bar)

    @cached_property
    def posterior_xt_weight(self) -> Tensor:
        """Weight of xt in the posterior mean (Ho et al. 2020, eq. 7)."""
        return (1 - self.beta).sqrt() * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)


def cosine_schedule(num_steps: int) -> Schedule:
    """Signal power that falls as a squared cosine, s = 0.008, beta at most 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    time = torch.arange(num_steps + 1, dtype=torch.float64, device="cpu") / num_steps
    signal = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas(1 - signal[1:] / signal[:-1])


def linear_schedule(num_steps: int) -> Schedule:
    """Variances that rise linearly from 1e-4 to 0.02 at 1,000 steps, scaled for other counts (Ho et al. 2020, §4)."""
    scale = 1000 / num_steps
    return from_betas(torch.linspace(1e-4 * scale, 0.02 * scale, num_steps, dtype=torch.float64, device="cpu"))


def from_betas(betas: Tensor) -> Schedule:
    """The chain of given float64 variances, each capped at 0.999."""
    return Schedule(torch.cumprod(1 - betas.clamp(max=MAX_BETA), dim=0), torch.arange(len(betas), device="cpu"))


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule}


def named_schedule(name: str, num_steps: int) -> Schedule:
    """The training chain of a configured schedule.

    Raises: ValueError for a name other than cosine and linear.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    return SCHEDULES[name](num_steps)


def truncated(schedule: Schedule, min_signal: float) -> Schedule:
    """The levels of a chain that keep at least `min_signal` of the signal's power."""
    kept = schedule.alpha_bar >= min_signal
    return Schedule(schedule.alpha_bar[kept], schedule.timesteps[kept])


def respaced(schedule: Schedule, num_steps: int) -> Schedule:
    """The sub-chain of exactly `num_steps` levels, evenly strided from 0 to T - 1, both included (ADM).

    With one step it is the noisiest level alone.
    Raises: ValueError unless 1 <= num_steps <= T.
    """
    total = schedule.num_steps
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps must be from 1 to {total}, got {num_steps}")
    from_noisiest = torch.linspace(total - 1, 0, num_steps, dtype=torch.float64, device="cpu").round().long()
    chosen = from_noisiest.flip(0)
    return Schedule(schedule.alpha_bar[chosen], schedule.timesteps[chosen])
