"""Great circles, and what is made along them."""

import torch
from torch.nn.functional import normalize

from models.config import CaptionEncoderConfig, DecoderConfig, UNetConfig
from models.decoder import Decoder
from models.edits import interpolate, slerp, slerp_noise, text_diff, variations

UNET = UNetConfig(channels=8, multiples=(1,), depth=1, head_channels=8)
CONFIG = DecoderConfig(image_px=8, unet=UNET, caption=CaptionEncoderConfig(width=8, depth=1, heads=2), num_steps=50)
TOKENS = torch.tensor([[8, 3, 9]])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(seed):
    return normalize(random(1, 6, seed=seed), dim=-1)


def decoder():
    torch.manual_seed(0)
    model = Decoder(CONFIG, embed_dim=6, vocab_size=10, context=3)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.05)
    return model.eval()


def test_slerp_stays_on_the_sphere_at_even_angles():
    start, end = unit(0), unit(1)
    angle = torch.arccos((start * end).sum())
    for t in (0.0, 0.3, 0.5, 1.0):
        point = slerp(start, end, t)
        torch.testing.assert_close(point.norm(dim=-1), torch.ones(1))
        torch.testing.assert_close((start * point).sum().clamp(max=1).arccos(), t * angle, atol=1e-3, rtol=0)


def test_slerp_of_a_batch_is_that_of_its_rows():
    start, end = torch.cat([unit(0), unit(1)]), torch.cat([unit(2), unit(1)])
    torch.testing.assert_close(slerp(start, end, 0.4)[:1], slerp(start[:1], end[:1], 0.4))
    torch.testing.assert_close(slerp(start, end, 0.4)[1:], end[1:])


def test_noise_between_two_latents_keeps_the_length_of_noise():
    start, end = random(2, 3, 16, 16), random(2, 3, 16, 16, seed=1)
    assert abs(float(slerp_noise(start, end, 0.5).std()) - 1) < 0.05
    torch.testing.assert_close(slerp_noise(start, end, 0.0), start)
    torch.testing.assert_close(slerp_noise(start, end, 1.0), end)


def test_the_ends_of_an_interpolation_are_the_two_pictures():
    model, zi, xt = decoder(), (unit(0), unit(1)), (random(1, 3, 8, 8), random(1, 3, 8, 8, seed=1))
    for end in (0, 1):
        made = interpolate(model, zi, xt, TOKENS, float(end), num_steps=10)
        torch.testing.assert_close(made, model.decode(xt[end], zi[end], TOKENS, 10), atol=1e-3, rtol=1e-3)


def test_a_text_diff_starts_at_the_picture_and_moves_along_the_difference():
    model, zi, xt, zt0, zt = decoder(), unit(0), random(1, 3, 8, 8), unit(1), unit(2)
    start, moved = (text_diff(model, xt, zi, zt0, zt, TOKENS, t, num_steps=10) for t in (0.0, 0.5))
    torch.testing.assert_close(start, model.decode(xt, zi, TOKENS, 10), atol=1e-3, rtol=1e-3)
    towards = slerp(zi, normalize(zt - zt0, dim=-1), 0.5)
    torch.testing.assert_close(moved, model.decode(xt, towards, TOKENS, 10))


def test_variations_differ_by_seed_and_less_so_by_smaller_eta():
    model, zi, xt = decoder(), unit(0), random(1, 3, 8, 8)

    def made(seed, eta):
        generator = torch.Generator().manual_seed(seed)
        return variations(model, xt, zi, TOKENS, generator, eta=eta, num_steps=10)

    spread = [float((made(0, eta) - made(1, eta)).norm()) for eta in (0.0, 0.2, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]
