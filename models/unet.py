"""The ADM U-Net with GLIDE's text conditioning (Dhariwal & Nichol 2021, §3; Nichol et al. 2022, §2.3).

B batch, C channels, P map side, N = P * P positions, E embedding width, S context tokens, K context width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ResBlock, attend, timestep_embedding, zero_init
from models.config import UNetConfig
from models.norm import group_norm, norm_silu


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a U-Net attends to besides its own map: tokens (B, S, K) and the mask (B, S) of the real ones."""

    tokens: Tensor
    mask: Tensor


class MapAttention(nn.Module):
    """Attention of a feature map to itself and, in the same softmax, to the context (GLIDE §2.3)."""

    def __init__(self, channels: int, head_channels: int, context_width: int | None) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = None if context_width is None else nn.Linear(context_width, 2 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        """x: (B, C, P, P). Returns the same shape."""
        q, k, v = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)  # (B, N, C)
        mask = None
        if self.context_kv is not None:
            assert context is not None, "a U-Net with a context width needs a context"
            context_k, context_v = self.context_kv(context.tokens).chunk(2, dim=-1)  # (B, S, C)
            k, v = torch.cat([context_k, k], dim=1), torch.cat([context_v, v], dim=1)  # (B, S + N, C)
            mask = F.pad(context.mask, (0, q.shape[1]), value=True)[:, None, None, :]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = attend(q, k, v, mask)  # (B, heads, N, C / heads)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))  # (B, N, C)
        return x + mixed.transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A residual block, and attention after it where the map is of a side that attends."""

    def __init__(self, block: ResBlock, attention: MapAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, emb: Tensor, context: Context | None) -> Tensor:
        """x: (B, C in, P, P); emb: (B, E). Returns (B, C out, P, P)."""
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, context)


class UNet(nn.Module):
    """A residual U-Net whose blocks attend at the map sides of `config.attention_px`; with none, convolutions only.

    px: the side at which attention is laid out. A convolutional network takes any side that its levels can halve.
    """

    def __init__(
        self, config: UNetConfig, in_channels: int, out_channels: int, px: int, context_width: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.min_multiple = config.min_multiple
        self.emb_width = 4 * config.channels
        self.time = nn.Sequential(
            nn.Linear(config.channels, self.emb_width), nn.SiLU(), nn.Linear(self.emb_width, self.emb_width)
        )
        widths = [config.channels * multiple for multiple in config.multiples]
        sides = config.map_sides(px)

        def residual(channels_in: int, channels_out: int) -> ResBlock:
            return ResBlock(channels_in, channels_out, self.emb_width, dropout_prob=config.dropout_prob)

        def stage(channels_in: int, channels_out: int, side: int) -> Stage:
            attends = side in config.attention_px
            attention = MapAttention(channels_out, config.head_channels, context_width) if attends else None
            return Stage(residual(channels_in, channels_out), attention)

        self.conv_in = nn.Conv2d(in_channels * config.patch**2, widths[0], 3, padding=1)
        skips = [widths[0]]
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            entering = [skips[-1], *[width] * (config.depth - 1)]
            self.down.append(nn.ModuleList(stage(channels, width, sides[i]) for channels in entering))
            skips += [width] * config.depth
            if i + 1 < len(widths):
                self.shrink.append(residual(width, width))
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, sides[-1]), residual(width, width)])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, target in reversed(list(enumerate(widths))):
            entering = [width, *[target] * config.depth]
            self.up.append(nn.ModuleList(stage(channels + skips.pop(), target, sides[i]) for channels in entering))
            width = target
            if i:
                self.grow.append(residual(width, width))
        self.norm = group_norm(width)
        self.conv_out = zero_init(nn.Conv2d(width, out_channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, emb: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x: (B, C in, P, P); t: (B,) timesteps; emb: (B, E) to add to the timestep's. Returns (B, C out, P, P).

        Raises: ValueError for a side that the levels cannot halve.
        """
        if any(side % self.min_multiple for side in x.shape[-2:]):
            raise ValueError(f"image sides must be multiples of {self.min_multiple}, got {tuple(x.shape[-2:])}")
        time = self.time(timestep_embedding(t, self.config.channels))
        emb = F.silu(time if emb is None else time + emb)  # (B, E)
        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch))  # (B, C, P, P)
        h, skips = self._descend(h, emb, context)
        h = self.middle[1](self.middle[0](h, emb, context), emb)
        h = self._ascend(h, skips, emb, context)
        return F.pixel_shuffle(self.conv_out(norm_silu(self.norm, h)), self.config.patch)

    def _descend(self, h: Tensor, emb: Tensor, context: Context | None) -> tuple[Tensor, list[Tensor]]:
        skips = [h]
        for i, stages in enumerate(self.down):
            for stage in stages:
                h = stage(h, emb, context)
                skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h, emb, "down")
                skips.append(h)
        return h, skips

    def _ascend(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Context | None) -> Tensor:
        for i, stages in enumerate(self.up):
            for stage in stages:
                h = stage(torch.cat([h, skips.pop()], dim=1), emb, context)
            if i < len(self.grow):
                h = self.grow[i](h, emb, "up")
        return h
