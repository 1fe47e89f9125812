"""Embeddings in a file for a while, read at random, as near duplicates, leaks and lists are found. D dimensions."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unclip.data.groups import Indices
from unclip.data.scratch import Column, mapped
from unclip.data.table import Floats, read_info, unit, vectors_in

READ_ROWS = 2048
SERIAL_VALUES = 32_000  # that torch converts without its threads, which would spin beside NumPy's products


class RawRows:
    """Vectors (N, D) of float16 in a file, mapped and given out at norm one.

    Pages that were read are clean: they count as resident, and are the system's to take back.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        """path: N x D values and nothing else."""
        with path.open("rb") as file:
            self._rows = np.frombuffer(mapped(file), np.float16).reshape(-1, dimension)

    def __len__(self) -> int:
        return len(self._rows)

    def unit(self, rows: Indices | slice) -> Floats:
        """The vectors (len(rows), D) of some rows."""
        found = np.array(self._rows[rows])
        out, step = np.empty(found.shape, np.float32), max(1, SERIAL_VALUES // found.shape[1])
        halves, wide = torch.from_numpy(found), torch.from_numpy(out)
        for start in range(0, len(found), step):  # torch is ten times as fast as NumPy here
            wide[start : start + step] = halves[start : start + step]
        return unit(out)

    def digests(self, work: Path | None = None) -> NDArray[np.uint64]:
        """64 bits of each row that are the same for the same bytes, mapped."""
        out = Column(np.uint64, work)
        for start in range(0, len(self), READ_ROWS):
            block = self._rows[start : start + READ_ROWS]
            digest = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in block)
            out.append(np.frombuffer(digest, np.uint64))
        return out.array()


@contextmanager
def raw_rows(parts: Sequence[Path], shard: NDArray[Any], row: NDArray[Any], work: Path | None) -> Iterator[RawRows]:
    """The image embeddings of rows (shard[i], row[i]) of the parts, in a file in `work` that goes away afterwards.

    Where `shard` ascends, each part is read once.

    Raises: ValueError as `read_info`.
    """
    dimension = read_info(parts[0]).dimension
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=work, prefix="vectors-") as file:
        edges = [0, *(np.flatnonzero(shard[1:] != shard[:-1]) + 1).tolist(), len(shard)]
        some = [slice(*edge) for edge in pairwise(edges) if edge[1] > edge[0]]
        found = vectors_in([parts[shard[place.start]] for place in some], "image_embedding", ahead=1)
        for place, vectors in zip(some, found, strict=True):
            for start in range(place.start, place.stop, READ_ROWS):
                file.write(vectors[row[start : min(start + READ_ROWS, place.stop)]].tobytes())
        file.flush()
        yield RawRows(Path(file.name), dimension)
