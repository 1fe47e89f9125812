"""Near duplicates by embedding: exact where rows are few, else inside the cells of several clusterings.

A clustering is a tree of k-means: a cell with more rows than are compared with each other at once is split again. So
work grows with n log n and memory with a few numbers a row: vectors are read from a file, a cell at a time.
N rows, D dimensions.
"""

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unclip.data.table import Floats, check_agree, unit, vectors_in

Indices = NDArray[np.int64]
Pairs = NDArray[np.int64]  # (M, 2)

BLOCK_ROWS = 2048
EXACT_BELOW = 20_000  # rows: all pairs in two seconds of two cores
NUM_CLUSTERINGS = 5  # found 97 % of the pairs in the paper's data (App. C)
CELL_ROWS = 1024  # a cell of at most so many rows is searched whole
MAX_BRANCHES = 32
ROWS_PER_BRANCH = 128  # that a split is learned on
ITERATIONS = 6  # of k-means
SPLIT_BLOCK_ROWS = 2048
TAKE_ROWS = 256  # each brings 64 kB of its neighbours into memory
NUM_PROBES = 1000  # rows whose true pairs are counted, for the recall


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

    def digests(self) -> NDArray[np.uint64]:
        """64 bits of each row that are the same for the same bytes."""
        out = np.empty(len(self), np.uint64)
        for start in range(0, len(self), SPLIT_BLOCK_ROWS):
            block = self._rows[start : start + SPLIT_BLOCK_ROWS]
            digest = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in block)
            out[start : start + len(block)] = np.frombuffer(digest, np.uint64)
            self._give_back()
        return out


@dataclass(frozen=True)
class NearGroups:
    """Of each row the first row of its group, and how they were found."""

    firsts: Indices  # (N,)
    figures: dict[str, Any]


@contextmanager
def raw_rows(parts: Sequence[Path], shard: NDArray[Any], row: NDArray[Any], work: Path | None) -> Iterator[RawRows]:
    """The image embeddings of rows (shard[i], row[i]) of the parts, in a file in `work` that goes away afterwards.

    Raises: ValueError as `check_agree`.
    """
    dimension = check_agree(parts[:1])[0].dimension
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=work, prefix="vectors-") as file:
        file.truncate(2 * dimension * len(row))
        if len(row):
            out = np.memmap(file.name, np.float16, "r+", shape=(len(row), dimension))
            numbers, first = np.unique(np.sort(shard), return_index=True)
            by_part = np.split(np.argsort(shard, kind="stable"), first[1:])
            found = vectors_in([parts[number] for number in numbers], "image_embedding")
            for places, vectors in zip(by_part, found, strict=True):
                out[places] = vectors[row[places]]
                out._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
            del out
        yield RawRows(Path(file.name), dimension)


def near_groups(rows: RawRows, min_cosine: float, seed: int, exact_below: int = EXACT_BELOW) -> NearGroups:
    """Rows joined by cosines of at least `min_cosine`, in connected components.

    From `exact_below` rows on, pairs are looked for inside the cells of NUM_CLUSTERINGS clusterings; the recall is then
    the share of the true pairs of NUM_PROBES rows that are in one group. Which rows come first does not matter to it.
    """
    if len(rows) < exact_below:
        groups = Components(len(rows))
        for pairs in near_blocks(rows, min_cosine):
            groups.join(pairs)
        told = {"search": "exact", "reason": f"{len(rows)} rows, below {exact_below}", "pair_recall": 1.0}
        return NearGroups(groups.firsts(), told | groups.figures())
    _, order, same = np.unique(rows.digests(), return_index=True, return_inverse=True)
    groups = Components(len(rows))
    groups.join(np.stack([order[same], np.arange(len(rows))], axis=1))
    joined = []
    for clustering in range(NUM_CLUSTERINGS):
        for cell in cells(rows, order, np.random.default_rng([seed, clustering])):
            groups.join(cell[thinned(inner_pairs(rows.unit(cell), min_cosine), len(cell))])
        joined.append(groups.figures()["joined_rows"])
    recall, num_pairs = pair_recall(rows, order, groups, min_cosine, seed)
    figures = {
        "search": "clustered",
        "reason": f"{len(rows)} rows, {exact_below} is where clusters begin",
        "joined_after_each_clustering": joined,
        "pair_recall": recall,
        "pairs_checked": num_pairs,
    }
    return NearGroups(groups.firsts(), figures | groups.figures())


class Components:
    """Rows joined into groups, many pairs at a time."""

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size, dtype=np.int32)
        self._count = size
        self._waiting: list[Pairs] = []
        self._num_waiting = 0

    def join(self, pairs: Pairs) -> None:
        """Make one group of the groups of each pair."""
        self._waiting.append(pairs.astype(np.int32))
        self._num_waiting += len(pairs)
        if self._num_waiting > max(len(self.labels) // 8, 100_000):
            self.settle()

    def settle(self) -> None:
        """Bring the labels up to date."""
        if self._num_waiting:
            one, other = self.labels[np.concatenate(self._waiting)].T
            graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(self._count, self._count))
            self._count, named = connected_components(graph, directed=False)
            self.labels = named[self.labels]
        self._waiting, self._num_waiting = [], 0

    def firsts(self) -> Indices:
        """Of each row, the first row of its group."""
        self.settle()
        _, first, label = np.unique(self.labels, return_index=True, return_inverse=True)
        return np.asarray(first[label], np.int64)

    def figures(self) -> dict[str, int]:
        """How many rows are not the first of their group."""
        self.settle()
        return {"joined_rows": len(self.labels) - self._count}


def near_blocks(rows: RawRows, min_cosine: float) -> Iterator[Pairs]:
    """All pairs of rows whose cosine is at least `min_cosine`, a block of them at a time."""
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows.unit(slice(start, start + BLOCK_ROWS))
        yield thinned(inner_pairs(block, min_cosine), len(block)) + start
        for first in range(start + BLOCK_ROWS, len(rows), BLOCK_ROWS):
            one, other = np.nonzero(block @ rows.unit(slice(first, first + BLOCK_ROWS)).T >= min_cosine)
            yield np.stack([one + start, other + first], axis=1)


def inner_pairs(vectors: Floats, min_cosine: float) -> Pairs:
    """The pairs i < j of unit vectors (N, D) whose cosine is at least `min_cosine`."""
    near = vectors @ vectors.T >= min_cosine
    one, other = np.nonzero(near)
    return np.stack([one, other], axis=1)[one < other]


def thinned(pairs: Pairs, size: int) -> Pairs:
    """No more than `size` pairs of the rows 0 to size - 1 that join the same groups."""
    if len(pairs) <= size:
        return pairs
    groups = Components(size)
    groups.join(pairs)
    return np.stack([groups.firsts(), np.arange(size)], axis=1)


def cells(rows: RawRows, members: Indices, rng: np.random.Generator) -> Iterator[Indices]:
    """The members in cells of at most CELL_ROWS by k-means, split until they are so small."""
    if len(members) <= CELL_ROWS:
        yield members
        return
    branches = int(np.clip(-(-2 * len(members) // CELL_ROWS), 2, MAX_BRANCHES))
    sample = np.sort(rng.choice(len(members), min(len(members), branches * ROWS_PER_BRANCH), replace=False))
    kmeans = faiss.Kmeans(
        rows.unit(members[:1]).shape[1], branches, niter=ITERATIONS, seed=int(rng.integers(2**31)), spherical=True
    )
    kmeans.train(rows.unit(members[sample]))
    nearest, by_place = np.empty(len(members), np.int8), np.argsort(members)  # as they lie in the file: read once
    for start in range(0, len(members), SPLIT_BLOCK_ROWS):
        here = by_place[start : start + SPLIT_BLOCK_ROWS]
        nearest[here] = (rows.unit(members[here]) @ kmeans.centroids.T).argmax(axis=1)
    if (nearest == nearest[0]).all():  # nothing tells them apart: cut anyhow, else it would never end
        nearest = (np.arange(len(members)) % branches).astype(np.int8)
    for branch in range(branches):
        yield from cells(rows, members[nearest == branch], rng)


def pair_recall(
    rows: RawRows, order: Indices, groups: Components, min_cosine: float, seed: int
) -> tuple[float | None, int]:
    """Of all pairs that a seeded sample of different rows is in, by exact search, the share in one group; how many.

    None where the sample is in no pair.
    """
    rng = np.random.default_rng([seed, NUM_CLUSTERINGS])
    probes = order[np.sort(rng.choice(len(order), min(NUM_PROBES, len(order)), replace=False))]
    queries, found, total = rows.unit(probes), 0, 0
    groups.settle()
    for start in range(0, len(rows), SPLIT_BLOCK_ROWS):
        block = slice(start, start + SPLIT_BLOCK_ROWS)
        one, other = np.nonzero(queries @ rows.unit(block).T >= min_cosine)
        one, other = probes[one], other + start
        together = (groups.labels[one] == groups.labels[other])[one != other]
        total, found = total + len(together), found + int(together.sum())
    return (found / total if total else None), total
