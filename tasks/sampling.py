"""Embeddings and pictures from the networks of a stack, in batches, the same noise for the same rows.

B batch, N rows, D embedding dimension, L tokens of context, P pixels a side.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.clip import Clip
from models.stack import Rendering, Stack
from tasks.evaluate_config import EvaluateConfig

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


def autocast(stack: Stack, config: EvaluateConfig) -> torch.autocast:
    """The precision that networks compute in."""
    return torch.autocast(device_of(stack).type, torch.bfloat16, enabled=config.precision == "bf16")


@torch.no_grad()
def prior_embeddings(
    stack: Stack, name: str, zt: Floats, tokens: Tokens, config: EvaluateConfig, seed: int, draw: int = 0
) -> Floats:
    """Unit image embeddings (N, D) of the prior of that name for unit text embeddings (N, D) and tokens (N, L)."""
    device, parts = device_of(stack), []
    settings = {"num_steps": config.prior_steps, "num_candidates": config.num_candidates}
    options = settings if name == "prior_diffusion" else {}
    for rows in batches(len(zt), config.batch_size):
        text, ids = (torch.from_numpy(array[rows]).to(device) for array in (zt, tokens))
        with autocast(stack, config):
            parts.append(stack.draw(name, text, ids, generator(device, seed, rows.start, draw), options))
    return F.normalize(torch.cat(parts), dim=-1).cpu().numpy()


@torch.no_grad()
def pictures(stack: Stack, zi: Floats | None, tokens: Tokens, config: EvaluateConfig, seed: int, tell: Tell) -> Pixels:
    """Pictures (N, P, P, 3) from unit embeddings (N, D) and tokens (N, L); from the captions alone where zi is None."""
    device, made = device_of(stack), []
    rendering = Rendering(
        decoder_steps=config.decoder_steps,
        decoder_sampler=config.decoder_sampler,
        guidance=config.guidance,
        mid_steps=config.upsampler_steps,
        top_steps=config.upsampler_steps,
    )
    for rows in batches(len(tokens), config.batch_size):
        given = None if zi is None else torch.from_numpy(zi[rows]).to(device)
        ids = torch.from_numpy(tokens[rows]).to(device)
        with autocast(stack, config):
            made.append(to_pixels(stack.render(given, ids, generator(device, seed, rows.start), rendering)))
        tell(len(ids))
    return np.concatenate(made)


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
