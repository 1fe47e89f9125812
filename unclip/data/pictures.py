"""Pictures of chosen rows at one size, by row number: what a trainer on pixels reads at random.

N rows, P pixels a side.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from unclip.data.images import Pixels
from unclip.data.shards import ShardReader

MAX_CACHE_BYTES = 4 * 2**30  # decoded pictures up to this size are kept in a file; above, they are decoded when read
CHUNK = 256  # rows decoded at a time
NUM_THREADS = 4


class Pictures(Protocol):
    """Row numbers to pictures."""

    def __getitem__(self, rows: NDArray[np.int64]) -> Pixels:
        """uint8 (B, P, P, 3)."""
        ...


class Decoded:
    """Pictures decoded from their shards each time they are read. Threads may share it."""

    def __init__(self, shards: Sequence[Path], keys: Sequence[str], shard: NDArray[np.int32], px: int) -> None:
        """keys, shard: of each row; only shards that hold a row are opened.

        Raises: ValueError when a key is not in its shard, or a shard is broken.
        """
        self.px, self.shard = px, shard
        self._readers = {int(number): ShardReader(shards[number]) for number in np.unique(shard)}
        places = {number: {key: i for i, key in enumerate(reader.keys)} for number, reader in self._readers.items()}
        self.row = np.empty(len(keys), np.int64)
        for n, (key, number) in enumerate(zip(keys, shard.tolist(), strict=True)):
            if key not in places[number]:
                raise ValueError(f"{shards[number]} has no sample {key}: it is not the shard that was selected from")
            self.row[n] = places[number][key]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: NDArray[np.int64]) -> Pixels:
        """Centre squares at P pixels, antialiased: uint8 (B, P, P, 3)."""
        return np.stack([self._readers[int(self.shard[n])].decode(int(self.row[n]), self.px) for n in rows])


def pictures(shards: Sequence[Path], keys: Sequence[str], shard: NDArray[np.int32], px: int, cache: Path) -> Pictures:
    """The pictures of rows, decoded once into `cache` where that is small enough, else whenever they are read.

    `cache` is a file ending in .npy; one that is there is taken as it is. Raises: as `Decoded`.
    """
    if cache.exists():
        return np.load(cache, mmap_mode="r")
    decoded = Decoded(shards, keys, shard, px)
    if len(decoded) * px * px * 3 > MAX_CACHE_BYTES or not len(decoded):
        return decoded
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    pixels = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(decoded), px, px, 3))

    def fill(start: int) -> None:
        rows = np.arange(start, min(start + CHUNK, len(decoded)))
        pixels[rows] = decoded[rows]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(fill, range(0, len(decoded), CHUNK)))
    pixels.flush()
    os.replace(partial, cache)
    return np.load(cache, mmap_mode="r")


def to_unit_range(pixels: Pixels) -> Tensor:
    """Pictures as networks read them: uint8 (B, P, P, 3) to float32 (B, 3, P, P) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)
