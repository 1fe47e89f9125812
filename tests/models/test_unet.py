"""The U-Net: shapes, the reach of conditions, and sizes that cannot be."""

import pytest
import torch

from models.config import UNetConfig
from models.unet import Context, MapAttention, UNet

CONVOLUTIONS = UNetConfig(channels=8, multiples=(1, 2), depth=1, head_channels=8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(module):
    """The module with no parameter at zero, as after training."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if float(parameter.detach().abs().max()) == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


@pytest.mark.parametrize("patch", [1, 2])
def test_a_picture_comes_out_at_the_side_it_went_in(patch):
    config = UNetConfig(channels=8, multiples=(1, 2), depth=2, head_channels=8, attention_px=(4,), patch=patch)
    unet = UNet(config, 3, 6, px=8 * patch)
    assert unet(random(2, 3, 8 * patch, 8 * patch), torch.tensor([0, 999])).shape == (2, 6, 8 * patch, 8 * patch)


def test_without_attention_sides_there_are_convolutions_only():
    assert not [module for module in UNet(CONVOLUTIONS, 3, 3, px=8).modules() if isinstance(module, MapAttention)]


def test_attention_stands_at_the_named_sides_and_in_the_middle():
    config = UNetConfig(channels=8, multiples=(1, 2, 2), depth=2, head_channels=8, attention_px=(4,))
    unet = UNet(config, 3, 3, px=16)
    assert sum(isinstance(module, MapAttention) for module in unet.modules()) == 2 + 1 + 3
    assert unet.middle[0].attention is not None
    assert all(stage.attention is None for stage in [*unet.down[0], *unet.down[1], *unet.up[1], *unet.up[2]])


def test_the_map_attends_to_real_context_only():
    attention = awake(MapAttention(8, 4, context_width=5))
    tokens, mask = random(1, 3, 5), torch.tensor([[True, True, False]])
    changed, x = tokens.clone(), random(1, 8, 4, 4)
    changed[:, 2] += 1
    before = attention(x, Context(tokens=tokens, mask=mask))
    torch.testing.assert_close(attention(x, Context(tokens=changed, mask=mask)), before)
    changed[:, 1] += 1
    assert not torch.allclose(attention(x, Context(tokens=changed, mask=mask)), before)


def test_the_map_attends_to_itself_and_context_in_one_softmax():
    attention = awake(MapAttention(8, 8, context_width=5))
    context = Context(tokens=random(1, 3, 5), mask=torch.ones(1, 3, dtype=torch.bool))
    x = random(1, 8, 2, 2)
    q, k, v = attention.qkv(attention.norm(x).flatten(2).transpose(1, 2)).chunk(3, -1)
    context_k, context_v = attention.context_kv(context.tokens).chunk(2, -1)
    weights = (q @ torch.cat([k, context_k], 1).transpose(1, 2) / 8**0.5).softmax(-1)  # (1, 4, 4 + 3)
    mixed = attention.out(weights @ torch.cat([v, context_v], 1)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x, context), x + mixed, atol=1e-5, rtol=1e-5)


def test_the_timestep_and_the_added_embedding_reach_the_output():
    unet, x, t = awake(UNet(CONVOLUTIONS, 3, 3, px=8)), random(1, 3, 8, 8), torch.tensor([500])
    before = unet(x, t)
    assert not torch.allclose(unet(x, t - 100), before)
    assert not torch.allclose(unet(x, t, torch.ones(1, unet.emb_width)), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_px": (5,)}, r"unet.attention_px must be among the map sides \(8, 4\), got \[5\]"),
        ({"attention_px": (4,), "head_channels": 7}, "unet.head_channels must divide 16 channels, got 7"),
        ({"patch": 3}, "px must be a multiple of 6"),
        ({"depth": 0}, "unet.depth must be >= 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{"channels": 8, "multiples": (1, 2), "depth": 1, "head_channels": 8, **settings}).map_sides(8)


def test_a_picture_that_the_levels_cannot_halve_is_refused():
    with pytest.raises(ValueError, match=r"image sides must be multiples of 2, got \(9, 8\)"):
        UNet(CONVOLUTIONS, 3, 3, px=8)(random(1, 3, 9, 8), torch.tensor([0]))
