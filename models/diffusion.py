"""Gaussian diffusion: noising, what a prediction implies, and the losses.

x0 clean, xt noised, eps the noise in xt, v the variance channels in [-1, 1] at their two ends; (B, ...) each.
t: (B,) int64, positions in the chain of `schedule`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.schedule import Schedule


def level(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries t of a schedule's (n,) float64 property as float32 on the device of `like`, to broadcast with it."""
    taken = values.to(like.device)[t].float()
    return taken.reshape(-1, *[1] * (like.dim() - 1))


def draw_timesteps(num_samples: int, schedule: Schedule, generator: torch.Generator, device: torch.device) -> Tensor:
    """(B,) positions drawn uniformly from the whole chain."""
    return torch.randint(schedule.num_steps, (num_samples,), generator=generator, device=generator.device).to(device)


def draw_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal float32 of the shape and device of `like`, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device).to(like.device)


def q_sample(x0: Tensor, t: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """xt: the clean input noised to level t (Ho et al. 2020, eq. 4)."""
    alpha_bar = level(schedule.alpha_bar, t, x0)
    return alpha_bar.sqrt() * x0 + level(1 - schedule.alpha_bar, t, x0).sqrt() * noise


def predict_x0(xt: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The clean input implied by a noise prediction (Ho et al. 2020, eq. 15 solved for x0). Not clamped.

    alpha_bar: in (0, 1], a number or broadcastable to xt.
    """
    return (xt - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def predict_eps(xt: Tensor, x0: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noise implied by a prediction of the clean input; alpha_bar in [0, 1)."""
    return (xt - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5


def eps_of_v(xt: Tensor, v: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noise that a prediction of v implies (Salimans & Ho 2022, §4)."""
    return (1 - alpha_bar) ** 0.5 * xt + alpha_bar**0.5 * v


def posterior_mean(x0: Tensor, xt: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Mean of the next cleaner level given xt and x0 (Ho et al. 2020, eq. 7)."""
    return level(schedule.posterior_x0_weight, t, xt) * x0 + level(schedule.posterior_xt_weight, t, xt) * xt


def learned_log_variance(v: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Log-variance between the posterior's (v = -1) and beta (v = 1) (Nichol & Dhariwal 2021, eq. 15)."""
    low, high = level(schedule.posterior_log_variance, t, v), level(schedule.beta.log(), t, v)
    fraction = (v + 1) / 2
    return fraction * high + (1 - fraction) * low


def variational_bound(eps: Tensor, v: Tensor, x0: Tensor, xt: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """(B,) the term L_t of the variational bound in bits per dimension, in float32 (Nichol & Dhariwal 2021, §3.1).

    At t = 0 it is the likelihood of x0 on the 8-bit grid, elsewhere a divergence of two Gaussians.
    """
    alpha_bar = level(schedule.alpha_bar, t, xt)
    predicted = predict_x0(xt.float(), eps.float(), alpha_bar).clamp(-1, 1)
    mean, log_variance = posterior_mean(predicted, xt, t, schedule), learned_log_variance(v.float(), t, schedule)
    true_mean, true_log_variance = posterior_mean(x0, xt, t, schedule), level(schedule.posterior_log_variance, t, xt)
    divergence = gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
    likelihood = -discretised_log_likelihood(x0, mean, log_variance)
    first = (t == 0).reshape(-1, *[1] * (xt.dim() - 1))
    return torch.where(first, likelihood, divergence).flatten(1).mean(1) / math.log(2)


def gaussian_divergence(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the second Gaussian from the first, in nats, entry by entry."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (-1.0 - ratio + ratio.exp() + (mean1 - mean2) ** 2 * (-log_variance2).exp())


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability, in nats, that a Gaussian falls in the 8-bit bin of x in [-1, 1]; the end bins are open."""
    scale, half_bin = (-0.5 * log_variance).exp(), 1 / 255
    above = torch.special.ndtr((x + half_bin - mean) * scale)
    below = torch.special.ndtr((x - half_bin - mean) * scale)
    above = torch.where(x > 0.999, torch.ones_like(above), above)
    below = torch.where(x < -0.999, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()


def noise_error(eps: Tensor, noise: Tensor, t: Tensor, schedule: Schedule, prediction: str) -> Tensor:
    """Mean squared error of the noise (Ho et al. 2020, eq. 14), or of v or x0 as this noise implies them.

    An error of the noise is one of v times the root of the signal's power, and one of x0 times that of the SNR.
    """
    alpha_bar = level(schedule.alpha_bar, t, noise)
    unit = {"eps": torch.ones_like(alpha_bar), "v": alpha_bar, "x0": alpha_bar / (1 - alpha_bar)}[prediction]
    return ((eps.float() - noise) ** 2 / unit).mean()


def min_snr_weight(t: Tensor, schedule: Schedule, gamma: float) -> Tensor:
    """(B,) weights min(SNR, gamma) / SNR of noise errors (Hang et al. 2023, eq. 8): little noise counts for less.

    Not the paper's, which weighs all levels alike (gamma without bound).
    """
    snr = level(schedule.alpha_bar / (1 - schedule.alpha_bar), t, t)
    return snr.clamp(max=gamma) / snr


def high_noise_weight(t: Tensor, schedule: Schedule, most: float) -> Tensor:
    """(B,) weights min(1 / alpha_bar, most) of noise errors: much noise counts for more.

    Unbounded they are Salimans & Ho's (2022, §4, "SNR+1"), the plain error of v. An error in the noise
    is a far larger one in x0 there; docs/log.md has what a short run gains. A noise predictor needs the bound:
    1 / alpha_bar ends at 4e8 (cosine, 1,000 steps). Not the paper's, which weighs all levels alike (`most` 1).
    """
    return (1 / level(schedule.alpha_bar, t, t)).clamp(max=most)


def hybrid_loss(
    eps: Tensor,
    v: Tensor,
    noise: Tensor,
    x0: Tensor,
    xt: Tensor,
    t: Tensor,
    schedule: Schedule,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise error plus the variational term x T/1000, which trains the variance alone (Nichol & Dhariwal 2021, eq. 16).

    eps, v: the network's prediction for xt; noise: what is in xt. The bound sees eps detached. weights: (B,)
    of the noise errors; None weighs all alike. Returns (loss, figures), the error among them unweighted.
    """
    errors = ((eps.float() - noise) ** 2).flatten(1).mean(1)  # (B,)
    weighted = errors if weights is None else errors * weights
    bound = variational_bound(eps.detach(), v, x0, xt, t, schedule).mean() * (schedule.num_steps / 1000)
    return weighted.mean() + bound, {"mse": errors.detach().mean(), "bound": bound.detach()}


def x0_loss(predicted: Tensor, x0: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of a prediction of the clean input (§2.2). Returns (loss, figures)."""
    error = F.mse_loss(predicted.float(), x0)
    return error, {"mse": error.detach()}
