"""Embeddings in a file for a while, read at random, as near duplicates, leaks and lists are found. D dimensions."""

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unclip.data.groups import Indices
from unclip.data.scratch import Column
from unclip.data.table import Floats, check_agree, unit, vectors_in

READ_ROWS = 2048
TAKE_ROWS = 256  # each brings 64 kB of its neighbours into memory


class RawRows:
    """Vectors (N, D) of float16 in a file, given out at norm one; pages read are handed back to the system."""

    def __init__(self, path: Path, dimension: int) -> None:
        """path: N x D values and nothing else."""
        size = path.stat().st_size // (2 * dimension)
        if size == 0:
            self._map, self._rows = None, np.empty((0, dimension), np.float16)
            return
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, np.float16).reshape(size, dimension)

    def __len__(self) -> int:
        return len(self._rows)

    def unit(self, rows: Indices | slice) -> Floats:
        """The vectors (len(rows), D) of some rows."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found = np.empty((len(rows), self._rows.shape[1]), np.float16)
        for start in range(0, len(rows), TAKE_ROWS):
            np.take(self._rows, rows[start : start + TAKE_ROWS], axis=0, out=found[start : start + TAKE_ROWS])
            self._give_back()
        return unit(found)

    def _give_back(self) -> None:
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def digests(self, work: Path | None = None) -> NDArray[np.uint64]:
        """64 bits of each row that are the same for the same bytes, mapped."""
        out = Column(np.uint64, work)
        for start in range(0, len(self), READ_ROWS):
            block = self._rows[start : start + READ_ROWS]
            digest = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in block)
            out.append(np.frombuffer(digest, np.uint64))
            self._give_back()
        return out.array()


@contextmanager
def raw_rows(parts: Sequence[Path], shard: NDArray[Any], row: NDArray[Any], work: Path | None) -> Iterator[RawRows]:
    """The image embeddings of rows (shard[i], row[i]) of the parts, in a file in `work` that goes away afterwards.

    shard: ascending.

    Raises: ValueError as `check_agree`.
    """
    dimension = check_agree(parts[:1])[0].dimension
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=work, prefix="vectors-") as file:
        edges = [0, *(np.flatnonzero(shard[1:] != shard[:-1]) + 1).tolist(), len(shard)]
        some = [slice(*edge) for edge in pairwise(edges) if edge[1] > edge[0]]
        found = vectors_in([parts[shard[place.start]] for place in some], "image_embedding")
        for place, vectors in zip(some, found, strict=True):
            for start in range(place.start, place.stop, READ_ROWS):
                file.write(vectors[row[start : min(start + READ_ROWS, place.stop)]].tobytes())
        file.flush()
        yield RawRows(Path(file.name), dimension)
