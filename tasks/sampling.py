"""Embeddings and pictures from the networks of a stack, in batches, the same noise for the same rows.

B batch, N rows, D embedding dimension, L tokens of context, P pixels a side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.clip import Clip
from models.stack import Option, Rendering, Stack
from tasks.assemble_config import AssembleConfig

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]
Pixels = NDArray[np.uint8]
Tell = Callable[[int], None]  # rows that are done since last time


def batches(num_rows: int, size: int) -> Iterator[slice]:
    """Slices that cover the rows."""
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def generator(device: torch.device, seed: int, start: int, draw: int = 0) -> torch.Generator:
    """The noise of a batch, by its first row: the same for every conditioning."""
    state = np.random.SeedSequence([seed, start, draw]).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))


def device_of(stack: Stack) -> torch.device:
    """Where the networks are."""
    return next(stack.decoder.parameters()).device


def prior_options(sampling: AssembleConfig, prior: str) -> dict[str, Option]:
    """What the prior of that name is told besides the caption."""
    if prior == "prior_diffusion":
        return {
            "num_steps": sampling.prior_steps,
            "sampler": sampling.prior_sampler,
            "num_candidates": sampling.num_candidates,
            "guidance": sampling.prior_guidance,
        }
    if prior == "prior_ar":
        return {
            "guidance": sampling.prior_guidance,
            "temperature": sampling.ar_temperature,
            "top_p": sampling.ar_top_p,
        }
    return {}


def rendering_of(sampling: AssembleConfig, guidance: float | None = None) -> Rendering:
    """How embeddings become pictures, under another guidance where one is given."""
    return Rendering(
        decoder_steps=sampling.decoder_steps,
        decoder_sampler=sampling.decoder_sampler,
        guidance=sampling.guidance if guidance is None else guidance,
        mid_steps=sampling.mid_steps,
        top_steps=sampling.top_steps,
        tile_px=sampling.tile_px,
    )


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A stack that samples as it was assembled to, many rows in one go."""

    stack: Stack
    sampling: AssembleConfig
    batch_size: int
    precision: str  # "bf16" or "fp32"
    seed: int

    @torch.no_grad()
    def embeddings(self, prior: str, zt: Floats, tokens: Tokens, draw: int = 0) -> Floats:
        """Unit image embeddings (N, D) of the prior of that name for unit text embeddings (N, D) and tokens (N, L)."""
        device, parts = device_of(self.stack), []
        options = prior_options(self.sampling, prior)
        for rows in batches(len(zt), self.batch_size):
            text, ids = (torch.from_numpy(array[rows]).to(device) for array in (zt, tokens))
            noise = generator(device, self.seed, rows.start, draw)
            with self._autocast():
                parts.append(self.stack.draw(prior, text, ids, noise, options))
        return F.normalize(torch.cat(parts), dim=-1).cpu().numpy()

    @torch.no_grad()
    def pictures(self, zi: Floats | None, tokens: Tokens, tell: Tell) -> Pixels:
        """Pictures (N, P, P, 3) of unit embeddings (N, D) and tokens (N, L); of captions alone where zi is None."""
        device, made, rendering = device_of(self.stack), [], rendering_of(self.sampling)
        for rows in batches(len(tokens), self.batch_size):
            given = None if zi is None else torch.from_numpy(zi[rows]).to(device)
            ids = torch.from_numpy(tokens[rows]).to(device)
            noise = generator(device, self.seed, rows.start)
            with self._autocast():
                made.append(to_pixels(self.stack.render(given, ids, noise, rendering)))
            tell(len(ids))
        return np.concatenate(made)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(device_of(self.stack).type, torch.bfloat16, enabled=self.precision == "bf16")


def to_pixels(images: Tensor) -> Pixels:
    """Pictures (B, 3, P, P) in [-1, 1] as uint8 (B, P, P, 3)."""
    levels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


@torch.no_grad()
def image_features(clip: Clip, pixels: Pixels, batch_size: int) -> Floats:
    """Unit CLIP embeddings (N, D) of pictures (N, P, P, 3)."""
    device = clip.pixel_mean.device
    parts = [clip.encode_image(torch.from_numpy(pixels[rows]).to(device)) for rows in batches(len(pixels), batch_size)]
    return F.normalize(torch.cat(parts), dim=-1).cpu().numpy()
