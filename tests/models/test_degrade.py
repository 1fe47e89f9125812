"""What a low-resolution picture goes through before an upsampler is shown it."""

from functools import partial

import pytest
import torch

from models.degrade import (
    _random_blur,
    _random_jpeg,
    _random_noise,
    blur,
    bsr_full,
    bsr_light,
    convolve,
    degrade,
    gaussian_kernels,
    resize,
    to_grid,
)

STRIPES = torch.ones(24, 3, 32, 32)
STRIPES[..., ::2] = -1
GREY_STRIPES = 0.6 * STRIPES
BRIGHTNESS = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # JPEG's
GREEN_STRIPES = GREY_STRIPES * torch.tensor([1, -0.413 / 0.587, 1])[:, None, None]  # all of one brightness


def pictures(count, px, seed=0):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return resize(coarse, px)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_sample_tosses_its_own_blur_coin():
    images = torch.rand(400, 3, 8, 8, generator=seeded()) * 2 - 1
    changed = (blur(images, 0.5, seeded(1)) != images).flatten(1).any(1).float()
    assert float(changed.mean()) == pytest.approx(0.5, abs=0.08)
    assert torch.equal(blur(images, 0.0, seeded(1)), images)


def test_the_blur_is_a_gaussian_of_kernel_three_and_sigma_point_six():
    impulse = torch.zeros(1, 3, 7, 7)
    impulse[..., 3, 3] = 1
    row = blur(impulse, 1.0, seeded())[0, 0].sum(0)
    side = torch.exp(torch.tensor(-1 / (2 * 0.6**2)))
    torch.testing.assert_close(row, torch.tensor([0, 0, side, 1, side, 0, 0]) / (1 + 2 * side), atol=1e-6, rtol=0)


def test_kernels_sum_to_one_and_turn():
    kernels = gaussian_kernels(torch.tensor([[3.0, 0.5]] * 2), torch.tensor([0.0, torch.pi / 2]), 5)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(kernels[0], kernels[1].T, atol=1e-5, rtol=0)
    flat = torch.full((2, 3, 6, 6), 0.4)
    torch.testing.assert_close(convolve(flat, kernels), flat)


@pytest.mark.parametrize("kind", ["blur", "bsr_light", "bsr_full"])
def test_degraded_pictures_lie_on_the_eight_bit_grid(kind):
    levels = (degrade(pictures(4, 16), kind, seeded(), blur_prob=0.5) + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert float(levels.min()) >= -1e-3 and float(levels.max()) <= 255 + 1e-3


def test_full_bsr_is_stronger_than_light():
    images = pictures(32, 16)
    light, full = ((bsr(images, seeded(2)) - images).square().mean() for bsr in (bsr_light, bsr_full))
    assert 0 < float(light) < 0.5 * float(full)


def test_light_bsr_blurs():
    """Neither noise nor a JPEG of quality 80 takes contrast from grey stripes."""
    contrast = (bsr_light(GREY_STRIPES, seeded()) * STRIPES).mean((1, 2, 3))
    assert float(contrast.min()) < 0.3 and float(contrast.max()) < 0.62


def test_light_bsr_adds_noise():
    """A picture of one colour is what blurs and JPEG leave alone."""
    spread = bsr_light(torch.zeros(24, 3, 32, 32), seeded()).flatten(1).std(1)
    assert 0.005 < float(spread.max()) < 2 / 127.5


@pytest.mark.parametrize("bsr", [bsr_light, bsr_full])
def test_bsr_ends_in_a_jpeg(bsr):
    """Which halves the resolution of colour: no stripe and no noise of mere colour is left."""
    made = bsr(GREEN_STRIPES, seeded())
    colour = made[:, 0] - (made * BRIGHTNESS).sum(1)
    assert float((colour[..., ::2] - colour[..., 1::2]).abs().mean((1, 2)).max()) < 0.03


@pytest.mark.parametrize(
    "step",
    [
        partial(_random_blur, max_sigma=0.7),
        partial(_random_noise, max_std=0.1),
        partial(_random_jpeg, min_quality=30),
    ],
)
def test_every_sample_of_a_batch_is_degraded_by_draws_of_its_own(step):
    images = GREY_STRIPES + 0.1 * pictures(1, 32)
    changed = (step(images, seeded()) - images).square().mean((1, 2, 3))
    assert float(changed.max()) > 2 * float(changed.min())


def test_full_bsr_goes_through_its_steps_in_an_order_of_each_samples_own():
    """Noise is smooth where blurs came after it: in about half of the samples, in under 0.3 or over 0.6 if one order
    were everybody's."""
    noise = bsr_full(torch.zeros(64, 3, 16, 16), seeded())
    noise = noise - noise.mean((2, 3), keepdim=True)
    likeness = (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3)) / noise.square().mean((1, 2, 3))  # of neighbours
    noisy = likeness[likeness.isfinite()]
    assert float((noisy > 0.7).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_downsampling_is_antialiased():
    stripes = torch.ones(1, 3, 24, 24)
    stripes[..., ::2] = -1  # every third column alone would be stripes again
    assert float(resize(stripes, 8)[..., 2:-2].abs().max()) < 0.2


def test_the_grid_has_256_values_and_keeps_its_own():
    grid = torch.arange(256) / 127.5 - 1
    torch.testing.assert_close(to_grid(grid), grid)
    assert len(to_grid(torch.linspace(-1.2, 1.2, 5000)).unique()) == 256
