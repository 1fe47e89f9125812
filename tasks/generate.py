"""Pictures of a caption from an assembled stack, each carrying what made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from models.stack import Rendering
from tasks.loading import load_stack
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
    sampling = sampling_of(stack)
    prior = request.prior or sampling["prior"]
    options = {"num_steps": sampling["prior_steps"], "num_candidates": sampling["num_candidates"]}
    images = load_stack(stack, device=device).generate(
        [request.caption] * request.num,
        torch.Generator(device).manual_seed(request.seed),
        prior,
        options if prior == "prior_diffusion" else None,
        rendering_of(sampling, request.guidance),
    )
    return to_pictures(images)


def sampling_of(stack: Artifact) -> dict[str, Any]:
    """How a stack samples unless told otherwise: the settings that it was assembled with."""
    sampling: dict[str, Any] = json.loads((stack.path / "stack.json").read_text())["sampling"]
    return sampling


def rendering_of(sampling: dict[str, Any], guidance: float | None = None) -> Rendering:
    """How it makes pictures of embeddings, under another guidance where one is given."""
    return Rendering(
        decoder_steps=sampling["decoder_steps"],
        decoder_sampler=sampling["decoder_sampler"],
        guidance=sampling["guidance"] if guidance is None else guidance,
        mid_steps=sampling["upsampler_steps"],
        top_steps=sampling["upsampler_steps"],
    )


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures of (B, 3, H, W) in [-1, 1]."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def save_picture(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG whose metadata says what made it: `unclip lineage PNG` reads it."""
    info = PngInfo()
    info.add_text("unclip", json.dumps(record))
    picture.save(path, pnginfo=info)
