"""The whole stack: captions to image embeddings to pictures (§1: P(x|y) = P(x|zi, y) P(zi|y)).

B batch, L caption positions, D embedding dimension. Pictures are (B, 3, P, P) in [-1, 1], P the last upsampler's side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import Clip
from models.config import NO_PRIOR
from models.decoder import Decoder
from models.upsampler import Upsampler

Option = int | float | str


@runtime_checkable
class Prior(Protocol):
    """Anything that draws unit image embeddings (B, D) for unit text embeddings (B, D) and tokens (B, L)."""

    def sample(self, zt: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How embeddings become pictures: settings of the decoder and of both upsamplers."""

    decoder_steps: int = 50
    decoder_sampler: str = "ddim"  # or "ddpm", the paper's, with 250 steps
    guidance: float = 2.0  # of the decoder; 1 is off
    mid_steps: int = 27  # App. C, table 3
    top_steps: int = 15  # App. C, table 3
    tile_px: int | None = None  # side of the tiles that upsamplers work in; None is the whole picture


class Stack(nn.Module):
    """CLIP, priors by name, decoder and two upsamplers, all frozen."""

    def __init__(
        self, clip: Clip, priors: Mapping[str, nn.Module], decoder: Decoder, mid: Upsampler, top: Upsampler
    ) -> None:
        super().__init__()
        self.clip = clip
        self.priors = nn.ModuleDict(priors)
        self.decoder = decoder
        self.mid = mid
        self.top = top

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) int64 and unit text embeddings (B, D) of captions."""
        tokens = self.clip.tokenize(captions).long().to(self.clip.pixel_mean.device)
        return tokens, F.normalize(self.clip.encode_text(tokens), dim=-1)

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """Unit image embeddings (B, D) of pictures, as `Clip.encode_image` takes them."""
        return F.normalize(self.clip.encode_image(images), dim=-1)

    def draw(
        self,
        prior: str,
        zt: Tensor,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> Tensor:
        """Unit image embeddings (B, D) from the prior of that name, or zt itself; options are those of its `sample`.

        Raises: ValueError for a prior the stack has not.
        """
        if prior == NO_PRIOR:
            return zt.float()
        if prior not in self.priors:
            raise ValueError(f"prior must be one of {', '.join([*self.priors, NO_PRIOR])}, got {prior!r}")
        zi: Tensor = self.priors[prior].sample(zt, tokens, generator, **(options or {}))
        return zi.float()

    @torch.no_grad()
    def render(
        self,
        zi: Tensor | None,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        rendering: Rendering | None = None,
    ) -> Tensor:
        """Pictures from unit image embeddings (B, D) and tokens (B, L); from the captions alone where zi is None."""
        how = rendering or Rendering()
        drop = None
        if zi is None:
            zi = torch.zeros(len(tokens), self.clip.spec.embed_dim, device=tokens.device)
            drop = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        low = self.decoder.sample(
            zi,
            tokens,
            generator,
            num_steps=how.decoder_steps,
            sampler=how.decoder_sampler,
            guidance=how.guidance,
            drop_image=drop,
        )
        return self.upsample(low.float(), generator, how)

    @torch.no_grad()
    def upsample(
        self, low: Tensor, generator: torch.Generator | None = None, rendering: Rendering | None = None
    ) -> Tensor:
        """The decoder's pictures at the last upsampler's size."""
        how = rendering or Rendering()
        middle = self.mid.sample(low, generator, num_steps=how.mid_steps, tile_px=how.tile_px)
        top = self.top.sample(middle.float(), generator, num_steps=how.top_steps, tile_px=how.tile_px)
        return top.float().clamp(-1, 1)

    def generate(
        self,
        captions: Sequence[str],
        generator: torch.Generator | None = None,
        prior: str = "prior_diffusion",
        prior_options: Mapping[str, Option] | None = None,
        rendering: Rendering | None = None,
    ) -> Tensor:
        """Pictures of captions. The same generator state gives the same pixels."""
        tokens, zt = self.read(captions)
        zi = self.draw(prior, zt, tokens, generator, prior_options)
        return self.render(zi, tokens, generator, rendering)
