"""The bipartite latent (zi, xT) and its uses (§3): variations, interpolations, text diffs.

B batch, D embedding dimension. zi, zt: unit-norm (B, D); tokens: (B, L) captions the decoder also reads;
images: (B, 3, P, P) in [-1, 1].
"""

import torch
from torch import Tensor

from models.decoder import Decoder


def slerp(start: Tensor, end: Tensor, t: float | Tensor) -> Tensor:
    """The point a fraction t along the great circle from one unit vector to another, on the last dimension.

    t: a number or broadcastable to (..., 1). Nearly equal vectors are mixed linearly. Returns unit vectors.
    """
    angle = torch.arccos((start * end).sum(-1, keepdim=True).clamp(-1, 1))
    close = angle < 1e-4
    sine = torch.where(close, torch.ones_like(angle), angle.sin())
    from_start = torch.where(close, torch.ones_like(angle) - t, ((1 - t) * angle).sin() / sine)
    from_end = torch.where(close, torch.zeros_like(angle) + t, (t * angle).sin() / sine)
    return torch.nn.functional.normalize(from_start * start + from_end * end, dim=-1)


def slerp_noise(start: Tensor, end: Tensor, t: float) -> Tensor:
    """A point between two latents xT (B, 3, P, P) along a great circle of each pair, its length between theirs."""
    flat_start, flat_end = start.flatten(1), end.flatten(1)
    lengths = [flat.norm(dim=1, keepdim=True) for flat in (flat_start, flat_end)]
    direction = slerp(flat_start / lengths[0], flat_end / lengths[1], t)
    return (direction * ((1 - t) * lengths[0] + t * lengths[1])).reshape(start.shape)


def variations(
    decoder: Decoder, xt: Tensor, zi: Tensor, tokens: Tensor, generator: torch.Generator, *, eta: float, num_steps: int
) -> Tensor:
    """Pictures that share a latent's content: DDIM with eta > 0 from (zi, xT) (§3.1)."""
    return decoder.decode(xt, zi, tokens, num_steps, eta=eta, generator=generator)


def interpolate(
    decoder: Decoder,
    zi: tuple[Tensor, Tensor],
    xt: tuple[Tensor, Tensor],
    tokens: Tensor,
    t: float,
    *,
    num_steps: int,
) -> Tensor:
    """Pictures a fraction t between two latents, both halves of them on great circles (§3.2).

    Inverted xT make the ends reconstructions; the same xT twice holds it fixed.
    """
    between = slerp_noise(xt[0], xt[1], t)
    return decoder.decode(between, slerp(zi[0], zi[1], t), tokens, num_steps)


def text_diff(
    decoder: Decoder, xt: Tensor, zi: Tensor, zt0: Tensor, zt: Tensor, tokens: Tensor, t: float, *, num_steps: int
) -> Tensor:
    """Pictures moved from caption embedding zt0 towards zt by a fraction t, 0.25 to 0.50 in the paper (§3.3).

    xt: the inversion of the picture, held fixed; zt0: of a caption of it or of "a photo".
    """
    towards = torch.nn.functional.normalize(zt - zt0, dim=-1)
    return decoder.decode(xt, slerp(zi, towards, t), tokens, num_steps)
