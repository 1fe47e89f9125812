"""Tables of any size as a CLIP might have made them: clustered, of falling variance, with near duplicates planted."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unclip.data.table import Embedded, Floats, TableInfo, write_part

DIMENSION, CONTEXT = 768, 77
PART_ROWS = 2000
NUM_CLUSTERS = 1000
DUPLICATES = 0.05  # of the rows of a part: another row of it, turned a little
NOISE = (0.05, 0.25)  # length of what is added to a duplicate: cosines 0.999 to 0.97


def write_table(folder: Path, num_rows: int) -> None:
    """Write a table of so many rows in parts of PART_ROWS."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images(num_rows)):
        write_part(folder / f"{number:06d}.parquet", rows_of(number, image), info_of(len(image)))


def images(num_rows: int) -> Iterator[Floats]:
    """Image embeddings (PART_ROWS, D) of length about 9, the same for the same part of a larger table."""
    normal = np.random.default_rng(0).standard_normal
    centres = normal((NUM_CLUSTERS, DIMENSION), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    spectrum = 1 / np.sqrt(1 + np.arange(DIMENSION, dtype=np.float32))
    spectrum /= np.linalg.norm(spectrum)
    for number, start in enumerate(range(0, num_rows, PART_ROWS)):
        rng, size = np.random.default_rng([1, number]), min(PART_ROWS, num_rows - start)
        rows = rng.standard_normal((size, DIMENSION), dtype=np.float32) * spectrum
        rows += 0.7 * centres[rng.integers(NUM_CLUSTERS, size=size)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        plant(rows, rng)
        yield 9 * rng.permutation(rows)


def plant(rows: Floats, rng: np.random.Generator) -> None:
    """Make the last DUPLICATES of unit rows near duplicates of others."""
    count = int(DUPLICATES * len(rows))
    turn = rng.standard_normal((count, rows.shape[1]), dtype=np.float32) / np.float32(rows.shape[1] ** 0.5)
    length = rng.uniform(*NOISE, size=(count, 1)).astype(np.float32)
    rows[len(rows) - count :] = rows[rng.integers(len(rows) - count, size=count)] + length * turn


def rows_of(number: int, image: Floats) -> Embedded:
    """Rows with these image embeddings and texts near them."""
    size, rng = len(image), np.random.default_rng([2, number])
    text = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(9 / DIMENSION**0.5)
    names: NDArray[np.int64] = number * PART_ROWS + np.arange(size)
    return Embedded(
        keys=[f"{name:09d}" for name in names],
        sample_ids=[int(name).to_bytes(16, "big") for name in names],
        image_sha256=[int(name).to_bytes(32, "big") for name in names],
        image=image,
        text=text,
        tokens=rng.integers(49_408, size=(size, CONTEXT), dtype=np.int32),
        captions=[f"a picture of thing number {name}" for name in names],
    )


def info_of(size: int) -> TableInfo:
    """What a part says of itself."""
    names = ("model", "weights_digest", "preprocessing_digest", "tokenizer", "compute_type", "versions", "shard_digest")
    return TableInfo(**dict.fromkeys(names, "synthetic"), context=CONTEXT, dimension=DIMENSION, num_rows=size)
