"""Samplers: pure functions of a denoiser, a start and a chain of noise levels; one network call a level.

x: (B, ...) float32 at the chain's noisiest level; a sampler returns the clean x0. Noise comes from `generator`.
A denoiser maps (xt, t), t the (B,) timesteps of the training chain, to the predicted x0 and the variance channels.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from models.diffusion import draw_noise, learned_log_variance, predict_eps, predict_x0
from models.guidance import Network
from models.schedule import Schedule

Denoiser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def x0_denoiser(network: Network) -> Denoiser:
    """The denoiser of a network that predicts x0."""

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        prediction, variance = network(x, t)
        return prediction.float(), None if variance is None else variance.float()

    return denoise


def eps_denoiser(network: Network, schedule: Schedule, *, clamp: bool) -> Denoiser:
    """The denoiser of a network that predicts noise, x0 clamped to [-1, 1] where asked: once, after any guidance.

    schedule: the training chain, whose steps t names.
    """

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        eps, variance = network(x, t)
        x0 = predict_x0(x, eps.float(), float(schedule.alpha_bar[int(t[0])]))
        return x0.clamp(-1, 1) if clamp else x0, None if variance is None else variance.float()

    return denoise


def ddpm(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, generator: torch.Generator | None, *, learned: bool = True
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    The variance is the one the denoiser learned, or the posterior's where `learned` is False.
    """
    for i, t in _noisiest_first(x, schedule):
        x0, v = denoiser(x, t)
        x = _posterior_mean(x0, x, schedule, i)
        if i == 0:
            continue
        log_variance = schedule.posterior_log_variance[i].float().to(x.device)
        if learned:
            assert v is not None, "the denoiser has no variance channels"
            log_variance = learned_log_variance(v, torch.full_like(t, i), schedule)
        x = x + (0.5 * log_variance).exp() * draw_noise(x, generator)
    return x


def analytic_dpm(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, generator: torch.Generator | None, *, x0_power: float
) -> Tensor:
    """Ancestral sampling with the optimal isotropic variance (Bao et al. 2022, theorem 1 and eq. 7).

    x0_power: the mean square of an entry of x0, which must be the same for every sample, as on a sphere. Then the
    variance of x0 given xt is `x0_power` less the mean square of its prediction, for each sample and without the
    Monte Carlo estimate that the authors need.
    """
    for i, t in _noisiest_first(x, schedule):
        x0, _ = denoiser(x, t)
        x = _posterior_mean(x0, x, schedule, i)
        if i == 0:
            continue
        unexplained = (x0_power - (x0**2).flatten(1).mean(1)).clamp(min=0)  # (B,)
        variance = float(schedule.posterior_variance[i]) + float(schedule.posterior_x0_weight[i]) ** 2 * unexplained
        x = x + variance.sqrt().reshape(-1, *[1] * (x.dim() - 1)) * draw_noise(x, generator)
    return x


def ddim(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, generator: torch.Generator | None = None, *, eta: float = 0.0
) -> Tensor:
    """Implicit sampling (Song et al. 2021, eq. 12): nothing drawn at eta 0, the posterior's variance at eta 1."""
    for i, t in _noisiest_first(x, schedule):
        x0, _ = denoiser(x, t)
        alpha_bar, previous = float(schedule.alpha_bar[i]), float(schedule.alpha_bar_prev[i])
        variance = eta**2 * float(schedule.posterior_variance[i])
        eps = predict_eps(x, x0, alpha_bar)
        x = previous**0.5 * x0 + (1 - previous - variance) ** 0.5 * eps if i else x0
        if eta and i:
            x = x + variance**0.5 * draw_noise(x, generator)
    return x


def ddim_invert(denoiser: Denoiser, x: Tensor, schedule: Schedule, *, num_refinements: int = 0) -> Tensor:
    """The noise from which `ddim` at eta 0 makes a clean x, walking the same chain upwards (§3, bipartite latent).

    The denoiser must not clamp. A level's noise is predicted at the level below it; each refinement, one more call a
    level, predicts it at the level just found instead, which is the exact inverse where it converges.
    """
    for i, t in reversed(list(_noisiest_first(x, schedule))):
        alpha_bar, previous = float(schedule.alpha_bar[i]), float(schedule.alpha_bar_prev[i])
        below, at = x, x
        for _ in range(num_refinements + 1):
            eps = predict_eps(at, denoiser(at, t)[0], alpha_bar)
            at = alpha_bar**0.5 * predict_x0(below, eps, previous) + (1 - alpha_bar) ** 0.5 * eps
        x = at
    return x


def _noisiest_first(x: Tensor, schedule: Schedule) -> Iterator[tuple[int, Tensor]]:
    """Positions of the chain from its end to 0, each with the (B,) timestep a network is told."""
    for i in reversed(range(schedule.num_steps)):
        yield i, torch.full((len(x),), int(schedule.timesteps[i]), device=x.device)


def _posterior_mean(x0: Tensor, x: Tensor, schedule: Schedule, i: int) -> Tensor:
    if i == 0:
        return x0
    return float(schedule.posterior_x0_weight[i]) * x0 + float(schedule.posterior_xt_weight[i]) * x
