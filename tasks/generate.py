"""Pictures of a caption from an assembled stack, each carrying what made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise ValueError("the caption is empty")
        if self.num < 1:
            raise ValueError(f"--num must be >= 1, got {self.num}")


@torch.no_grad()
def generate(stack: Artifact, request: Request, device: str = "cpu") -> list[Image.Image]:
    """Pictures of the caption; the same seed gives the same pixels."""
    sampling = load_sampling(stack)
    prior = request.prior or sampling.prior
    images = load_stack(stack, device=device).generate(
        [request.caption] * request.num,
        torch.Generator(device).manual_seed(request.seed),
        prior,
        prior_options(sampling, prior),
        rendering_of(sampling, request.guidance),
    )
    return [Image.fromarray(pixels) for pixels in to_pixels(images)]


def save_picture(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG whose metadata says what made it: `unclip lineage PNG` reads it."""
    info = PngInfo()
    info.add_text("unclip", json.dumps(record))
    picture.save(path, pnginfo=info)
