"""The bipartite latent (zi, xT) and its uses (§3): variations, interpolations, text diffs, PCA reconstructions.

B batch, D embedding dimension. zi, zt: unit-norm (B, D); images are (B, 3, P, P) in [-1, 1]. Pictures are decoded
without a caption, which would say again what an edit is about to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.decoder import Decoder
from models.pca import Pca


@dataclass(frozen=True, kw_only=True)
class Latent:
    """All there is to pictures: what they show, zi (B, D), and everything else, xT (B, 3, P, P)."""

    zi: Tensor
    xt: Tensor


def slerp(start: Tensor, end: Tensor, t: float | Tensor) -> Tensor:
    """The point a fraction t along the great circle from one unit vector to another, on the last dimension.

    t: a number or broadcastable to (..., 1). Nearly equal vectors are mixed linearly. Returns unit vectors.
    """
    angle = torch.arccos((start * end).sum(-1, keepdim=True).clamp(-1, 1))
    close = angle < 1e-4
    sine = torch.where(close, torch.ones_like(angle), angle.sin())
    from_start = torch.where(close, torch.ones_like(angle) - t, ((1 - t) * angle).sin() / sine)
    from_end = torch.where(close, torch.zeros_like(angle) + t, (t * angle).sin() / sine)
    return normalize(from_start * start + from_end * end, dim=-1)


def slerp_noise(start: Tensor, end: Tensor, t: float) -> Tensor:
    """A point between two latents xT (B, 3, P, P) along a great circle of each pair, its length between theirs."""
    flat_start, flat_end = start.flatten(1), end.flatten(1)
    lengths = [flat.norm(dim=1, keepdim=True) for flat in (flat_start, flat_end)]
    direction = slerp(flat_start / lengths[0], flat_end / lengths[1], t)
    return (direction * ((1 - t) * lengths[0] + t * lengths[1])).reshape(start.shape)


def invert(decoder: Decoder, images: Tensor, zi: Tensor, num_steps: int) -> Latent:
    """The latent of pictures (B, 3, P, P) whose embedding is zi, by DDIM inversion (§3)."""
    tokens, drop = _no_caption(zi)
    return Latent(zi=zi, xt=decoder.invert(images, zi, tokens, num_steps, drop_caption=drop))


def decode(
    decoder: Decoder, latent: Latent, num_steps: int, *, eta: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """The pictures of a latent by DDIM: at eta 0 what `invert` undoes, above it variations of their content (§3.1)."""
    tokens, drop = _no_caption(latent.zi)
    return decoder.decode(latent.xt, latent.zi, tokens, num_steps, eta=eta, generator=generator, drop_caption=drop)


def interpolate(decoder: Decoder, start: Latent, end: Latent, t: float, num_steps: int) -> Tensor:
    """Pictures a fraction t between two latents, both halves of them on great circles (§3.2).

    Inverted xT make the ends reconstructions; the same xT in both holds it fixed.
    """
    between = Latent(zi=slerp(start.zi, end.zi, t), xt=slerp_noise(start.xt, end.xt, t))
    return decode(decoder, between, num_steps)


def text_diff(decoder: Decoder, latent: Latent, zt0: Tensor | None, zt: Tensor, t: float, num_steps: int) -> Tensor:
    """Pictures moved from caption embedding zt0 towards zt by a fraction t, 0.25 to 0.50 in the paper (§3.3).

    The inversion's xT is held fixed; zt0: of a caption of the picture, of "a photo", or None to leave it out.
    """
    towards = normalize(zt if zt0 is None else zt - zt0, dim=-1)
    return decode(decoder, Latent(zi=slerp(latent.zi, towards, t), xt=latent.xt), num_steps)


def pca_reconstructions(
    decoder: Decoder, pca: Pca, latent: Latent, counts: Sequence[int], num_steps: int
) -> list[Tensor]:
    """Pictures of as much of zi as its first components tell, for each of `counts`; xT is held fixed (figure 7)."""
    coefficients = pca.encode(latent.zi)  # (B, K)
    partial = [normalize(pca.decode(coefficients[:, :count]), dim=-1) for count in counts]
    return [decode(decoder, Latent(zi=zi, xt=latent.xt), num_steps) for zi in partial]


def _no_caption(zi: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, 1) of nothing, and the mask (B,) that drops them."""
    return zi.new_zeros(len(zi), 1, dtype=torch.long), zi.new_ones(len(zi), dtype=torch.bool)
