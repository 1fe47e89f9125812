"""Samplers on distributions whose denoiser is known, and against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from models.diffusion import posterior_mean
from models.guidance import guide, guided
from models.samplers import analytic_dpm, ddim, ddim_invert, ddpm, eps_denoiser, x0_denoiser
from models.schedule import cosine_schedule, respaced

FULL = cosine_schedule(1000)
POWER = 0.3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def gaussian_denoiser(x, t):
    """The exact x0 prediction for data from N(0, POWER)."""
    alpha_bar = float(FULL.alpha_bar[int(t[0])])
    return alpha_bar**0.5 * POWER * x / (alpha_bar * POWER + 1 - alpha_bar), torch.full_like(x, -1.0)


def noise_network(x, t):
    return torch.tanh(x + t[:, None] / 1000), None


def learning_network(x, t):
    return noise_network(x, t)[0], torch.sin(5 * x)


SAMPLERS = {
    "ddim": ddim,
    "ddim, eta 1": lambda *args: ddim(*args, eta=1.0),
    "ddpm, learned": ddpm,
    "ddpm, posterior": lambda *args: ddpm(*args, learned=False),
    "analytic": lambda *args: analytic_dpm(*args, x0_power=POWER),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 15, 64])
def test_n_steps_are_n_calls_of_which_the_last_is_returned(name, num_steps):
    calls = []

    def denoiser(x, t):
        calls.append((int(t[0]), gaussian_denoiser(x, t)))
        return calls[-1][1]

    sampled = SAMPLERS[name](denoiser, random(3, 4), respaced(FULL, num_steps), seeded(0))
    assert [t for t, _ in calls] == respaced(FULL, num_steps).timesteps.flip(0).tolist()
    assert calls[0][0] == 999
    torch.testing.assert_close(sampled, calls[-1][1][0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_variance_of_the_data(name):
    sampled = SAMPLERS[name](gaussian_denoiser, random(200, 256), respaced(FULL, 250), seeded(1))
    assert float(sampled.var()) == pytest.approx(POWER, rel=0.07)


def test_the_analytic_variance_needs_fewer_steps_than_the_posterior_one():
    chain, start = respaced(FULL, 20), random(200, 512)
    errors = [
        abs(float(SAMPLERS[name](gaussian_denoiser, start, chain, seeded(1)).var()) - POWER)
        for name in ("analytic", "ddpm, posterior")
    ]
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_sample(name):
    first, second = (SAMPLERS[name](gaussian_denoiser, random(2, 4), respaced(FULL, 5), seeded(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(eta):
    theirs = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(50)
    x, first, second = random(2, 6), seeded(3), seeded(3)
    chain = type(FULL)(FULL.alpha_bar[theirs.timesteps.flip(0)], theirs.timesteps.flip(0))
    ours = ddim(eps_denoiser(noise_network, FULL, clamp=False), x, chain, first, eta=eta)
    for t in theirs.timesteps:
        x = theirs.step(noise_network(x, t.expand(2))[0], t, x, eta=eta, generator=second).prev_sample
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_every_step_of_a_ddpm_sub_chain_equals_diffusers(variance):
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type=variance, timestep_spacing="linspace")
    theirs.set_timesteps(27)
    learned, first, second = variance == "learned_range", seeded(3), seeded(3)
    expected, seen, denoiser = [random(2, 6)], [], eps_denoiser(learning_network, FULL, clamp=True)
    for t in theirs.timesteps:
        predicted = torch.cat(learning_network(expected[-1], t.expand(2))[: 1 + learned], dim=1)
        expected.append(theirs.step(predicted, t, expected[-1], generator=first).prev_sample)
    chain = respaced(FULL, 27)
    made = ddpm(lambda x, t: seen.append(x) or denoiser(x, t), expected[0], chain, second, learned=learned)
    torch.testing.assert_close(torch.stack([*seen, made]), torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [50, 500, 950])
def test_a_ddpm_step_equals_diffusers(t):
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)
    x, at = random(2, 6), torch.full((2,), t)
    expected = theirs.step(noise_network(x, at)[0], t, x, generator=seeded(3)).prev_sample
    noise = torch.randn(2, 6, generator=seeded(3))
    x0, _ = eps_denoiser(noise_network, FULL, clamp=True)(x, at)
    ours = posterior_mean(x0, x, at, FULL) + float(FULL.posterior_variance[t]) ** 0.5 * noise
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_inversion_then_sampling_returns_the_input():
    x0, chain = random(4, 16) * POWER**0.5, respaced(FULL, 100)
    inverted = ddim_invert(gaussian_denoiser, x0, chain, num_refinements=5)
    torch.testing.assert_close(ddim(gaussian_denoiser, inverted, chain), x0, atol=2e-3, rtol=0)
    assert float(inverted.std()) == pytest.approx(1, abs=0.25)


def test_finer_chains_invert_better_without_refinement():
    x0 = random(4, 16) * POWER**0.5
    errors = []
    for num_steps in (25, 100):
        chain = respaced(FULL, num_steps)
        errors.append(float((ddim(gaussian_denoiser, ddim_invert(gaussian_denoiser, x0, chain), chain) - x0).norm()))
    assert errors[1] < errors[0] / 3


def test_guidance_extrapolates_from_the_unconditional_prediction():
    torch.testing.assert_close(guide(torch.tensor(3.0), torch.tensor(1.0), 2.5), torch.tensor(6.0))
    torch.testing.assert_close(guide(torch.tensor(3.0), torch.tensor(1.0), 0.0), torch.tensor(1.0))


def test_guidance_at_one_is_the_conditional_model_itself():
    assert guided(noise_network, 1.0) is noise_network


def test_guidance_is_one_doubled_call_that_leaves_the_variance_conditional():
    calls = []

    def network(x, t):
        calls.append(len(x))
        condition = torch.tensor([5.0, 5.0, 1.0, 1.0])[:, None]
        return condition.expand_as(x), 10 * condition.expand_as(x)

    prediction, variance = guided(network, 2.0)(random(2, 3), torch.tensor([4, 4]))
    assert calls == [4]
    assert prediction.unique().tolist() == [9.0]
    assert variance.unique().tolist() == [50.0]


def test_x0_is_clamped_once_after_guiding():
    def network(x, t):
        return torch.cat([x[: len(x) // 2] * 0 - 40, x[len(x) // 2 :] * 0 - 30]), None

    x0, _ = eps_denoiser(guided(network, 0.5), FULL, clamp=False)(torch.zeros(1, 1), torch.tensor([500]))
    clamped, _ = eps_denoiser(guided(network, 0.5), FULL, clamp=True)(torch.zeros(1, 1), torch.tensor([500]))
    alpha_bar = float(FULL.alpha_bar[500])
    assert float(x0) == pytest.approx(35 * ((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-5)
    assert float(clamped) == 1.0


def test_predictions_reach_samplers_in_float32():
    x0, _ = x0_denoiser(lambda x, t: (x.bfloat16(), None))(random(1, 2), torch.tensor([3]))
    assert x0.dtype == torch.float32
