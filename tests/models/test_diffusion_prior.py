"""Facts about the diffusion prior."""

import pytest
import torch
import torch.nn.functional as F

from models.config import CaptionEncoderConfig, DiffusionPriorConfig
from models.diffusion import draw_noise
from models.diffusion_prior import DiffusionPrior
from models.samplers import analytic_dpm, x0_denoiser
from models.schedule import respaced

torch.set_num_threads(1)
CAPTION = CaptionEncoderConfig(width=16, depth=1, heads=2)
CONFIG = DiffusionPriorConfig(width=24, depth=2, heads=2, caption=CAPTION)
TOKENS = torch.tensor([[8, 3, 4, 9, 0, 0], [8, 5, 9, 0, 0, 0], [8, 1, 2, 3, 4, 9]])
OTHER_TOKENS = torch.tensor([[8, 5, 4, 9, 0, 0], [8, 3, 9, 0, 0, 0], [8, 1, 2, 5, 4, 9]])  # as long


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return DiffusionPrior(CONFIG, 12, 10, 6).eval()


@pytest.fixture
def zt():
    return F.normalize(torch.randn(3, 12, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_the_network_that_remembers_equals_the_whole_one(prior, zt):
    xt, t = torch.randn(3, 12), torch.tensor([900, 20, 500])
    drop = torch.tensor([False, True, False])
    network = prior.network(zt, TOKENS, drop)
    for x in (xt, 2 * xt):
        assert torch.allclose(network(x, t)[0], prior(x, t, zt, TOKENS, drop), atol=1e-5)


def test_padding_does_not_count(prior, zt):
    xt, t = torch.randn(3, 12), torch.tensor([900, 20, 500])
    before = prior(xt, t, zt, TOKENS)
    with torch.no_grad():
        prior.caption.token.weight[0] = torch.randn(16)
    assert torch.allclose(prior(xt, t, zt, TOKENS), before, atol=1e-5)


@pytest.mark.parametrize(("name", "places"), [("tokens", [0, 1, 2, 3, 4, 5]), ("zt", [6]), ("t", [7]), ("xt", [8])])
def test_every_input_has_its_place_in_the_sequence_and_counts(prior, zt, name, places):
    xt, t, seen = torch.randn(3, 12), torch.tensor([900, 20, 500]), []
    prior.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs = {"xt": xt, "t": t, "zt": zt, "tokens": TOKENS}
    changed = {"xt": -xt, "t": t + 50, "zt": -zt, "tokens": OTHER_TOKENS}
    before, after = prior(**inputs), prior(**inputs | {name: changed[name]})
    differs = (seen[0] - seen[1]).abs().amax((0, 2)) > 1e-6  # (L + 4,)
    assert differs.nonzero().flatten().tolist() == places  # encoded text, zt, timestep, noised zi, query (§2.2)
    assert ((before - after).abs().amax(1) > 1e-3).all()


def test_the_query_is_what_is_read(prior, zt):
    xt, t = torch.randn(3, 12), torch.tensor([900, 20, 500])
    before = prior(xt, t, zt, TOKENS)
    torch.nn.init.normal_(prior.query)
    assert not torch.allclose(prior(xt, t, zt, TOKENS), before, atol=1e-2)


def test_a_dropped_condition_is_the_same_for_every_text_and_keeps_the_noised_embedding(prior, zt):
    xt, t, drop = torch.randn(1, 12).expand(3, 12), torch.full((3,), 500), torch.ones(3, dtype=torch.bool)
    out = prior(xt, t, zt, TOKENS, drop)
    assert torch.allclose(out, out[:1].expand(3, 12), atol=1e-5)
    assert not torch.allclose(prior(-xt, t, zt, TOKENS, drop), out, atol=1e-2)


def test_the_scale_is_the_papers_at_1024_and_is_saved():
    prior = DiffusionPrior(CONFIG, 1024, 10, 6)
    assert prior.state_dict()["scale"].item() == pytest.approx(17.2)


def test_the_loss_drops_conditions_only_while_training(prior):
    zi, tokens = F.normalize(torch.randn(2000, 12), dim=-1), TOKENS[:1].expand(2000, 6)
    dropped = []
    prior.caption.register_forward_hook(lambda module, args, out: dropped.append(args[1]))
    for mode in (True, False):
        prior.train(mode).loss(zi, zi, tokens, torch.Generator().manual_seed(0))
    assert 0.07 < dropped[0].float().mean() < 0.13  # §2.2
    assert dropped[1] is None or not dropped[1].any()


def test_samples_lie_on_the_sphere_and_follow_the_seed(prior, zt):
    first, again, other = (prior.sample(zt, TOKENS, torch.Generator().manual_seed(s), num_steps=5) for s in (1, 1, 2))
    assert torch.allclose(first.norm(dim=-1), torch.ones(3))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def predicted(prior, zt, num_candidates=1, drop=None):
    """What one step makes of the noise of seed 0 for every text: (B, num_candidates, D), not on the sphere."""
    zt, tokens = (x.repeat_interleave(num_candidates, 0) for x in (zt, TOKENS))
    xt = torch.randn(len(zt), 12, generator=torch.Generator().manual_seed(0))
    return prior(xt, torch.full((len(zt),), 999), zt, tokens, drop).unflatten(0, (-1, num_candidates))


@torch.no_grad()
def test_the_candidate_nearest_on_the_sphere_is_kept_and_none_is_clamped(prior, zt):
    torch.nn.init.normal_(prior.out.weight, std=30)
    x0 = predicted(prior, zt, 16)
    assert x0.abs().amax((1, 2)).min() > 20
    zi = F.normalize(x0, dim=-1)
    nearest, greatest = ((x * zt[:, None]).sum(-1).argmax(1) for x in (zi, x0))
    assert not torch.equal(nearest, greatest)
    drawn = prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), num_steps=1, num_candidates=16)
    torch.testing.assert_close(drawn, zi[torch.arange(3), nearest])


@torch.no_grad()
def test_guidance_leads_away_from_caption_and_text_dropped_together(prior, zt):
    c, u = (predicted(prior, zt, drop=drop)[:, 0] for drop in (None, torch.ones(3, dtype=torch.bool)))
    guided = prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), num_steps=1, num_candidates=1, guidance=3.0)
    torch.testing.assert_close(guided, F.normalize(u + 3 * (c - u), dim=-1))


@torch.no_grad()
def test_by_default_the_better_of_two_is_drawn_in_64_analytic_steps(prior, zt):
    prior.out.weight /= 4  # predictions short of the sphere, whose rest the analytic variance is for
    two, generator = zt.repeat_interleave(2, 0), torch.Generator().manual_seed(0)
    denoiser = x0_denoiser(prior.network(two, TOKENS.repeat_interleave(2, 0)))
    power = float((zt * prior.scale).square().mean())  # of an entry of x0
    chain = respaced(prior.schedule, 64)
    zi = analytic_dpm(denoiser, draw_noise(two, generator), chain, generator, x0_power=power)
    zi = F.normalize(zi, dim=-1).unflatten(0, (3, 2))
    expected = zi[torch.arange(3), (zi * zt[:, None]).sum(-1).argmax(1)]
    torch.testing.assert_close(prior.sample(zt, TOKENS, torch.Generator().manual_seed(0)), expected)


@pytest.fixture(scope="module")
def paired():
    """A prior trained on three pairs, and those pairs."""
    torch.manual_seed(0)
    prior = DiffusionPrior(CONFIG, 12, 10, 6)
    zt, zi = F.normalize(torch.randn(3, 12), dim=-1), F.normalize(torch.randn(3, 12), dim=-1)
    optimiser = torch.optim.Adam(prior.parameters(), lr=3e-3)
    generator, rows = torch.Generator().manual_seed(0), torch.arange(96) % 3
    for _ in range(120):
        loss, _ = prior.loss(zi[rows], zt[rows], TOKENS[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return prior.eval(), zt, zi


@pytest.mark.parametrize("sampler", ["analytic", "ddpm", "ddim"])
def test_a_learned_pairing_is_sampled(paired, sampler):
    prior, zt, zi = paired
    drawn = prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), num_steps=16, sampler=sampler)
    assert ((drawn @ zi.T).argmax(1) == torch.arange(3)).all() and (drawn * zi).sum(-1).min() > 0.8


def test_an_impossible_setting_is_refused(prior, zt):
    with pytest.raises(ValueError, match="sampler must be one of"):
        prior.sample(zt, TOKENS, num_steps=2, sampler="heun")
    with pytest.raises(ValueError, match="num_candidates must be >= 1, got 0"):
        prior.sample(zt, TOKENS, num_candidates=0)


def test_the_paper_size_builds_on_the_meta_device():
    caption = CaptionEncoderConfig(width=2048, depth=24, heads=32)
    config = DiffusionPriorConfig(width=2048, depth=24, heads=32, caption=caption)
    with torch.device("meta"):
        prior = DiffusionPrior(config, 1024, 49408, 256)
    assert 2.4e9 < sum(p.numel() for p in prior.parameters()) < 2.7e9
