"""Noise schedules and sub-chains, against closed forms and diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from models.schedule import cosine_schedule, linear_schedule, named_schedule, respaced, truncated


def test_cosine_schedule_is_float64_with_offset_and_cap():
    schedule = cosine_schedule(1000)
    first = math.cos((1 / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert schedule.alpha_bar.dtype == torch.float64
    assert float(schedule.alpha_bar[0]) == pytest.approx(first, abs=1e-15)
    assert float(schedule.beta[-1]) == pytest.approx(0.999, abs=1e-12)


@pytest.mark.parametrize(("name", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_schedules_equal_diffusers(name, theirs):
    reference = DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs)
    torch.testing.assert_close(
        named_schedule(name, 1000).alpha_bar.float(), reference.alphas_cumprod, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("num_steps", [15, 1000])
def test_posterior_variance_equals_diffusers(num_steps):
    reference = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", timestep_spacing="linspace")
    reference.set_timesteps(num_steps)
    ours = respaced(linear_schedule(1000), num_steps).posterior_variance
    theirs = torch.stack([reference._get_variance(t) for t in reference.timesteps.flip(0)])
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 15, 27, 64, 250, 1000])
def test_respacing_keeps_exactly_n_levels_from_the_noisiest(num_steps):
    chain = respaced(cosine_schedule(1000), num_steps)
    assert chain.num_steps == len(set(chain.timesteps.tolist())) == num_steps
    assert int(chain.timesteps[-1]) == 999
    assert num_steps == 1 or int(chain.timesteps[0]) == 0


@pytest.mark.parametrize("num_steps", [2, 15, 27, 64, 250, 1000])
def test_respacing_equals_diffusers(num_steps):
    reference = DDPMScheduler(num_train_timesteps=1000, timestep_spacing="linspace")
    reference.set_timesteps(num_steps)
    assert torch.equal(respaced(cosine_schedule(1000), num_steps).timesteps.flip(0), reference.timesteps)


def test_a_sub_chain_has_a_posterior_of_its_own():
    full = cosine_schedule(1000)
    chain = respaced(full, 10)
    before, at = chain.alpha_bar[4], chain.alpha_bar[5]
    assert float(chain.posterior_variance[5]) == pytest.approx(float((1 - before) / (1 - at) * (1 - at / before)))
    assert float(chain.posterior_variance[5]) > 10 * float(full.posterior_variance[int(chain.timesteps[5])])


def test_truncation_leaves_the_levels_with_enough_signal():
    chain = truncated(cosine_schedule(1000), 1e-3)
    assert chain.timesteps.tolist() == list(range(chain.num_steps))
    assert float(chain.alpha_bar[-1]) >= 1e-3 > float(cosine_schedule(1000).alpha_bar[chain.num_steps])


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_respacing_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps must be from 1 to 1000, got {num_steps}"):
        respaced(cosine_schedule(1000), num_steps)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule must be one of cosine, linear, got 'sine'"):
        named_schedule("sine", 10)
