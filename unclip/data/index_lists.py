"""Inverted lists: which there are for a table of so many rows, how they are learned, which one a row goes to.

A row's list is looked for in the groups of lists nearest to it, in learning too: far less work than lists x rows.
N rows, D dimensions, L lists, T tops.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from unclip.data.config import IndexConfig
from unclip.data.groups import Indices
from unclip.data.raw_rows import RawRows
from unclip.data.table import Floats, unit

FROM_ROWS = {"flat": 0, "ivf": 100_000, "ivf_hnsw": 2_000_000, "ivf_pq": 50_000_000}
NUM_LISTS = {"ivf_hnsw": 65_536, "ivf_pq": 131_072}
LISTS_PER_ROOT = 6  # lists by the square root of the rows ("ivf") when learned, 3 later: 4 to 16 is usual
ROWS_PER_LIST = 39  # that a list is learned on; faiss warns below
CODE_BYTES = 64  # of a row ("ivf_pq")
ITERATIONS = 6  # of k-means
NEAR_TOPS = 16  # in which a row's list is looked for
LEARNING_TOPS = 4  # in which it is while lists are learned: what one round misses, the next mends
BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Kind:
    """What index a table gets, and why."""

    name: str  # "flat", "ivf", "ivf_hnsw", "ivf_pq"
    reason: str
    num_lists: int  # 0 with "flat"
    code_bytes: int | None = None  # with "ivf_pq"

    @property
    def factory(self) -> str:
        """The faiss name of it."""
        if self.name == "ivf_pq":
            return f"OPQ{self.code_bytes},IVF{self.num_lists}_HNSW32,PQ{self.code_bytes}"
        hnsw = "_HNSW32" * (self.name == "ivf_hnsw")
        return "Flat" if self.name == "flat" else f"IVF{self.num_lists}{hnsw},SQ8"


def kind_of(config: IndexConfig, rows: int, learned_from: int) -> Kind:
    """The index for a table of so many rows, of which the first `learned_from` are what lists are learned from.

    Raises: ValueError when more probes are asked for than there are lists.
    """
    name = name_of(config, rows)
    after = next((least for least in FROM_ROWS.values() if least > rows), None)
    reason = f"{rows} rows, from {FROM_ROWS[name]}" + (f" and below {after}" if after else "")
    reason = reason if config.kind == "auto" else f"{rows} rows, {name} as set"
    if name == "flat":
        return Kind(name, reason, 0)
    num_lists = num_lists_of(config, name, learned_from)
    if config.num_probes is not None and config.num_probes > num_lists:
        raise ValueError(f"num_probes must be <= {num_lists}, the number of lists, got {config.num_probes}")
    return Kind(name, reason, num_lists, (config.code_bytes or CODE_BYTES) if name == "ivf_pq" else None)


def name_of(config: IndexConfig, rows: int) -> str:
    """The name of the kind, as set or by the number of rows."""
    return [name for name, least in FROM_ROWS.items() if rows >= least][-1] if config.kind == "auto" else config.kind


def num_lists_of(config: IndexConfig, name: str, learned_from: int) -> int:
    """How many lists a kind with lists has that are learned from so many rows."""
    wanted = config.num_lists or NUM_LISTS.get(name) or int(LISTS_PER_ROOT * learned_from**0.5)
    sample = min(learned_from, config.train_rows or wanted * ROWS_PER_LIST)
    return max(1, min(wanted, sample // ROWS_PER_LIST))


@dataclass(frozen=True)
class Lists:
    """Unit centroids of lists, those of each top side by side."""

    tops: Floats  # (T, D)
    starts: NDArray[np.int64]  # (T + 1,) where the lists of a top begin
    centroids: Floats  # (L, D)

    def place(self, vectors: Floats, num_tops: int = NEAR_TOPS) -> tuple[NDArray[np.int64], Floats]:
        """Of each unit vector (N, D) the list it goes to, of those of its nearest tops, and its cosine with it."""
        near = np.argsort(-(vectors @ self.tops.T), axis=1)[:, :num_tops]
        place, cosine = np.zeros(len(vectors), np.int64), np.full(len(vectors), -2, np.float32)
        for top, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            rows = np.flatnonzero((near == top).any(axis=1))
            if len(rows) and stop > start:
                scores = vectors[rows] @ self.centroids[start:stop].T
                best = scores.argmax(axis=1)
                score = scores[np.arange(len(rows)), best]
                better = score > cosine[rows]
                place[rows[better]], cosine[rows[better]] = start + best[better], score[better]
        return place, cosine


def learn_lists(rows: RawRows, num_lists: int, seed: int, num_rows: int | None = None) -> Lists:
    """So many lists of the directions of rows: k-means where a row's nearest centroid is found as `place` finds it.

    num_rows: how many of the rows, the first ones; all if None.
    """
    rng, size = np.random.default_rng(seed), len(rows) if num_rows is None else num_rows
    lists = grouped(rows.unit(np.sort(rng.choice(size, min(num_lists, size), replace=False))), seed)
    for _ in range(ITERATIONS):
        lists = grouped(unit(sums_of(lists, rows, size, rng)), seed)
    return lists


def sums_of(lists: Lists, rows: RawRows, size: int, rng: np.random.Generator) -> Floats:
    """Of each list the sum (L, D) of those of the first `size` rows that are nearest to it, or any row if none is."""
    sums = np.zeros_like(lists.centroids)
    for start in range(0, size, BLOCK_ROWS):
        block = rows.unit(slice(start, min(start + BLOCK_ROWS, size)))
        place, _ = lists.place(block, LEARNING_TOPS)
        order = np.argsort(place, kind="stable")
        used, first = np.unique(place[order], return_index=True)
        sums[used] += np.add.reduceat(block[order], first, axis=0)
    empty = np.flatnonzero(~sums.any(axis=1))
    if len(empty):
        sums[empty] = rows.unit(np.sort(rng.choice(size, len(empty), replace=False)))
    return sums


def grouped(centroids: Floats, seed: int) -> Lists:
    """Lists with these unit centroids, side by side by the nearest of tops, which are k-means of them."""
    tops = centroids_of(centroids, max(1, round(len(centroids) ** 0.5)), seed)
    nearest = (centroids @ tops.T).argmax(axis=1)
    starts = np.searchsorted(np.sort(nearest), np.arange(len(tops) + 1))
    return Lists(tops, starts, centroids[np.argsort(nearest, kind="stable")])


def centroids_of(vectors: Floats, count: int, seed: int) -> Floats:
    """Unit centroids (count, D) of unit vectors."""
    kmeans = faiss.Kmeans(
        vectors.shape[1], count, niter=ITERATIONS, seed=seed % 2**31, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, np.float32).reshape(count, -1)


def empty_index(kind: Kind, lists: Lists, rows: RawRows, sample: Indices) -> Any:
    """A faiss index without rows, over learned lists; codes are learned on a sample of rows.

    One thread where faiss answers otherwise on several: the same input gives the same bytes.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return _empty_index(kind, lists, rows, sample)
    finally:
        faiss.omp_set_num_threads(threads)


def _empty_index(kind: Kind, lists: Lists, rows: RawRows, sample: Indices) -> Any:
    (size, dimension), metric = lists.centroids.shape, faiss.METRIC_INNER_PRODUCT
    coarse = faiss.IndexFlatIP(dimension) if kind.name == "ivf" else faiss.IndexHNSWFlat(dimension, 32, metric)
    if kind.name == "ivf_pq":
        rotation, vectors = faiss.OPQMatrix(dimension, kind.code_bytes), rows.unit(sample)
        rotation.train(vectors)
        coarse.add(rotation.apply(lists.centroids))
        index = faiss.IndexIVFPQ(coarse, dimension, size, kind.code_bytes, 8, metric)
        index.train(rotation.apply(vectors))
        whole = faiss.IndexPreTransform(rotation, index)
        whole.is_trained = True
        return whole
    coarse.add(lists.centroids)
    index = faiss.IndexIVFScalarQuantizer(coarse, dimension, size, faiss.ScalarQuantizer.QT_8bit, metric)
    faiss.copy_array_to_vector(ranges(lists, rows, sample), index.sq.trained)
    index.is_trained = True
    return index


def ranges(lists: Lists, rows: RawRows, sample: Indices) -> Floats:
    """What codes of a byte a dimension are learned from: (2D,) least, then width, of rows minus their centroids.

    faiss finds the same (`ScalarQuantizer`, RS_minmax), with all of the sample in memory twice.
    """
    least = np.full(lists.centroids.shape[1], np.inf, np.float32)
    most = -least
    for start in range(0, len(sample), BLOCK_ROWS):
        block = rows.unit(sample[start : start + BLOCK_ROWS])
        block -= lists.centroids[lists.place(block)[0]]
        least, most = np.minimum(least, block.min(axis=0)), np.maximum(most, block.max(axis=0))
    return np.concatenate([least, most - least])


def save_lists(lists: Lists, folder: Path) -> None:
    """Write tops, starts and centroids."""
    for name in ("tops", "starts", "centroids"):
        np.save(folder / f"{name}.npy", getattr(lists, name))


def load_lists(folder: Path) -> Lists:
    """What `save_lists` wrote, mapped."""
    return Lists(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tops", "starts", "centroids")))


def load_empty(folder: Path) -> Any:
    """The index without rows beside learned lists, its centroids mapped."""
    return faiss.read_index(str(folder / "empty.faiss"), faiss.IO_FLAG_MMAP_IFC)
