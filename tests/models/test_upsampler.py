"""Upsamplers and the degradations they learn to undo."""

from itertools import count, pairwise

import pytest
import torch

from models.config import UNetConfig, UpsamplerConfig
from models.degrade import resize, to_grid
from models.diffusion import noise_error, predict_x0, q_sample
from models.schedule import cosine_schedule
from models.tiles import starts, tiled
from models.unet import MapAttention
from models.upsampler import Upsampler, random_crop

CONFIG = UpsamplerConfig(low_px=8, high_px=16, unet=UNetConfig(channels=8, depth=1, head_channels=8), num_steps=100)


def pictures(count, px, seed=0):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return resize(coarse, px)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def upsampler(**settings):
    torch.manual_seed(0)
    return Upsampler(UpsamplerConfig(**{**vars(CONFIG), **settings})).eval()


def test_a_quarter_crop_is_half_the_side():
    assert upsampler().crop_px == 8
    assert upsampler(crop_fraction=1.0).crop_px == 16


def test_low_resolution_and_target_crops_are_in_register():
    """A ramp comes through small and large again: a pixel aside, it would be off by a step."""
    ramp = torch.linspace(-1, 1, 64).expand(64, 64)
    high = torch.stack([ramp, ramp.T, torch.zeros(64, 64)]).expand(16, -1, -1, -1)
    x0, resized_low = upsampler(low_px=32, high_px=64, blur_prob=0.0).training_pair(high, seeded())
    assert x0.shape == resized_low.shape == (16, 3, 32, 32)
    aside = (x0 - resized_low).flatten(2).median(-1).values  # the picture's borders are off a little
    assert float(aside.abs().max()) < 0.25 * 2 / 63


def test_every_sample_is_cropped_at_an_offset_of_its_own():
    grid = torch.arange(256.0).reshape(1, 1, 16, 16).expand(64, -1, -1, -1)
    crops = random_crop(grid, 8, seeded())
    assert len(crops[:, 0, 0, 0].unique()) > 20
    assert float(crops.min()) == 0 or float(crops.max()) == 255


def test_a_model_of_crops_runs_at_full_size():
    model = upsampler().train()
    model.loss(pictures(2, 16), seeded())[0].backward()
    assert not [module for module in model.modules() if isinstance(module, MapAttention)]
    assert model.sample(pictures(2, 8), seeded(), num_steps=2).shape == (2, 3, 16, 16)
    assert model.sample(pictures(2, 12), seeded(), num_steps=2).shape == (2, 3, 24, 24)


@pytest.mark.parametrize(("low_px", "high_px"), [(32, 48), (48, 64), (8, 32)])
def test_any_ratio_is_possible(low_px, high_px):
    model = upsampler(low_px=low_px, high_px=high_px)
    assert model.sample(pictures(1, low_px), seeded(), num_steps=1).shape == (1, 3, high_px, high_px)


def test_the_loss_draws_from_its_generator_alone():
    model = upsampler(degradation="bsr_full")
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    first = model.loss(pictures(2, 16), seeded(3))[0]
    torch.manual_seed(99)
    assert torch.equal(model.loss(pictures(2, 16), seeded(3))[0], first)
    assert not torch.equal(model.loss(pictures(2, 16), seeded(4))[0], first)


def test_samples_follow_the_seed_within_range():
    model = upsampler()
    first, again, other = (model.sample(pictures(2, 8), seeded(seed), num_steps=3) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.abs().max()) <= 1


def test_the_low_resolution_is_put_on_the_grid_that_training_saw():
    model, low = upsampler(prediction="x0"), pictures(2, 8)  # untrained, it gives back what it is given
    made, on_grid = (model.sample(given, seeded(), num_steps=2) for given in (low, to_grid(low)))
    assert not torch.equal(low, to_grid(low)) and torch.equal(made, on_grid)


def test_half_of_the_pictures_trained_on_are_blurred():
    images = torch.rand(400, 3, 16, 16, generator=seeded()) * 2 - 1
    pairs = [upsampler(crop_fraction=1.0, **prob).training_pair(images, seeded(1)) for prob in ({}, {"blur_prob": 0.0})]
    changed = (pairs[0][1] != pairs[1][1]).flatten(1).any(1).float()
    assert float(changed.mean()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet": UNetConfig(attention_px=(16,))}, r"unet.attention_px must be empty, got \(16,\)"),
        ({"high_px": 8}, "high_px must be > low_px 8, got 8"),
        ({"degradation": "nearest"}, "degradation must be one of blur, bsr_light, bsr_full, got 'nearest'"),
        ({"crop_fraction": 0.0}, r"crop_fraction must be in \(0, 1\], got 0.0"),
    ],
)
def test_impossible_upsamplers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        UpsamplerConfig(**{**vars(CONFIG), **settings})


@pytest.mark.parametrize(
    ("sizes", "unet", "billions"),
    [
        ((64, 256), UNetConfig(channels=320, multiples=(1, 2, 3, 4), depth=3), 0.7),
        ((256, 1024), UNetConfig(channels=192, multiples=(1, 1, 2, 2, 4, 4), depth=2), 0.3),
    ],
)
def test_the_paper_sizes_build_on_the_meta_device(sizes, unet, billions):
    with torch.device("meta"):
        model = Upsampler(UpsamplerConfig(low_px=sizes[0], high_px=sizes[1], unet=unet))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(billions * 1e9, rel=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_predicting_v_as_nothing_returns_the_low_resolution_picture_at_the_noisiest_level(schedule):
    network = Upsampler(UpsamplerConfig(low_px=8, high_px=16, prediction="v", schedule=schedule, unet=CONFIG.unet))
    low = torch.rand(2, 3, 16, 16) * 2 - 1
    noise, t = torch.randn(2, 3, 16, 16), torch.tensor([999, 999])  # the last convolution starts at zero
    eps = network(noise, t, low)
    alpha_bar = float(network.schedule.alpha_bar[-1])
    implied = (noise.double() - (1 - alpha_bar) ** 0.5 * eps.double()) / alpha_bar**0.5
    expected = alpha_bar**0.5 * noise + (1 - alpha_bar) * low
    assert torch.allclose(implied, expected.double(), atol=2e-2)


def test_the_error_of_v_is_the_noise_error_over_the_signal_power():
    schedule, t = cosine_schedule(100), torch.tensor([10, 60])
    eps, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    by_level = ((eps - noise) ** 2).flatten(1).mean(1)
    expected = (by_level / schedule.alpha_bar[t]).mean()
    assert torch.allclose(noise_error(eps, noise, t, schedule, "v").double(), expected, rtol=1e-4)


def test_predicting_x0_as_nothing_returns_the_low_resolution_picture_at_every_level():
    network = Upsampler(UpsamplerConfig(low_px=8, high_px=16, prediction="x0", unet=CONFIG.unet))
    low, xt, t = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 16, 16), torch.tensor([10, 700])
    implied = predict_x0(xt, network(xt, t, low), network.schedule.alpha_bar[t].float().reshape(2, 1, 1, 1))
    assert torch.allclose(implied, low, atol=1e-4)  # the last convolution starts at zero


def test_the_error_of_x0_is_that_of_the_picture_the_noise_implies():
    schedule, t = cosine_schedule(100), torch.tensor([10, 60])
    x0, noise, eps = (torch.randn(2, 3, 4, 4) for _ in range(3))
    alpha_bar = schedule.alpha_bar[t].float().reshape(2, 1, 1, 1)
    expected = (predict_x0(q_sample(x0, t, noise, schedule), eps, alpha_bar) - x0).square().mean()
    assert torch.allclose(noise_error(eps, noise, t, schedule, "x0"), expected, rtol=1e-4)


def test_tiles_cover_a_side_and_share_a_quarter_with_their_neighbours():
    for side, px, multiple in ((64, 16, 4), (100, 32, 4), (32, 16, 8), (24, 32, 8)):
        places = starts(side, px, multiple)
        assert places[0] == 0 and places[-1] + px >= side and all(place % multiple == 0 for place in places)
        assert all(0 < after - before <= 0.75 * px for before, after in pairwise(places))


def test_tiles_of_a_network_that_looks_at_one_pixel_are_the_whole():
    x, low = random_maps(2, 40, seed=1), random_maps(2, 40, seed=2)
    network = lambda x, low: 2 * x - low  # noqa: E731
    torch.testing.assert_close(tiled(network, x, low, px=16, multiple=2), network(x, low))


def test_tiles_cover_a_picture_that_is_not_square_and_may_be_smaller_than_one():
    x = random_maps(1, 40, seed=1)[..., :12, :]
    torch.testing.assert_close(tiled(lambda x: 2 * x, x, px=16, multiple=2), 2 * x)
    with pytest.raises(ValueError, match=r"image sides must be multiples of 8, got \(12, 40\)"):
        tiled(lambda x: x, x, px=16, multiple=8)


def test_no_network_sees_more_than_a_tile():
    sides = []
    model = lively()
    forward = model.unet.forward
    model.unet.forward = lambda x, *others: sides.append(x.shape[-1]) or forward(x, *others)
    model.sample(pictures(1, 24), seeded(), num_steps=2, tile_px=16)
    assert set(sides) == {16} and len(sides) == 2 * 4**2  # of 48 pixels


@pytest.mark.parametrize(("sides", "across"), [((16, 40), 2), ((40, 16), 3)])
def test_tiles_that_differ_fade_into_each_other(sides, across):
    numbers = count()
    made = tiled(lambda x: torch.full_like(x, next(numbers) % 2), torch.zeros(1, 1, *sides), px=16, multiple=2)
    along = made.mean(across).flatten()  # tiles at 0, 12 and 24, each four pixels over the next
    torch.testing.assert_close(along[11:17], torch.tensor([0, 0.125, 0.375, 0.625, 0.875, 1]))
    torch.testing.assert_close(along, along.flip(0))


def test_tiles_leave_no_seam():
    model, low = lively(), pictures(2, 32)
    made = model.sample(low, seeded(), num_steps=4, tile_px=32)
    jumps = (made[..., 1:] - made[..., :-1]).abs().mean(dim=(0, 1, 2))  # (63,), between neighbouring columns
    edges = [place for start in starts(64, 32, 2) for place in (start - 1, start + 31) if 0 <= place < 63]
    assert float(jumps[edges].mean()) < 1.1 * float(jumps.mean())
    assert made.shape == (2, 3, 64, 64) and float((made - model.sample(low, seeded(), num_steps=4)).abs().mean()) < 0.1


def test_a_tile_that_the_levels_cannot_halve_is_refused():
    with pytest.raises(ValueError, match="tile_px must be a multiple of 2 and at least 4, got 15"):
        upsampler().sample(pictures(1, 24), seeded(), num_steps=2, tile_px=15)


def random_maps(count, px, seed):
    return torch.randn(count, 3, px, px, generator=seeded(seed))


def lively():
    """An upsampler whose last convolution is not zero."""
    model = upsampler(prediction="x0")
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.05)
    return model
