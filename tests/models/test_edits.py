"""Great circles, and what is made along them."""

import torch
from torch.nn.functional import normalize

from models.config import CaptionEncoderConfig, DecoderConfig, UNetConfig
from models.decoder import Decoder
from models.edits import (
    Latent,
    decode,
    interpolate,
    invert,
    pca_reconstructions,
    slerp,
    slerp_noise,
    text_diff,
)
from models.pca import Moments, fit_pca

UNET = UNetConfig(channels=8, multiples=(1,), depth=1, head_channels=8)
CONFIG = DecoderConfig(image_px=8, unet=UNET, caption=CaptionEncoderConfig(width=8, depth=1, heads=2), num_steps=50)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(seed):
    return normalize(random(1, 6, seed=seed), dim=-1)


LATENT = Latent(zi=unit(0), xt=random(1, 3, 8, 8))


def decoder():
    torch.manual_seed(0)
    model = Decoder(CONFIG, embed_dim=6, vocab_size=10, context=3)
    for parameter in model.parameters():  # branches that start at zero would hear nothing of any condition
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
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
    model, ends = decoder(), [Latent(zi=unit(seed), xt=random(1, 3, 8, 8, seed=seed)) for seed in (0, 1)]
    for end in (0, 1):
        made = interpolate(model, *ends, float(end), 10)
        torch.testing.assert_close(made, decode(model, ends[end], 10), atol=1e-3, rtol=1e-3)


def test_a_text_diff_starts_at_the_picture_and_moves_along_the_difference():
    model, latent, zt0, zt = decoder(), LATENT, unit(1), unit(2)
    start, moved = (text_diff(model, latent, zt0, zt, t, 10) for t in (0.0, 0.5))
    torch.testing.assert_close(start, decode(model, latent, 10), atol=1e-3, rtol=1e-3)
    towards = slerp(latent.zi, normalize(zt - zt0, dim=-1), 0.5)
    torch.testing.assert_close(moved, decode(model, Latent(zi=towards, xt=latent.xt), 10))


def test_a_text_diff_without_a_caption_before_moves_to_the_caption_itself():
    model, zt = decoder(), unit(2)
    for given in (zt, 3 * zt):
        moved = text_diff(model, LATENT, None, given, 0.5, 10)
        torch.testing.assert_close(moved, decode(model, Latent(zi=slerp(LATENT.zi, zt, 0.5), xt=LATENT.xt), 10))


def test_variations_differ_by_seed_and_less_so_by_smaller_eta():
    model = decoder()

    def made(seed, eta):
        return decode(model, LATENT, 10, eta=eta, generator=torch.Generator().manual_seed(seed))

    spread = [float((made(0, eta) - made(1, eta)).norm()) for eta in (0.0, 0.2, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_no_caption_is_heard():
    """What decodes a latent is the decoder told to drop the caption, whatever the caption was."""
    model = decoder()
    told = model.decode(LATENT.xt, LATENT.zi, torch.tensor([[8, 3, 9]]), 10)
    dropped = model.decode(LATENT.xt, LATENT.zi, torch.tensor([[8, 3, 9]]), 10, drop_caption=torch.tensor([True]))
    torch.testing.assert_close(decode(model, LATENT, 10), dropped)
    assert (told - dropped).abs().max() > 1e-4
    drop = torch.tensor([True])
    found = model.invert(dropped, LATENT.zi, torch.tensor([[8, 3, 9]]), 10, drop_caption=drop)
    torch.testing.assert_close(invert(model, dropped, LATENT.zi, 10).xt, found)


def test_all_components_reconstruct_what_fewer_only_approach():
    rows = normalize(random(200, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1]), dim=-1)
    pca, model = fit_pca(Moments.of(rows), 6, 0.99, 4), decoder()
    latent = Latent(zi=rows[:1], xt=random(1, 3, 8, 8))
    made = pca_reconstructions(model, pca, latent, [1, 3, 6], 10)
    errors = [float((picture - decode(model, latent, 10)).norm()) for picture in made]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    kept = pca.decode(pca.encode(latent.zi)[:, :1])
    assert float(kept.norm()) < 0.9
    torch.testing.assert_close(made[0], decode(model, Latent(zi=normalize(kept, dim=-1), xt=latent.xt), 10))
