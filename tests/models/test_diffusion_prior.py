"""Facts about the diffusion prior."""

import pytest
import torch
import torch.nn.functional as F

from models.config import CaptionEncoderConfig, DiffusionPriorConfig
from models.diffusion_prior import DiffusionPrior

torch.set_num_threads(1)
CAPTION = CaptionEncoderConfig(width=16, depth=1, heads=2)
CONFIG = DiffusionPriorConfig(width=24, depth=2, heads=2, caption=CAPTION)
TOKENS = torch.tensor([[8, 3, 4, 9, 0, 0], [8, 5, 9, 0, 0, 0], [8, 1, 2, 3, 4, 9]])


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
        prior.caption.token.weight[0] += 5
    assert torch.allclose(prior(xt, t, zt, TOKENS), before, atol=1e-5)


def test_a_dropped_condition_is_the_same_for_every_text_and_keeps_the_noised_embedding(prior, zt):
    xt, t, drop = torch.randn(1, 12).expand(3, 12), torch.full((3,), 500), torch.ones(3, dtype=torch.bool)
    out = prior(xt, t, zt, TOKENS, drop)
    assert torch.allclose(out, out[:1].expand(3, 12), atol=1e-5)
    assert not torch.allclose(prior(-xt, t, zt, TOKENS, drop), out, atol=1e-2)


def test_the_scale_is_the_papers_at_1024_and_is_saved():
    prior = DiffusionPrior(CONFIG, 1024, 10, 6)
    assert prior.state_dict()["scale"].item() == pytest.approx(17.2)


def test_the_loss_drops_conditions_only_while_training(prior, zt):
    losses = [prior.loss(zt, zt, TOKENS, torch.Generator().manual_seed(0))[0] for _ in range(2)]
    assert losses[0] == losses[1]
    zi = F.normalize(torch.randn(2000, 12), dim=-1)
    dropped = []
    prior.caption.register_forward_hook(lambda module, args, out: dropped.append(args[1]))
    prior.train().loss(zi, zi, TOKENS[:1].expand(2000, 6), torch.Generator().manual_seed(0))
    assert 0.07 < dropped[0].float().mean() < 0.13


def test_samples_lie_on_the_sphere_and_follow_the_seed(prior, zt):
    first, again, other = (prior.sample(zt, TOKENS, torch.Generator().manual_seed(s), num_steps=5) for s in (1, 1, 2))
    assert torch.allclose(first.norm(dim=-1), torch.ones(3))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_more_candidates_are_nearer_to_the_text(prior, zt):
    means = []
    for count in (1, 16):
        zi = prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), num_steps=2, num_candidates=count)
        means.append((zi * zt).sum(-1).mean())
    assert means[1] > means[0]


def test_guidance_pushes_away_from_the_unconditional(prior, zt):
    plain, guided = (
        prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), 4, 1, guidance, "ddim") for guidance in (1.0, 3.0)
    )
    assert not torch.allclose(plain, guided, atol=1e-3)


@pytest.mark.parametrize("sampler", ["analytic", "ddpm", "ddim"])
def test_a_learned_pairing_is_sampled(sampler):
    torch.manual_seed(0)
    prior = DiffusionPrior(CONFIG, 12, 10, 6)
    zt, zi = F.normalize(torch.randn(3, 12), dim=-1), F.normalize(torch.randn(3, 12), dim=-1)
    optimiser = torch.optim.Adam(prior.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(96) % 3
    for _ in range(120):
        loss, _ = prior.loss(zi[rows], zt[rows], TOKENS[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    drawn = prior.eval().sample(zt, TOKENS, generator, num_steps=16, sampler=sampler)
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
