"""Noising, posteriors and losses: moments, identities, and the terms that others get wrong."""

import torch
from diffusers import DDPMScheduler

from models.diffusion import (
    discretised_log_likelihood,
    gaussian_divergence,
    high_noise_weight,
    hybrid_loss,
    learned_log_variance,
    level,
    min_snr_weight,
    posterior_mean,
    predict_eps,
    predict_x0,
    q_sample,
    variational_bound,
)
from models.schedule import cosine_schedule, linear_schedule


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_q_sample_has_the_moments_of_its_level():
    schedule = cosine_schedule(100)
    for t in (3, 50, 97):
        xt = q_sample(torch.full((20_000, 1), 0.7), torch.full((20_000,), t), random(20_000, 1), schedule)
        alpha_bar = float(schedule.alpha_bar[t])
        assert abs(float(xt.mean()) - 0.7 * alpha_bar**0.5) < 0.03
        assert abs(float(xt.var()) - (1 - alpha_bar)) < 0.03


def test_q_sample_equals_diffusers():
    reference = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    x0, noise, t = random(4, 3, 8, 8), random(4, 3, 8, 8, seed=1), torch.tensor([0, 10, 500, 999])
    ours = q_sample(x0, t, noise, linear_schedule(1000))
    torch.testing.assert_close(ours, reference.add_noise(x0, noise, t), atol=1e-5, rtol=0)


def test_predictions_of_x0_and_noise_undo_noising():
    x0, noise = random(2, 5), random(2, 5, seed=1)
    xt = 0.3**0.5 * x0 + 0.7**0.5 * noise
    torch.testing.assert_close(predict_x0(xt, noise, 0.3), x0)
    torch.testing.assert_close(predict_eps(xt, x0, 0.3), noise)


def test_posterior_of_a_chain_composes_to_its_marginal():
    schedule, x0, t = linear_schedule(50), torch.full((50_000, 1), 0.5), torch.full((50_000,), 30)
    xt = q_sample(x0, t, random(50_000, 1), schedule)
    before = posterior_mean(x0, xt, t, schedule)
    before += float(schedule.posterior_variance[30]) ** 0.5 * random(50_000, 1, seed=1)
    alpha_bar = float(schedule.alpha_bar[29])
    assert abs(float(before.mean()) - 0.5 * alpha_bar**0.5) < 0.02
    assert abs(float(before.var()) - (1 - alpha_bar)) < 0.02


def test_learned_variance_lies_between_posterior_and_beta():
    schedule, t = cosine_schedule(100), torch.tensor([5, 50])
    low, high = (learned_log_variance(torch.full((2, 1), v), t, schedule)[:, 0].exp() for v in (-1.0, 1.0))
    torch.testing.assert_close(low.double(), schedule.posterior_variance[t], rtol=1e-4, atol=0)
    torch.testing.assert_close(high.double(), schedule.beta[t], rtol=1e-4, atol=0)


def hybrid(t, num_steps, eps_error=0.1, v=0.3):
    schedule = cosine_schedule(num_steps)
    x0, noise, t = random(2, 3, 4, 4).clamp(-1, 1), random(2, 3, 4, 4, seed=1), torch.tensor(t)
    xt = q_sample(x0, t, noise, schedule)
    eps = (noise + eps_error).requires_grad_()
    v = torch.full_like(noise, v).requires_grad_()
    loss, figures = hybrid_loss(eps, v, noise, x0, xt, t, schedule)
    loss.backward()
    return eps, v, figures, variational_bound(eps, v, x0, xt, t, schedule).detach()


def test_the_variational_term_is_weighted_by_a_thousandth_of_the_steps():
    for num_steps in (100, 4000):
        _, _, figures, bound = hybrid([num_steps // 2, num_steps // 3], num_steps)
        torch.testing.assert_close(figures["bound"], bound.mean() * num_steps / 1000)


def test_the_variational_term_trains_the_variance_alone():
    eps, v, _, _ = hybrid([40, 70], 100)
    torch.testing.assert_close(eps.grad, torch.full_like(eps, 2 * 0.1 / eps.numel()), atol=1e-6, rtol=1e-3)
    assert float(v.grad.abs().min()) > 0


def test_min_snr_spares_noisy_levels_and_holds_the_others_at_gamma():
    """Its weight times SNR, which weighs errors of x0 alike, is the SNR up to gamma and then gamma."""
    schedule, t = cosine_schedule(100), torch.arange(100)
    snr = (schedule.alpha_bar / (1 - schedule.alpha_bar)).float()
    weight = min_snr_weight(t, schedule, 5.0)
    torch.testing.assert_close(weight * snr, snr.clamp(max=5.0))
    assert bool((weight[snr < 5] == 1).all()) and float(weight[0]) < 0.01


def test_unbounded_weights_of_high_noise_make_the_error_of_v():
    schedule, t = cosine_schedule(100), torch.tensor([5, 60, 95])
    x0, noise, guess = (random(3, 4, seed=seed) for seed in (0, 1, 2))
    xt, alpha_bar = q_sample(x0, t, noise, schedule), level(schedule.alpha_bar, t, x0)
    v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    guessed_v = alpha_bar.sqrt() * guess - (1 - alpha_bar).sqrt() * predict_x0(xt, guess, alpha_bar)
    weight = high_noise_weight(t, schedule, 1e9)
    torch.testing.assert_close((guess - noise).square().sum(1) * weight, (guessed_v - v).square().sum(1))
    assert high_noise_weight(t, schedule, 4.0).max() == 4 and high_noise_weight(t, schedule, 1.0).tolist() == [1, 1, 1]


def test_weighted_errors_are_weighted_each_by_its_own_level():
    schedule, t = cosine_schedule(100), torch.tensor([3, 60])
    x0, noise = random(2, 3, 4, 4).clamp(-1, 1), random(2, 3, 4, 4, seed=1)
    xt = q_sample(x0, t, noise, schedule)
    off = torch.tensor([0.5, 0.1]).reshape(2, 1, 1, 1)
    args = (noise + off, torch.zeros_like(noise), noise, x0, xt, t, schedule)
    weights = torch.tensor([0.5, 4.0])
    plain, weighted = hybrid_loss(*args), hybrid_loss(*args, weights)
    expected = (torch.tensor([0.25, 0.01]) * weights).mean()
    torch.testing.assert_close(weighted[0] - weighted[1]["bound"], expected)
    assert weighted[1] == plain[1]


def test_the_variational_term_of_bfloat16_predictions_is_counted_in_float32():
    schedule, t = cosine_schedule(100), torch.tensor([0, 40, 70])
    x0, xt, eps, v = (random(3, 3, 4, 4, seed=seed) for seed in range(4))
    eps, v = eps.bfloat16(), v.clamp(-1, 1).bfloat16()
    bound = variational_bound(eps, v, x0, xt, t, schedule)
    torch.testing.assert_close(bound, variational_bound(eps.float(), v.float(), x0, xt, t, schedule), atol=0, rtol=0)


def test_a_perfect_prediction_with_the_posterior_variance_diverges_by_nothing():
    _, _, _, bound = hybrid([40, 70], 100, eps_error=0.0, v=-1.0)
    assert float(bound.abs().max()) < 1e-4


def test_divergence_of_a_gaussian_from_itself_is_zero_and_else_positive():
    mean, log_variance = random(10), random(10, seed=1)
    assert float(gaussian_divergence(mean, log_variance, mean, log_variance).abs().max()) == 0
    assert float(gaussian_divergence(mean, log_variance, mean + 0.5, log_variance).min()) > 0


def test_likelihoods_of_all_bins_sum_to_one():
    grid = torch.arange(256) / 127.5 - 1
    likelihoods = discretised_log_likelihood(grid, torch.tensor(0.2), torch.tensor(-4.0)).exp()
    assert abs(float(likelihoods.sum()) - 1) < 1e-4
