"""Low-resolution pictures as an upsampler is trained to repair them: resized, degraded, on the 8-bit grid (§2.1).

B batch, h side of the low-resolution picture. Images are float32 (B, 3, h, h) in [-1, 1]; every choice is made for
each sample on its own, from the generator alone.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models.diffusion import draw_noise

BLUR_KERNEL, BLUR_SIGMA = 3, 0.6  # §2.1
BSR_KERNEL = 7  # entries of a side; BSRGAN draws 7 to 21 for pictures of 512 px


def resize(images: Tensor, px: int) -> Tensor:
    """Bicubic with antialiasing, clamped to [-1, 1], to a shorter side of `px`, the proportions kept."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    size = (round(height * px / shorter), round(width * px / shorter))
    resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


def to_grid(images: Tensor) -> Tensor:
    """Rounded to the 256 values that an 8-bit file holds."""
    return ((images + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def degrade(low: Tensor, kind: str, generator: torch.Generator, *, blur_prob: float) -> Tensor:
    """A degraded picture on the 8-bit grid: "blur" with `blur_prob`, or always "bsr_light" or "bsr_full"."""
    if kind == "blur":
        return to_grid(blur(low, blur_prob, generator))
    return to_grid({"bsr_light": bsr_light, "bsr_full": bsr_full}[kind](low, generator))


def blur(images: Tensor, prob: float, generator: torch.Generator) -> Tensor:
    """A Gaussian of kernel 3 and sigma 0.6 on the samples whose own coin says so (§2.1)."""
    sigma = torch.full((len(images), 2), BLUR_SIGMA, device=images.device)
    blurred = convolve(images, gaussian_kernels(sigma, torch.zeros(len(images), device=images.device), BLUR_KERNEL))
    return torch.where(_coins(len(images), prob, generator, images)[:, None, None, None], blurred, images)


def bsr_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """One blur, mild noise, JPEG: the light BSR of latent diffusion (Rombach et al. 2022, App. D.6.1)."""
    images = _random_blur(images, generator, max_sigma=0.7)
    images = _random_noise(images, generator, max_std=2 / 127.5)
    return _random_jpeg(images, generator, min_quality=80)


def bsr_full(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two blurs, a resampling, noise and JPEG in an order of each sample's own, then JPEG (Zhang et al. 2021, §3)."""
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda image: _random_blur(image, generator, max_sigma=2.0),
        lambda image: _random_blur(image, generator, max_sigma=2.0),
        lambda image: _random_resampling(image, generator),
        lambda image: _random_noise(image, generator, max_std=25 / 127.5),
        lambda image: _random_jpeg(image, generator, min_quality=30),
    ]
    degraded = []
    for image in images.split(1):
        for i in torch.randperm(len(steps), generator=generator, device=generator.device).tolist():
            image = steps[i](image)
        degraded.append(image)
    return _random_jpeg(torch.cat(degraded), generator, min_quality=30)


def gaussian_kernels(sigma: Tensor, angle: Tensor, size: int) -> Tensor:
    """(B, size, size) kernels of sum 1 from standard deviations (B, 2) along axes turned by angles (B,), in pixels."""
    offsets = torch.arange(size, device=sigma.device, dtype=torch.float32) - (size - 1) / 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = cos * x + sin * y, cos * y - sin * x  # (B, size, size)
    kernels = torch.exp(-0.5 * ((along / sigma[:, :1, None]) ** 2 + (across / sigma[:, 1:, None]) ** 2))
    return kernels / kernels.sum((1, 2), keepdim=True)


def convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Each picture convolved with its own (B, k, k) kernel, its borders reflected."""
    batch, channels = images.shape[:2]
    pad = kernels.shape[-1] // 2
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect").flatten(0, 1)[None]  # (1, B * 3, h, h)
    weights = kernels.repeat_interleave(channels, dim=0)[:, None]  # (B * 3, 1, k, k)
    return F.conv2d(padded, weights, groups=batch * channels)[0].unflatten(0, (batch, channels))


def _random_blur(images: Tensor, generator: torch.Generator, max_sigma: float) -> Tensor:
    """A Gaussian of any shape and direction, its deviations between 0.1 pixel and `max_sigma`."""
    draws = _uniform(3, len(images), generator, images)
    sigma = 0.1 + (max_sigma - 0.1) * draws[:2].T
    return convolve(images, gaussian_kernels(sigma, draws[2] * math.pi, BSR_KERNEL))


def _random_noise(images: Tensor, generator: torch.Generator, max_std: float) -> Tensor:
    """Gaussian noise whose deviation is drawn up to `max_std` for each sample."""
    std = max_std * _uniform(1, len(images), generator, images)[0]
    return (images + std[:, None, None, None] * draw_noise(images, generator)).clamp(-1, 1)


def _random_jpeg(images: Tensor, generator: torch.Generator, min_quality: int) -> Tensor:
    """Through a JPEG in memory of a quality drawn from `min_quality` to 95 for each sample."""
    qualities = torch.randint(min_quality, 96, (len(images),), generator=generator, device=generator.device).tolist()
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(image, quality) for image, quality in zip(pixels, qualities, strict=True)])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(images.device).float() / 127.5 - 1


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (h, h, 3) encoded and decoded again."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _random_resampling(image: Tensor, generator: torch.Generator) -> Tensor:
    """One picture (1, 3, h, h) scaled by 0.5 to 1.5 and back."""
    scale = 0.5 + float(_uniform(1, 1, generator, image))
    side = min(image.shape[-2:])
    return resize(resize(image, round(side * scale)), side)


def _coins(count: int, prob: float, generator: torch.Generator, like: Tensor) -> Tensor:
    return _uniform(1, count, generator, like)[0] < prob


def _uniform(rows: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(rows, count, generator=generator, device=generator.device).to(like.device)
