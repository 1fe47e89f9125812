"""Pictures of chosen rows at one size, by row number: what a trainer on pixels reads at random.

B rows of N, P pixels a side.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from unclip.data.images import Pixels
from unclip.data.shards import ShardReader

MAX_CACHE_BYTES = 16 * 2**30  # decoded pictures up to this size are kept in a file; above, they are decoded every time


class Pictures:
    """Row numbers to pictures, each decoded when first read and kept on disk from then on. Threads may share it."""

    def __init__(
        self, shards: Sequence[Path], keys: Sequence[str], shard: NDArray[np.int32], px: int, cache: Path
    ) -> None:
        """keys, shard: of each row; only shards that hold a row are opened. cache: a file for this object alone.

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
        self._is_kept = np.zeros(len(keys), np.bool_)
        self._kept = self._new_cache(cache)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: NDArray[np.int64]) -> Pixels:
        """Centre squares at P pixels, antialiased: uint8 (B, 3, P, P)."""
        if self._kept is None:
            return self._decode(rows)
        new = rows[~self._is_kept[rows]]
        if len(new):
            self._kept[new] = self._decode(new)
            self._is_kept[new] = True
        return self._kept[rows]

    def _decode(self, rows: NDArray[np.int64]) -> Pixels:
        pixels = [self._readers[int(self.shard[n])].decode(int(self.row[n]), self.px) for n in rows]
        return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))

    def _new_cache(self, path: Path) -> Pixels | None:
        """An array for all pictures, in a sparse file; None where there are none, or too many for it or the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(self), 3, self.px, self.px)
        room = min(MAX_CACHE_BYTES, shutil.disk_usage(path.parent).free // 2)  # writing to a map on a full disk kills
        if not 0 < math.prod(shape) <= room:
            return None
        return open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def to_unit_range(pixels: Pixels) -> Tensor:
    """Pictures as networks read them: uint8 to float32 in [-1, 1], of the same shape."""
    values = pixels.astype(np.float32)  # in numpy: torch would start threads of its own in each thread that loads
    values /= 127.5
    values -= 1
    return torch.from_numpy(values)
