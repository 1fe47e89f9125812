"""Facts about the autoregressive prior."""

import pytest
import torch
import torch.nn.functional as F

from models.ar_prior import TABLE_STD, ArPrior, draw, draw_top_half, smooth_table
from models.config import ArPriorConfig, CaptionEncoderConfig
from models.pca import Moments, Pca, fit_pca

torch.set_num_threads(1)
CAPTION = CaptionEncoderConfig(width=16, depth=1, heads=2)
CONFIG = ArPriorConfig(width=24, depth=2, heads=2, caption=CAPTION, num_dot_buckets=8)
TOKENS = torch.tensor([[8, 3, 4, 9, 0, 0], [8, 5, 9, 0, 0, 0], [8, 1, 2, 3, 4, 9]])
OTHER_TOKENS = torch.tensor([[8, 5, 4, 9, 0, 0], [8, 3, 9, 0, 0, 0], [8, 1, 2, 5, 4, 9]])  # as long
ALL = torch.ones(3, dtype=torch.bool)


def unit(rows, seed):
    return F.normalize(torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    zi, zt = unit(300, 0), unit(300, 1)
    pca = fit_pca(Moments.of(zi), 6, 1.0, 10)
    pca.fit_buckets(zi)
    prior = ArPrior(CONFIG, pca, 12, 10, 6).eval()
    prior.fit_dot_buckets(zi, zt)
    return prior


def test_decoding_with_a_cache_gives_the_logits_of_the_whole(prior):
    zi, zt, drop = unit(3, 2), unit(3, 3), torch.tensor([False, True, False])
    dot, codes = prior.quantise(zi, zt)
    dot_logits, code_logits = prior(dot, codes, zt, TOKENS, drop)
    start, decode = prior.decoder(zt, TOKENS, drop)
    assert torch.allclose(prior.dot_out(decode(start)), dot_logits, atol=1e-5)
    x = prior.dot_in(torch.where(drop, 8, dot))
    for k in range(6):
        assert torch.allclose(decode(x) @ prior.code_out[k].T, code_logits[:, k], atol=1e-5)
        x = prior._embed(codes[:, k : k + 1], k)[:, 0] if k < 5 else x


@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_greedy_sampling_equals_greedy_choice_without_a_cache(prior, guidance):
    zt = unit(3, 3)
    drawn = prior.sample(zt, TOKENS, torch.Generator().manual_seed(0), guidance, top_p=1e-6)
    dot = draw_top_half(prior(torch.zeros(3).long(), torch.zeros(3, 6).long(), zt, TOKENS)[0],
                        torch.Generator().manual_seed(0))  # fmt: skip
    codes = torch.zeros(3, 6, dtype=torch.long)
    for k in range(6):
        c, u = (prior(dot, codes, zt, TOKENS, drop)[1][:, k] for drop in (None, ALL))
        codes[:, k] = (u + guidance * (c - u)).argmax(-1)
    assert torch.allclose(drawn, F.normalize(prior.pca.decode(prior.pca.dequantise(codes)), dim=-1), atol=1e-5)


def test_padding_does_not_count(prior):
    inputs = (*prior.quantise(unit(3, 2), unit(3, 3)), unit(3, 3), TOKENS)
    before = prior(*inputs)[1]
    with torch.no_grad():
        prior.caption.token.weight[0] = torch.randn(16)
    assert torch.allclose(prior(*inputs)[1], before, atol=1e-5)


@pytest.mark.parametrize(("name", "places"), [("tokens", []), ("zt", [0]), ("dot", [1]), ("codes", [2, 3, 4, 5, 6])])
def test_every_input_has_its_place_in_the_sequence_and_counts(prior, name, places):
    zt, seen = unit(3, 3), []
    prior.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    dot, codes = prior.quantise(unit(3, 2), zt)
    inputs = {"dot": dot, "codes": codes, "zt": zt, "tokens": TOKENS}
    changed = {"dot": (dot + 1) % 8, "codes": (codes + 1) % 10, "zt": -zt, "tokens": OTHER_TOKENS}
    before, after = (prior(**inputs | other)[1] for other in ({}, {name: changed[name]}))
    differs = (seen[0] - seen[1]).abs().amax((0, 2)) > 1e-6  # (K + 1,)
    assert differs.nonzero().flatten().tolist() == places  # zt, dot product, codes (§2.2); the caption comes beside
    assert ((before - after).abs().amax((1, 2)) > 1e-3).all()


def test_the_loss_drops_the_text_only_while_training(prior):
    zi, zt, dropped = unit(2000, 2), unit(2000, 3), []
    prior.caption.register_forward_hook(lambda module, args, out: dropped.append(args[1]))
    for mode in (True, False):
        prior.train(mode).loss(zi, zt, TOKENS[:1].expand(2000, 6), torch.Generator().manual_seed(0))
    assert 0.07 < dropped[0].float().mean() < 0.13  # §2.2
    assert dropped[1] is None or not dropped[1].any()


def test_a_code_is_predicted_from_what_precedes_it_alone(prior):
    zi, zt = unit(3, 2), unit(3, 3)
    dot, codes = prior.quantise(zi, zt)
    changed = codes.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 10
    before, after = prior(dot, codes, zt, TOKENS)[1], prior(dot, changed, zt, TOKENS)[1]
    assert torch.allclose(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4], after[:, 4], atol=1e-4)


def test_a_dropped_text_is_the_same_for_every_text(prior):
    dot, codes = prior.quantise(unit(1, 2).expand(3, 12), unit(3, 3))
    logits = prior(dot, codes, unit(3, 3), TOKENS, ALL)[1]
    assert torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-5)


def test_training_finds_the_pairing_and_sampling_draws_it(prior):
    zt, zi = unit(3, 3), prior.pca.decode(prior.pca.dequantise(torch.randint(10, (3, 6))))
    zi = F.normalize(zi, dim=-1)
    optimiser = torch.optim.Adam(prior.train().parameters(), lr=3e-3)
    generator, rows = torch.Generator().manual_seed(0), torch.arange(48) % 3
    for _ in range(80):
        loss, _ = prior.loss(zi[rows], zt[rows], TOKENS[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    drawn = prior.eval().sample(zt, TOKENS, generator, temperature=0.5)
    assert (drawn * zi).sum(-1).min() > 0.9 and torch.allclose(drawn.norm(dim=-1), torch.ones(3))


def test_guidance_doubles_the_batch_and_scale_one_does_not(prior):
    sizes = []
    prior.blocks[0].register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    for options in ({}, {"guidance": 9.0}):
        prior.sample(unit(3, 3), TOKENS, torch.Generator().manual_seed(0), **options)
    assert sizes == [3] * 7 + [6] * 7


def test_dot_buckets_are_equally_filled(prior):
    dot, _ = prior.quantise(unit(300, 0), unit(300, 1))
    counts = torch.bincount(dot, minlength=8)
    assert counts.min() >= 35 and counts.max() <= 40


def test_the_dot_product_comes_from_the_top_half_of_its_distribution():
    logits = torch.tensor([0.2, 0.2, 0.2, 0.4]).log().expand(4000, 4)
    counts = torch.bincount(draw_top_half(logits, torch.Generator().manual_seed(0)), minlength=4) / 4000
    assert counts[:2].sum() == 0
    assert counts[2].item() == pytest.approx(0.2, abs=0.03)  # 0.1 of its 0.2 lies above the median


def test_top_p_leaves_the_unlikely_out():
    logits = torch.tensor([0.1, 0.5, 0.4]).log().expand(500, 3)
    generator = torch.Generator().manual_seed(0)
    assert set(draw(logits, generator, top_p=0.6).tolist()) == {1, 2}
    assert set(draw(logits, generator, top_p=1.0).tolist()) == {0, 1, 2}
    assert set(draw(logits, generator, temperature=0.01).tolist()) == {1}


def test_tables_start_with_near_buckets_alike():
    torch.manual_seed(0)
    table = smooth_table(5, 64, 256)
    assert float(table.std()) == pytest.approx(TABLE_STD, rel=0.05)
    alike = F.cosine_similarity(table[:, 20:21], table, dim=-1).mean(0)  # (64,)
    assert alike[21] > 0.98
    assert alike[22] < alike[21]
    assert alike[60] < 0.5


def test_impossible_settings_are_refused(prior):
    with pytest.raises(ValueError, match=r"temperature must be > 0 and top_p in \(0, 1\], got 0 and 1"):
        prior.sample(unit(3, 3), TOKENS, temperature=0)


def test_the_paper_size_builds_on_the_meta_device():
    caption = CaptionEncoderConfig(width=2048, depth=24, heads=32)
    config = ArPriorConfig(width=1664, depth=24, heads=26, caption=caption)
    with torch.device("meta"):
        prior = ArPrior(config, Pca(1024, 319, 1024), 1024, 49408, 256)
    assert len(prior.position) == 320  # within table 3's context of 384
    assert 3e9 < sum(p.numel() for p in prior.parameters()) < 4.5e9
