"""Near duplicates by embedding: exact where rows are few, else inside the cells of several clusterings.

A clustering is a tree of k-means: a cell with more rows than are compared with each other at once is split again. So
work grows with n log n; vectors are read from a file, a cell at a time; in memory are a byte a row and the numbers of
one branch at a time. N rows, D dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from unclip.data.groups import Groups, Indices, Joining, Pairs, equal_rows
from unclip.data.raw_rows import RawRows
from unclip.data.scratch import blocks, places
from unclip.data.table import Floats

COMPARED_ROWS = 2048
EXACT_BELOW = 20_000  # rows: all pairs in two seconds of two cores
NUM_CLUSTERINGS = 5  # found 97 % of the pairs in the paper's data (App. C)
CELL_ROWS = 1024  # a cell of at most so many rows is searched whole
MAX_BRANCHES = 32
ROWS_PER_BRANCH = 128  # that a split is learned on
ITERATIONS = 6  # of k-means
NUM_PROBES = 1000  # rows whose true pairs are counted, for the recall
SPARE = 1.2  # times the rows wanted, so that a draw by chance has enough of them


@dataclass(frozen=True)
class NearGroups:
    """Rows near to each other, and how they were found."""

    groups: Groups
    figures: dict[str, Any]


def near_groups(
    rows: RawRows, min_cosine: float, seed: int, *, exact_below: int = EXACT_BELOW, work: Path | None = None
) -> NearGroups:
    """Rows joined by cosines of at least `min_cosine`, in connected components.

    From `exact_below` rows on, pairs are looked for inside the cells of NUM_CLUSTERINGS clusterings; the recall is then
    the share of the true pairs of NUM_PROBES rows that are in one group. Which rows come first does not matter to it.
    work: a folder for a while.
    """
    found = Joining()
    if len(rows) < exact_below:
        for pairs in near_blocks(rows, min_cosine):
            found.join(pairs)
        told = {"search": "exact", "reason": f"{len(rows)} rows, below {exact_below}", "pair_recall": 1.0}
        return NearGroups(found.groups(), told | {"joined_rows": found.groups().num_others})
    drawn, different = Draw(rows.digests(work)), np.ones(len(rows), bool)
    for pairs in equal_rows(drawn.digests, work=work):
        found.join(pairs)
        different[pairs[:, 1]] = False
    members = places(different, work)
    joined = []
    for clustering in range(NUM_CLUSTERINGS):
        for cell in cells(rows, drawn, members, np.random.default_rng([seed, clustering])):
            found.join(cell[thinned(inner_pairs(rows.unit(cell), min_cosine), len(cell))])
        joined.append(found.groups().num_others)
    recall, num_pairs = pair_recall(rows, drawn.of(members, NUM_PROBES, seed), found.groups(), min_cosine)
    figures = {
        "search": "clustered",
        "reason": f"{len(rows)} rows, {exact_below} is where clusters begin",
        "joined_after_each_clustering": joined,
        "pair_recall": recall,
        "pairs_checked": num_pairs,
        "joined_rows": found.groups().num_others,
    }
    return NearGroups(found.groups(), figures)


class Draw:
    """Rows drawn by what they hold and a seed, wherever they stand."""

    def __init__(self, digests: NDArray[np.uint64]) -> None:
        """digests: 64 bits of each row (N,)."""
        self.digests = digests

    def numbers(self, rows: Indices, seed: int) -> NDArray[np.uint64]:
        """A number in 0..2**64 - 1 for each of some rows: equal for equal vectors, else as if by chance."""
        mixed = self.digests[rows] ^ np.uint64(np.random.default_rng(seed).integers(2**63))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finalizer of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)

    def of(self, rows: Indices, most: int, seed: int) -> Indices:
        """`most` of some rows, or all if they are no more; in an order that is not the rows'."""
        share = (SPARE * most + 100) / max(len(rows), 1)
        limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
        found, numbers = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for block in blocks(len(rows)):
            drawn = self.numbers(rows[block], seed)
            found.append(rows[block][drawn <= limit])
            numbers.append(drawn[drawn <= limit])
        return np.concatenate(found)[np.argsort(np.concatenate(numbers), kind="stable")[:most]]


def near_blocks(rows: RawRows, min_cosine: float) -> Iterator[Pairs]:
    """All pairs of rows whose cosine is at least `min_cosine`, a block of them at a time."""
    for start in range(0, len(rows), COMPARED_ROWS):
        block = rows.unit(slice(start, start + COMPARED_ROWS))
        yield thinned(inner_pairs(block, min_cosine), len(block)) + start
        for first in range(start + COMPARED_ROWS, len(rows), COMPARED_ROWS):
            one, other = np.nonzero(block @ rows.unit(slice(first, first + COMPARED_ROWS)).T >= min_cosine)
            yield np.stack([one + start, other + first], axis=1)


def inner_pairs(vectors: Floats, min_cosine: float) -> Pairs:
    """The pairs i < j of unit vectors (N, D) whose cosine is at least `min_cosine`."""
    near = vectors @ vectors.T >= min_cosine
    one, other = np.nonzero(near)
    return np.stack([one, other], axis=1)[one < other]


def thinned(pairs: Pairs, size: int) -> Pairs:
    """No more than `size` pairs of the rows 0 to size - 1 that join the same groups."""
    return pairs if len(pairs) <= size else Groups.of([pairs]).pairs


def cells(rows: RawRows, drawn: Draw, members: Indices, rng: np.random.Generator) -> Iterator[Indices]:
    """The members, ascending, of different vectors, in cells of at most CELL_ROWS: split by k-means until so small."""
    if len(members) <= CELL_ROWS:
        yield np.array(members)
        return
    branches = int(np.clip(-(-2 * len(members) // CELL_ROWS), 2, MAX_BRANCHES))
    branch_of = split(rows, drawn, members, branches, int(rng.integers(2**31)))
    for branch in range(branches):
        yield from cells(rows, drawn, members[branch_of == branch], rng)


def split(rows: RawRows, drawn: Draw, members: Indices, branches: int, seed: int) -> NDArray[np.int8]:
    """The branch of each member: that of the nearest centroid of k-means over a sample."""
    sample = rows.unit(drawn.of(members, branches * ROWS_PER_BRANCH, seed))
    kmeans = faiss.Kmeans(sample.shape[1], branches, niter=ITERATIONS, seed=seed, spherical=True)
    with one_faiss_thread():
        kmeans.train(sample)
    nearest = np.empty(len(members), np.int8)
    for start in range(0, len(members), COMPARED_ROWS):
        here = slice(start, start + COMPARED_ROWS)
        nearest[here] = (rows.unit(members[here]) @ kmeans.centroids.T).argmax(axis=1)
    if (nearest == nearest[0]).all():  # nothing tells them apart: cut anyhow, else it would never end
        nearest = (drawn.numbers(members, seed) % np.uint64(branches)).astype(np.int8)
    return nearest


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """faiss computes on one thread: more would spin for what a sample takes, beside the products that come next."""
    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(usual)


def pair_recall(rows: RawRows, probes: Indices, groups: Groups, min_cosine: float) -> tuple[float | None, int]:
    """Of all pairs that some rows are in, by exact search, the share in one group; how many they are.

    None where they are in no pair.
    """
    queries, found, total = rows.unit(probes), 0, 0
    for start in range(0, len(rows), COMPARED_ROWS):
        one, other = np.nonzero(queries @ rows.unit(slice(start, start + COMPARED_ROWS)).T >= min_cosine)
        one, other = probes[one], other + start
        together = (groups.first_of(one) == groups.first_of(other))[one != other]
        total, found = total + len(together), found + int(together.sum())
    return (found / total if total else None), total
