"""The decoder: its conditions, their dropping, guidance, and the bipartite latent."""

import pytest
import torch
from torch.nn.functional import normalize

from models.config import CaptionEncoderConfig, DecoderConfig, UNetConfig
from models.decoder import LATENT_MIN_SIGNAL, Decoder
from models.diffusion import draw_noise, high_noise_weight, min_snr_weight, predict_x0
from models.schedule import truncated

UNET = UNetConfig(channels=16, multiples=(1, 2), depth=1, head_channels=8, attention_px=(4,))
CONFIG = DecoderConfig(image_px=8, unet=UNET, caption=CaptionEncoderConfig(width=16, depth=1, heads=2), num_steps=100)
TOKENS = torch.tensor([[18, 3, 19, 0], [18, 4, 5, 19]])
NOTHING_DROPPED = {"image_drop_prob": 0.0, "caption_drop_prob": 0.0}
DROP, KEEP = torch.tensor([True, True]), torch.tensor([False, False])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def decoder(**settings):
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(**{**vars(CONFIG), **settings}), embed_dim=12, vocab_size=20, context=4)
    for name, parameter in model.named_parameters():
        if "null" not in name and float(parameter.detach().abs().max()) == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


ZI, XT, T = normalize(random(2, 12), dim=-1), random(2, 3, 8, 8, seed=1), torch.tensor([10, 90])


def test_the_embedding_enters_at_unit_variance_by_both_paths():
    model = decoder()
    condition = model.condition(ZI, TOKENS, drop_caption=DROP)
    scaled = ZI * 12**0.5
    expected = model.image_emb(scaled) + model.caption_emb(torch.zeros(2, 16))
    torch.testing.assert_close(condition.emb, expected)
    torch.testing.assert_close(condition.context.tokens[:, :4].flatten(1), model.image_tokens(scaled))


def test_four_image_tokens_join_the_caption_and_padding_stays_masked():
    context = decoder().condition(ZI, TOKENS).context
    assert context.tokens.shape == (2, 4 + 4, 16)
    assert context.mask.sum(1).tolist() == [4 + 3, 4 + 4]


def test_the_null_embedding_is_one_vector_zero_at_start_for_both_paths():
    model = decoder()
    assert model.null_image.shape == (12,) and float(model.null_image.detach().abs().max()) == 0
    torch.nn.init.normal_(model.null_image)
    dropped = model.condition(ZI, TOKENS, drop_image=DROP)
    direct = model.condition((model.null_image / 12**0.5).expand(2, -1), TOKENS)
    torch.testing.assert_close(dropped.emb, direct.emb)
    torch.testing.assert_close(dropped.context.tokens, direct.context.tokens)


def test_a_dropped_condition_has_no_influence():
    model = decoder()
    other = normalize(random(2, 12, seed=5), dim=-1)
    assert torch.equal(model(XT, T, ZI, TOKENS, DROP)[0], model(XT, T, other, TOKENS, DROP)[0])
    assert torch.equal(model(XT, T, ZI, TOKENS, None, DROP)[0], model(XT, T, ZI, TOKENS.flip(0), None, DROP)[0])
    assert not torch.allclose(model(XT, T, ZI, TOKENS)[0], model(XT, T, other, TOKENS)[0])
    assert not torch.allclose(model(XT, T, ZI, TOKENS)[0], model(XT, T, ZI, TOKENS.flip(0))[0])


def test_conditions_are_dropped_independently_at_their_rates():
    model, seen = decoder(image_drop_prob=0.1, caption_drop_prob=0.5).train(), []
    model.forward = lambda xt, t, zi, tokens, *drops: seen.append(torch.stack(drops)) or (xt, xt)
    model.loss(random(4000, 3, 8, 8), ZI[:1].expand(4000, -1), TOKENS[:1].expand(4000, -1), seeded())
    image, caption = seen[0].float()
    rates = [float(rate) for rate in (image.mean(), caption.mean(), (image * caption).mean())]
    assert rates == pytest.approx([0.1, 0.5, 0.05], abs=0.025)


def test_nothing_is_dropped_in_validation():
    model = decoder(image_drop_prob=1.0, caption_drop_prob=1.0)
    losses = [float(model.train(mode).loss(XT, ZI, TOKENS, seeded())[0].detach()) for mode in (False, True)]
    other = float(model.eval().loss(XT, ZI.flip(0), TOKENS, seeded())[0].detach())
    assert losses[0] != losses[1] and losses[0] != other


def test_levels_weigh_as_configured():
    t, schedule = torch.tensor([2, 50, 97]), decoder().schedule
    assert decoder()._weights(t).tolist() == [1, 1, 1]
    expected = min_snr_weight(t, schedule, 5.0) * high_noise_weight(t, schedule, 8.0)
    torch.testing.assert_close(decoder(snr_gamma=5.0, high_noise_weight=8.0)._weights(t), expected)
    assert float(expected[0]) < 0.1 and float(expected[2]) == 8


def test_the_loss_draws_from_its_generator_alone():
    model = decoder().train()
    first = model.loss(XT, ZI, TOKENS, seeded(3))[0]
    torch.manual_seed(99)
    assert torch.equal(model.loss(XT, ZI, TOKENS, seeded(3))[0], first)
    assert not torch.equal(model.loss(XT, ZI, TOKENS, seeded(4))[0], first)


@pytest.fixture(scope="module")
def trained():
    """A decoder trained on two pictures, those pictures, and the losses on the way."""
    model = decoder(**NOTHING_DROPPED, num_steps=1000).train()
    optimiser, x0 = torch.optim.Adam(model.parameters(), lr=4e-3), random(2, 3, 8, 8).clamp(-1, 1)
    losses = []
    for step in range(60):
        loss, figures = model.loss(x0.repeat(2, 1, 1, 1), ZI.repeat(2, 1), TOKENS.repeat(2, 1), seeded(step))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(figures["mse"]))
    return model.eval(), x0, losses


def test_one_batch_can_be_overfitted(trained):
    _, _, losses = trained
    assert sum(losses[-15:]) < 0.6 * sum(losses[:15])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_sample_is_a_picture_and_the_same_for_the_same_seed(sampler):
    model = decoder()
    first, again, other = (
        model.sample(ZI, TOKENS, seeded(seed), num_steps=5, sampler=sampler, guidance=2.0) for seed in (1, 1, 2)
    )
    assert first.shape == (2, 3, 8, 8) and float(first.abs().max()) <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_guidance_leads_away_from_both_conditions_dropped():
    model = decoder()
    xt = draw_noise(XT, seeded())
    with torch.no_grad():
        t = torch.tensor([99, 99])
        c, u = model(xt, t, ZI, TOKENS)[0], model(xt, t, ZI, TOKENS, DROP, DROP)[0]
    alpha_bar = float(model.schedule.alpha_bar[99])
    expected = ((xt - (1 - alpha_bar) ** 0.5 * (u + 3 * (c - u))) / alpha_bar**0.5).clamp(-1, 1)
    made = model.sample(ZI, TOKENS, seeded(), num_steps=1, sampler="ddim", guidance=3.0)
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=1e-3)


def test_guidance_at_one_makes_one_undoubled_call_a_step():
    model, sizes = decoder(), []
    model.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    model.sample(ZI, TOKENS, seeded(), num_steps=3)
    model.sample(ZI, TOKENS, seeded(), num_steps=3, guidance=1.5)
    assert sizes == [2, 2, 2, 4, 4, 4]


def test_a_caption_alone_can_be_sampled():
    model = decoder()
    pictures = [
        model.sample(zi, TOKENS, seeded(), num_steps=3, guidance=2.0, drop_image=DROP) for zi in (ZI, ZI.flip(0))
    ]
    assert torch.equal(*pictures)
    assert not torch.equal(pictures[0], model.sample(ZI, TOKENS, seeded(), num_steps=3, guidance=2.0, drop_image=KEEP))


def test_by_default_the_learned_variance_is_sampled():
    model = decoder()
    before = model.sample(ZI, TOKENS, seeded(), num_steps=3)
    model.unet.conv_out.bias.data[3:] += 1
    assert not torch.allclose(model.sample(ZI, TOKENS, seeded(), num_steps=3), before, atol=1e-3)


def test_inversion_then_decoding_returns_the_picture(trained):
    model, x0, _ = trained
    one = (ZI[:1], TOKENS[:1])
    error = (model.decode(model.invert(x0[:1], *one), *one) - x0[:1]).square().mean()
    assert float(10 * torch.log10(4 / error)) > 35  # dB


@torch.no_grad()
def test_nothing_is_clamped_on_the_way_to_the_latent_and_back():
    model = decoder()
    noisiest = truncated(model.schedule, LATENT_MIN_SIGNAL)
    t, alpha_bar = noisiest.timesteps[-1:].expand(2), float(noisiest.alpha_bar[-1])
    eps = model(XT, t, ZI, TOKENS)[0]
    x0 = predict_x0(XT, eps, alpha_bar)
    assert float(x0.abs().max()) > 10
    torch.testing.assert_close(model.decode(XT, ZI, TOKENS, num_steps=1), x0)
    expected = alpha_bar**0.5 * XT + (1 - alpha_bar) ** 0.5 * eps
    torch.testing.assert_close(model.invert(XT, ZI, TOKENS, num_steps=1, num_refinements=0), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler must be 'ddpm' or 'ddim', got 'euler'"),
        ({"num_steps": 101}, "num_steps must be from 1 to 100, got 101"),
        ({}, "num_steps must be from 1 to 100, got 250"),  # App. C, table 3
    ],
)
def test_impossible_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        decoder().sample(ZI, TOKENS, seeded(), **options)


def test_more_steps_than_levels_with_signal_are_refused():
    for walk in (decoder().invert, decoder().decode):  # both of 100 steps by default
        with pytest.raises(ValueError, match="num_steps must be from 1 to 97, got 100"):
            walk(XT, ZI, TOKENS)


def test_an_impossible_eta_is_refused():
    with pytest.raises(ValueError, match=r"eta must be from 0 to 1, got 1\.5"):
        decoder().decode(XT, ZI, TOKENS, eta=1.5)


def test_the_paper_size_builds_on_the_meta_device():
    unet = UNetConfig(channels=512, multiples=(1, 2, 3, 4), depth=3, head_channels=64, attention_px=(32, 16, 8))
    caption = CaptionEncoderConfig(width=2048, depth=24, heads=32)
    with torch.device("meta"):
        model = Decoder(DecoderConfig(image_px=64, unet=unet, caption=caption), 1024, 49_408, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(3.5e9, rel=0.1)
    assert model.schedule.alpha_bar.device.type == "cpu"
