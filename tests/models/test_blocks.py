"""Attention, the caption encoder and residual blocks, against torch's own and by property."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from models.blocks import (
    CaptionEncoder,
    KVCache,
    ResBlock,
    SelfAttention,
    TransformerBlock,
    attend,
    timestep_embedding,
    token_mask,
)
from models.config import CaptionEncoderConfig

TOKENS = torch.tensor([[48, 0, 7, 49, 0, 0], [48, 3, 7, 5, 6, 49]])  # 0 is a word too: "!" in open_clip's vocabulary


def test_the_mask_of_another_tokenizer_ends_before_its_padding():
    tokens = torch.tensor([[9, 1, 7, 1, 1, 1], [1, 1, 1, 1, 1, 1], [2, 3, 4, 5, 6, 7]])  # 1 is the end and padding
    assert token_mask(tokens, 1).sum(1).tolist() == [3, 1, 6]
    ended = CaptionEncoder(CaptionEncoderConfig(width=16, depth=1, heads=2), vocab_size=50, context=6, pad_id=1)
    assert torch.equal(ended(tokens)[1], token_mask(tokens, 1))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder():
    torch.manual_seed(0)
    return CaptionEncoder(CaptionEncoderConfig(width=16, depth=2, heads=2), vocab_size=50, context=6)


def scattered(module):
    """The same module with no parameter at rest, norms and biases included."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=i) * 0.3
    return module


def weights_of(attention):
    """What torch's attention calls the weights of ours."""
    parts = [attention.qkv] if isinstance(attention, SelfAttention) else [attention.q, attention.kv]
    joined = {f"in_proj_{kind}": torch.cat([getattr(part, kind) for part in parts]) for kind in ("weight", "bias")}
    return joined | {f"out_proj.{name}": value for name, value in attention.out.state_dict().items()}


def weights_of_block(block):
    """What torch's layers call the weights of ours: the encoder's without cross-attention, the decoder's with it."""
    parts = {"self_attn": weights_of(block.attention), "norm1": block.attention_norm.state_dict()}
    if block.cross is not None:
        parts |= {"multihead_attn": weights_of(block.cross), "norm2": block.cross_norm.state_dict()}
    parts[f"norm{2 if block.cross is None else 3}"] = block.mlp_norm.state_dict()
    parts |= {"linear1": block.mlp[0].state_dict(), "linear2": block.mlp[2].state_dict()}
    return {f"{part}.{name}": value for part, weights in parts.items() for name, value in weights.items()}


def test_self_attention_equals_torch():
    ours, theirs, x = scattered(SelfAttention(16, 4)), nn.MultiheadAttention(16, 4, batch_first=True), random(2, 6, 16)
    theirs.load_state_dict(weights_of(ours))
    mask = token_mask(TOKENS)
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_equals_torchs_layer(causal):
    ours, x, mask = scattered(TransformerBlock(16, 4)), random(2, 6, 16), token_mask(TOKENS)
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs.load_state_dict(weights_of_block(ours))
    future = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
    expected = theirs(x, future, ~mask)
    torch.testing.assert_close(ours(x, mask, causal=causal), expected, atol=1e-5, rtol=1e-5)


def test_a_block_with_a_context_equals_torchs_layer():
    ours, x, context = scattered(TransformerBlock(16, 4, context_width=16)), random(2, 3, 16), random(2, 6, 16, seed=1)
    theirs = nn.TransformerDecoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs.load_state_dict(weights_of_block(ours))
    mask = token_mask(TOKENS)
    expected = theirs(x, context, torch.ones(3, 3, dtype=torch.bool).triu(1), memory_key_padding_mask=~mask)
    made = ours(x, causal=True, context=ours.cross.keys_values(context), context_mask=mask)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]


@pytest.mark.parametrize("mask", [None, token_mask(TOKENS)[:, None, None], CAUSAL], ids=["none", "keys", "causal"])
def test_attention_written_out_equals_the_fused_one(mask):
    inputs = [random(2, 2, 6, 8, seed=i).requires_grad_() for i in range(3)]
    fused = nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask)
    ours = attend(*(x.bfloat16() for x in inputs), mask)
    for theirs, mine in zip(*(torch.autograd.grad(y.float().sum(), inputs) for y in (fused, ours)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)
    torch.testing.assert_close(ours.float(), fused, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("mask", [None, torch.arange(512)[None, None, None] < 500], ids=["none", "keys"])
def test_the_shares_of_a_large_map_are_not_kept(mask):
    inputs = [random(1, 1, 512, 8, seed=i).bfloat16().requires_grad_() for i in range(3)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        attend(*inputs, mask)
    assert max(kept) < 512 * 512


@pytest.mark.parametrize("chunks", [[6], [1] * 6, [3, 1, 2]])
def test_cached_equals_uncached(chunks):
    block, x, cache = TransformerBlock(16, 2, context_width=8).eval(), random(2, 6, 16), KVCache(6)
    context = block.cross.keys_values(random(2, 5, 8))
    pieces = [block(piece, causal=True, cache=cache, context=context) for piece in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), block(x, causal=True, context=context), atol=1e-5, rtol=1e-5)


def test_a_causal_block_does_not_see_the_future():
    block, x = TransformerBlock(16, 2).eval(), random(1, 6, 16)
    changed = x.clone()
    changed[:, 4:] += random(1, 2, 16, seed=1)
    torch.testing.assert_close(block(x, causal=True)[:, :4], block(changed, causal=True)[:, :4])
    assert not torch.allclose(block(x)[:, :4], block(changed)[:, :4])


def test_the_end_token_is_real_and_padding_is_not():
    assert token_mask(TOKENS).sum(1).tolist() == [4, 6]


def test_padding_does_not_change_a_caption():
    model = encoder()
    padded, _ = model(TOKENS[:1])
    bare, _ = model(TOKENS[:1, :4])
    torch.testing.assert_close(padded[:, :4], bare, atol=1e-5, rtol=1e-5)


def test_hidden_states_are_those_after_the_final_norm():
    hidden, _ = encoder()(TOKENS)
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.var(-1, correction=0), torch.ones(2, 6), atol=1e-3, rtol=0)


def test_a_dropped_caption_tells_nothing_of_its_tokens():
    hidden, mask = encoder()(TOKENS, torch.tensor([True, True]))
    assert mask.tolist() == [[True, *[False] * 5]] * 2
    assert float(hidden.detach().abs().max()) == 0


def test_a_residual_block_starts_as_its_skip():
    block, x = ResBlock(8, 8, 16), random(2, 8, 4, 4)
    torch.testing.assert_close(block(x, random(2, 16)), x)
    assert block(x, random(2, 16), "up").shape == (2, 8, 8, 8)
    assert block(x, random(2, 16), "down").shape == (2, 8, 2, 2)


def test_the_timestep_scales_and_shifts_a_residual_block():
    block, x, emb = ResBlock(8, 8, 16), random(2, 8, 4, 4), random(2, 16, seed=1)
    nn.init.normal_(block.conv_out.weight)
    scale, shift = block.emb(emb)[..., None, None].chunk(2, dim=1)
    normed = block.norm_out(block.conv_in(silu(block.norm_in(x))))
    expected = x + block.conv_out(silu(normed * (1 + scale) + shift))
    torch.testing.assert_close(block(x, emb), expected, atol=1e-5, rtol=1e-5)


def test_timestep_embeddings_differ_from_step_to_step():
    embedded = timestep_embedding(torch.arange(1000), 64)
    assert embedded.shape == (1000, 64)
    assert float((embedded[1:] - embedded[:-1]).norm(dim=1).min()) > 0.5


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads must divide width 16, got 3"):
        SelfAttention(16, 3)
