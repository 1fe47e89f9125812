"""Small real pictures, shards and an encoder without weights, for the tests of this folder."""

import hashlib

import numpy as np
import pytest

from unclip.data.crops import Crop
from unclip.data.embed import info_of
from unclip.data.fetch import tool_python
from unclip.data.images import png_bytes
from unclip.data.rows import sample_id
from unclip.data.shards import Sample, row_of, sample_key
from unclip.data.sources import Admission, write_admissions
from unclip.data.table import Embedded, write_part


def picture(seed, side=48):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, 0).repeat(side // 4, 1)


def sample(row, shard=0, seed=None, caption=None, **meta):
    caption = caption or f"picture number {shard} {row}"
    data = png_bytes(picture(row + 1000 * shard if seed is None else seed))
    key = sample_key(shard, row)
    return Sample(key=key, image=data, extension="png", caption=caption, sample_id=sample_id(key, caption), meta=meta)


def write_source(folder, samples):
    folder.mkdir(parents=True)
    write_admissions(folder, [Admission(row=row_of(s, 48, 48), sample=s) for s in samples])
    return folder


class TinyEncoder:
    """A fixed random projection of pixels, and of words by their digests: no weights, but a real encoder."""

    name, preprocessing_digest, tokenizer, compute_type = "tiny", "p" * 64, "words", "fp32"
    context, dimension, image_px, interpolation = 8, 12, 16, "bicubic"
    network_digest, code_digest = "n" * 64, "c" * 64
    crop = Crop(px=16)

    def __init__(self, weights_digest="w" * 64):
        self.weights_digest, self.versions = weights_digest, {}
        rng = np.random.default_rng(0)
        self.projection = rng.normal(size=(16 * 16 * 3, 12)).astype(np.float32)
        self.words = rng.normal(size=(256, 12)).astype(np.float32)

    def tokenize(self, captions):
        ids = [[1 + hashlib.sha256(word.encode()).digest()[0] % 255 for word in c.split()][:8] for c in captions]
        return np.array([row + [0] * (8 - len(row)) for row in ids], np.int32)

    def encode_image(self, pixels):
        return (pixels.reshape(len(pixels), -1).astype(np.float32) / 127.5 - 1) @ self.projection

    def encode_text(self, tokens):
        return self.words[tokens].sum(1)


def part(path, image, shard=0, text=None, captions=None):
    size = len(image)
    rows = Embedded(
        keys=[sample_key(shard, i) for i in range(size)],
        sample_ids=[bytes(16)] * size,
        image_sha256=[bytes(32)] * size,
        image=np.asarray(image, np.float32),
        text=np.asarray(image if text is None else text, np.float32),
        tokens=np.full((size, 8), 3, np.int32),
        captions=captions or [f"caption {shard} {i}" for i in range(size)],
    )
    encoder = TinyEncoder()
    encoder.dimension = rows.image.shape[1]
    write_part(path, rows, info_of(encoder, "s", size))
    return path


def dropped_rows(selection):
    """What a policy dropped, a dictionary a row."""
    return [row for table in selection.dropped() for row in table.to_pylist()]


def has_tool():
    """Whether img2dataset's own environment is there."""
    try:
        return bool(tool_python())
    except ValueError:
        return False


needs_tool = pytest.mark.skipif(not has_tool(), reason="img2dataset's own environment is absent: run `make setup`")
