"""Facts about the whole stack."""

import pytest
import torch

from models.clip import Clip, ClipSpec
from models.config import (
    CaptionEncoderConfig,
    ClipConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    TextConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionConfig,
)
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.linear_prior import LinearPrior
from models.stack import Prior, Rendering, Stack
from models.tokenizer import seen_ids
from models.upsampler import Upsampler

torch.set_num_threads(1)
CAPTIONS = ["a red circle", "a blue square"]
FAST = Rendering(decoder_steps=2, mid_steps=2, top_steps=2)
CAPTION = CaptionEncoderConfig(width=8, depth=1, heads=2)


@pytest.fixture(scope="module")
def stack():
    torch.manual_seed(0)
    small = ClipConfig(
        embed_dim=8, vision=VisionConfig(image_px=8, width=16, layers=1, head_width=8),
        text=TextConfig(context=8, width=16, heads=2, layers=1),
    )  # fmt: skip
    clip = Clip(ClipSpec.from_config(small, seen_ids(CAPTIONS)))
    unet = UNetConfig(channels=8, multiples=(1,), depth=1, head_channels=8)
    sizes = {"embed_dim": 8, "vocab_size": clip.vocab_size, "context": 8}
    diffusion = DiffusionPrior(DiffusionPriorConfig(width=8, depth=1, heads=2, caption=CAPTION), **sizes)
    linear = LinearPrior.fit(torch.randn(20, 8), torch.randn(20, 8), 1e-3)
    return Stack(
        clip,
        {"prior_diffusion": diffusion, "prior_linear": linear},
        Decoder(DecoderConfig(image_px=8, unet=unet, caption=CAPTION), **sizes),
        Upsampler(UpsamplerConfig(low_px=8, high_px=12, unet=unet)),
        Upsampler(UpsamplerConfig(low_px=12, high_px=16, unet=unet)),
    ).eval()


def images(stack, seed=0, **options):
    return stack.generate(CAPTIONS, torch.Generator().manual_seed(seed), rendering=FAST, **options)


@pytest.mark.parametrize("prior", ["prior_diffusion", "prior_linear"])
def test_captions_become_pictures_that_follow_the_seed(stack, prior):
    first = images(stack, prior=prior)
    assert first.shape == (2, 3, 16, 16) and first.abs().max() <= 1
    assert torch.equal(first, images(stack, prior=prior)) and not torch.equal(first, images(stack, 1, prior=prior))


def test_a_priors_options_reach_it(stack):
    options = {"num_steps": 2, "num_candidates": 1}
    tokens, zt = stack.read(CAPTIONS)
    drawn = [stack.draw("prior_diffusion", zt, tokens, torch.Generator().manual_seed(0), o) for o in (options, None)]
    assert not torch.allclose(drawn[0], drawn[1])
    with pytest.raises(TypeError, match="num_steps"):
        stack.draw("prior_linear", zt, tokens, None, options)


def test_a_picture_from_the_caption_alone_ignores_the_null_embeddings_place(stack):
    tokens, zt = stack.read(CAPTIONS)
    blind, seen = (stack.render(zi, tokens, torch.Generator().manual_seed(0), FAST) for zi in (None, zt))
    assert blind.shape == seen.shape == (2, 3, 16, 16)


def test_what_is_read_and_seen_is_of_norm_one(stack):
    _, zt = stack.read(CAPTIONS)
    zi = stack.look(torch.rand(2, 3, 20, 20) * 2 - 1)
    assert torch.allclose(zt.norm(dim=-1), torch.ones(2)) and torch.allclose(zi.norm(dim=-1), torch.ones(2))


def test_without_a_prior_the_text_embedding_goes_to_the_decoder(stack):
    tokens, zt = stack.read(CAPTIONS)
    assert torch.equal(stack.draw("text_embedding", zt, tokens), zt)


def test_every_prior_is_a_prior_and_an_unknown_one_is_refused(stack):
    assert all(isinstance(prior, Prior) for prior in stack.priors.values())
    with pytest.raises(ValueError, match="must be one of prior_diffusion, prior_linear, text_embedding, got 'prior_x'"):
        stack.draw("prior_x", torch.zeros(1, 8), torch.zeros(1, 8).long())
