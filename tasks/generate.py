"""Pictures of a caption from an assembled stack, each carrying what made it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from models.config import NO_PRIOR
from tasks.captions import require_readable, unseen_words
from tasks.loading import load_sampling, load_stack
from tasks.sampling import prior_options, rendering_of, to_pixels
from unclip.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Request:
    """A caption and how to sample it; None is what the stack was assembled with."""

    caption: str
    num: int = 1
    seed: int = 0
    prior: str | None = None
    guidance: float | None = None


@torch.no_grad()
def generate(stack: Artifact, request: Request, device: str = "cpu") -> tuple[list[Image.Image], dict[str, Any]]:
    """Pictures of the caption, and how they were sampled; the same seed gives the same pixels.

    Raises: ValueError for a caption that CLIP cannot read, or a prior that the stack has not.
    """
    sampling, networks = load_sampling(stack), load_stack(stack, device=device)
    require_readable([request.caption], networks.clip.tokenizer)
    prior = request.prior or sampling.prior
    if networks.decoder.config.embedding == "text" and prior != NO_PRIOR:
        raise ValueError(f"prior must be {NO_PRIOR}: this stack's decoder draws from text embeddings, got {prior!r}")
    options, rendering = prior_options(sampling, prior), rendering_of(sampling, request.guidance)
    noise = torch.Generator(device).manual_seed(request.seed)
    images = networks.generate([request.caption] * request.num, noise, prior, options, rendering)
    how = asdict(request) | {"stack": stack.key, "prior": prior, "prior_options": options} | asdict(rendering)
    how["unseen_words"] = unseen_words(request.caption, networks.clip.spec.vocabulary)
    return [Image.fromarray(pixels) for pixels in to_pixels(images)], how


def save_picture(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG whose metadata says what made it: `unclip lineage PNG` reads it."""
    info = PngInfo()
    info.add_text("unclip", json.dumps(record))
    picture.save(path, pnginfo=info)
