"""The pieces networks are made of: attention, transformer blocks, the caption encoder, residual blocks.

B batch, N queries, S keys, L caption positions, W width, H heads, C channels, P pixels of a side of a feature map.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import CaptionEncoderConfig
from models.norm import group_norm, norm_silu

Module = TypeVar("Module", bound=nn.Module)
MANY_SHARES = 1 << 18  # queries times keys of a head; not tuned: between maps of 16 x 16 and 32 x 32
KeysValues = tuple[Tensor, Tensor]  # (B, H, S, W / H) each


def token_mask(tokens: Tensor, pad_id: int | None = None) -> Tensor:
    """True up to and with the end token, the largest id there is. (B, L) integers to (B, L) bool.

    By place, not by id: padding is 0, and so is "!" in open_clip's own vocabulary. pad_id: of another tokenizer, whose
    end token may be any, or padding itself: then True up to the last token that is not padding, and of one at least.
    """
    places = torch.arange(tokens.shape[-1], device=tokens.device)
    if pad_id is None:
        return places <= tokens.argmax(dim=-1, keepdim=True)
    return places <= (places * (tokens != pad_id)).amax(dim=-1, keepdim=True)


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of timesteps at geometric frequencies (Vaswani et al. 2017, §3.5).

    t: (B,) in steps; width even. Returns float32 (B, width).
    """
    half = width // 2
    powers = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * powers)  # (B, W/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def attention_mask(q: Tensor, k: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor | None:
    """Which key a query may look at, or None for all: padding and causality in one boolean mask.

    q: (B, H, N, W / H); k: (B, H, S, W / H); key_mask: (B, S), True for real keys. The last query stands at the last
    key, so cached keys lie in its past. Returns (B or 1, 1, N or 1, S).
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    allowed = None if key_mask is None else key_mask[:, None, None, :]
    if not causal or num_queries == 1:
        return allowed
    past = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device).tril(num_keys - num_queries)
    return past[None, None] if allowed is None else allowed & past


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, keys outside the mask left out: scaled_dot_product_attention wherever it is fast.

    q: (B, H, N, d); k, v: (B, H, S, d); mask: bool, broadcastable to (B, 1, N, S). Returns (B, H, N, d).
    On a CPU, forward and backward in bf16 take it 2 to 4 times as long (337 to 77 keys) as the products written out,
    so these are used there; a mask by key is one more dimension then, which costs next to nothing. From MANY_SHARES
    on they would keep more for the backward pass than all else; the fused function keeps no shares, and is as fast on
    two threads; on one it takes up to 1.7 times as long.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
    if not slow or q.shape[2] * k.shape[2] >= MANY_SHARES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return scores(q * q.shape[-1] ** -0.5, k, mask).softmax(-1) @ v


def scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """q k^T (B, H, N, S), the least number there is where the mask is False."""
    if mask is None:
        return q @ k.transpose(-1, -2)
    bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, torch.finfo(q.dtype).min)  # (B, 1, 1 or N, S)
    if mask.shape[2] > 1:
        return q @ k.transpose(-1, -2) + bias
    by_key = bias.transpose(-1, -2).expand(*k.shape[:3], 1)  # (B, H, S, 1), a dimension in which all queries are one
    return torch.cat([q, torch.ones_like(q[..., :1])], dim=-1) @ torch.cat([k, by_key], dim=-1).transpose(-1, -2)


class KVCache:
    """Keys and values of the positions seen so far, in buffers of `length` positions made at the first append."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.filled = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """All keys and values so far after adding these (B, H, N, W / H)."""
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.length, keys.shape[-1])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        end = self.filled + keys.shape[2]
        assert end <= self.length, f"cache of {self.length} positions cannot hold {end}"
        self._keys[:, :, self.filled : end] = keys
        self._values[:, :, self.filled : end] = values
        self.filled = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, with a padding mask, causal mask and key-value cache if asked."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _require_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, *, causal: bool = False, cache: KVCache | None = None
    ) -> Tensor:
        """x: (B, N, W); key_mask: (B, S) of every key, cached ones included. Returns (B, N, W)."""
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, H, N, W/H)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H, S, W/H)
        return self.out(_join_heads(attend(q, k, v, attention_mask(q, k, key_mask, causal))))  # (B, N, W)


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence, whose keys and values can be computed once for many calls."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        _require_heads(width, heads)
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, context: Tensor) -> KeysValues:
        """The context (B, S, context width) as keys and values (B, H, S, W / H)."""
        keys, values = self.kv(context).chunk(2, dim=-1)
        return _split_heads(keys, self.heads), _split_heads(values, self.heads)

    def forward(self, x: Tensor, keys_values: KeysValues, key_mask: Tensor | None = None) -> Tensor:
        """x: (B, N, W); key_mask: (B, S), True for real keys. Returns (B, N, W)."""
        q = _split_heads(self.q(x), self.heads)  # (B, H, N, W/H)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        return self.out(_join_heads(attend(q, *keys_values, mask)))  # (B, N, W)


class TransformerBlock(nn.Module):
    """Pre-norm residual block: self-attention, cross-attention where `context_width` is given, and an MLP."""

    def __init__(self, width: int, heads: int, *, context_width: int | None = None, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.cross_norm = None if context_width is None else nn.LayerNorm(width)
        self.cross = None if context_width is None else CrossAttention(width, heads, context_width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout_prob)

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        context: KeysValues | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x: (B, N, W); context: what `self.cross.keys_values` made of the other sequence. Returns (B, N, W)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), key_mask, causal=causal, cache=cache))
        if self.cross is not None and self.cross_norm is not None:
            assert context is not None, "a block with cross-attention needs a context"
            x = x + self.dropout(self.cross(self.cross_norm(x), context, context_mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class CaptionEncoder(nn.Module):
    """Tokens to hidden states by a bidirectional transformer trained with its stage (GLIDE §2; App. C, table 3).

    A dropped caption is one learned token, zero at start, and padding after it.
    """

    def __init__(self, config: CaptionEncoderConfig, vocab_size: int, context: int, pad_id: int | None = None) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.token = nn.Embedding(vocab_size, config.width)
        self.position = nn.Parameter(torch.empty(context, config.width))
        self.blocks = nn.ModuleList(TransformerBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.null = nn.Parameter(torch.zeros(config.width))
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)

    def forward(self, tokens: Tensor, drop: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states after the final layer norm (B, L, W), and the mask (B, L) of the real ones.

        tokens: (B, L) integers; drop: (B,) bool, True for captions to leave out.
        """
        mask = token_mask(tokens, self.pad_id)
        x = self.token(tokens) + self.position[: tokens.shape[1]]  # (B, L, W)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if drop is None:
            return x, mask
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0  # (L,)
        return torch.where(drop[:, None, None], self.null.to(x.dtype), x), torch.where(drop[:, None], first, mask)


class ResBlock(nn.Module):
    """ADM residual block: the timestep scales and shifts the second norm; resamples by two where asked (§2.1)."""

    def __init__(self, channels_in: int, channels_out: int, emb_width: int, *, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.norm_in = group_norm(channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.emb = nn.Linear(emb_width, 2 * channels_out)
        self.norm_out = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout_prob)
        self.conv_out = zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor, resample: str | None = None) -> Tensor:
        """x: (B, C in, P, P); emb: (B, E), activated; resample: None, "down" or "up". Returns (B, C out, P', P')."""
        h = norm_silu(self.norm_in, x)
        if resample is not None:
            h, x = resize_by_two(h, resample), resize_by_two(x, resample)
        h = self.conv_in(h)
        h = norm_silu(self.norm_out, h, self.emb(emb).chunk(2, dim=1))
        return self.skip(x) + self.conv_out(self.dropout(h))


BLOCKS = (TransformerBlock, ResBlock)  # what networks repeat: compiled, or recomputed, one by one


def resize_by_two(x: Tensor, direction: str) -> Tensor:
    """A feature map of half ("down", averaged) or double ("up", repeated) the side."""
    if direction == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero_init(module: Module) -> Module:
    """The same module with all parameters zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _require_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"heads must divide width {width}, got {heads}")


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, N, W/H)


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B, N, W)
