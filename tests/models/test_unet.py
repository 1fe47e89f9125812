"""The U-Net: shapes, the reach of conditions, and sizes that cannot be."""

import pytest
import torch
from diffusers import UNet2DConditionModel

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


def network_of_diffusers():
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=2,
        attention_head_dim=32,
        cross_attention_dim=24,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )


def test_the_network_is_that_of_diffusers():
    """The architecture itself, beside an independent one: same weights, same pictures out."""
    theirs = awake(network_of_diffusers()).eval()
    config = UNetConfig(channels=32, multiples=(1, 2), depth=2, head_channels=32, attention_px=(4,))
    ours = UNet(config, 3, 6, 8, context_width=24)
    carry_over(theirs, ours)
    x, emb, tokens = random(2, 3, 8, 8), random(2, 128, seed=1), random(2, 5, 24, seed=2)
    t, mask = torch.tensor([3, 970]), torch.tensor([[True] * 5, [True, True, False, False, False]])
    with torch.no_grad():
        expected = theirs(x, t, tokens, class_labels=emb, encoder_attention_mask=mask).sample
        got = ours(x, t, emb, Context(tokens=tokens, mask=mask))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def carry_over(theirs, ours):
    """Diffusers' weights in our network; each of ours is set, once."""
    waiting = {name for name, _ in ours.named_parameters()}
    names = {parameter: name for name, parameter in ours.named_parameters()}

    def fill(layer, *sources):
        for kind, parameter in layer.named_parameters(recurse=False):
            parameter.data.copy_(torch.cat([getattr(source, kind) for source in sources]))
            waiting.remove(names[parameter])

    def fill_block(block, source):
        fill(block.norm_in, source.norm1), fill(block.conv_in, source.conv1), fill(block.emb, source.time_emb_proj)
        fill(block.norm_out, source.norm2), fill(block.conv_out, source.conv2)
        if source.conv_shortcut is not None:
            fill(block.skip, source.conv_shortcut)

    def fill_attention(attention, source):
        fill(attention.norm, source.group_norm), fill(attention.out, source.to_out[0])
        fill(attention.qkv, source.to_q, source.to_k, source.to_v)
        fill(attention.context_kv, source.add_k_proj, source.add_v_proj)

    def fill_stages(stages, source):
        for stage, resnet in zip(stages, source.resnets, strict=True):
            fill_block(stage.block, resnet)
        attending = [stage.attention for stage in stages if stage.attention is not None]
        for attention, other in zip(attending, getattr(source, "attentions", []), strict=True):
            fill_attention(attention, other)

    fill(ours.conv_in, theirs.conv_in), fill(ours.conv_out, theirs.conv_out), fill(ours.norm, theirs.conv_norm_out)
    fill(ours.time[0], theirs.time_embedding.linear_1), fill(ours.time[2], theirs.time_embedding.linear_2)
    for stages, source in zip([*ours.down, *ours.up], [*theirs.down_blocks, *theirs.up_blocks], strict=True):
        fill_stages(stages, source)
    fill_block(ours.shrink[0], theirs.down_blocks[0].downsamplers[0])
    fill_block(ours.grow[0], theirs.up_blocks[0].upsamplers[0])
    fill_block(ours.middle[0].block, theirs.mid_block.resnets[0])
    fill_attention(ours.middle[0].attention, theirs.mid_block.attentions[0])
    fill_block(ours.middle[1], theirs.mid_block.resnets[1])
    assert not waiting


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
