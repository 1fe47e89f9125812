"""Shards of pictures of the size of photographs, and captions of the length of alternative texts, all drawn."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from unclip.data.rows import sample_id
from unclip.data.shards import Sample, sample_key, write_shard

SIZES = ((512, 384), (640, 480), (768, 512), (800, 600), (480, 640), (600, 800))  # width, height
QUALITY = 88  # of JPEG: 60 to 140 kB
NOISE = 6.0  # of 255, what a sensor leaves
WORDS = """
a the photo picture of red blue old young man woman dog cat street house tree river mountain with on near beside
sitting standing running small large white black green in at night day summer car train bicycle market table
""".split()  # noqa: SIM905


def write_photos(folder: Path, num_shards: int, rows: int, first: int = 0) -> None:
    """Shards `first`, `first + 1`, ... of so many rows; each is drawn by its number alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(first, first + num_shards):
        if not (folder / f"{shard:05d}.tar").exists():
            write_shard(folder / ".drawn", photos(shard, rows))
            (folder / ".drawn").rename(folder / f"{shard:05d}.tar")


def photos(shard: int, rows: int) -> Iterator[Sample]:
    """The samples of a shard."""
    rng = np.random.default_rng(shard)
    grain = rng.normal(size=(1000, 1000, 1)).astype(np.float32) * NOISE
    for row in range(rows):
        key, caption = sample_key(shard, row), " ".join(rng.choice(WORDS, int(np.clip(rng.lognormal(2.2, 0.5), 3, 60))))
        data = jpeg(rng, grain)
        yield Sample(key=key, image=data, extension="jpg", caption=caption, sample_id=sample_id(key, caption))


def jpeg(rng: np.random.Generator, grain: np.ndarray) -> bytes:
    """A picture of soft shapes, texture and grain."""
    width, height = SIZES[rng.integers(len(SIZES))]
    layers = [rng.integers(0, 256, (height // step, width // step, 3), dtype=np.uint8) for step in (128, 16)]
    soft, fine = (
        np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)) for layer in layers
    )
    top, left = rng.integers(0, 200, 2)
    pixels = 0.6 * soft + 0.4 * fine + grain[top : top + height, left : left + width]
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
