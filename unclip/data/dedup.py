"""Duplicates by pixels, perceptual hash or the source's word; which one is kept; the split that keeps them together."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unclip.data.config import FilterConfig
from unclip.data.dense import SPLITS

Indices = NDArray[np.int64]
Pairs = NDArray[np.int64]  # (M, 2)
TRAIN, VALIDATION, TEST = range(3)
BLOCK_ROWS = 1024  # whose hashes are compared with those of their bucket at once


def number_of(text: str) -> int:
    """64 bits of a text's digest, never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1


def first_equal(values: NDArray[Any]) -> Indices:
    """Of each row, the first row of the same value; rows of several columns are compared by all of them."""
    columns = values.reshape(len(values), -1)
    order = np.lexsort(columns.T)  # stable: of equals the first comes first
    begins = np.ones(len(order), bool)
    begins[1:] = (columns[order[1:]] != columns[order[:-1]]).any(axis=1)
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return firsts


def joined(size: int, pairs: Iterable[Pairs]) -> Indices:
    """Of each of `size` rows, the first row of the group that pairs (M, 2) of rows join it to."""
    one, other = np.concatenate([np.empty((0, 2), np.int64), *pairs]).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    return first_equal(connected_components(graph, directed=False)[1])


def near_hashes(hashes: NDArray[np.uint64], max_hamming: int) -> Iterator[Pairs]:
    """Pairs (M, 2) of different rows whose hashes differ in at most `max_hamming` bits; exact, each at least once.

    By the pigeonhole principle two such hashes agree in one of max_hamming + 1 pieces of their bits.
    """
    edges = np.linspace(0, 64, max_hamming + 2).astype(int)
    for start, stop in pairwise(edges.tolist()):
        piece = (hashes >> np.uint64(start)) & np.uint64((1 << (stop - start)) - 1)
        order = np.argsort(piece, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            yield from near_in(bucket, hashes, max_hamming)


def near_in(rows: Indices, hashes: NDArray[np.uint64], max_hamming: int) -> Iterator[Pairs]:
    """The pairs of `near_hashes` among some rows, each once."""
    for first in range(0, len(rows) - 1, BLOCK_ROWS):
        for second in range(first, len(rows), BLOCK_ROWS):
            some, others = rows[first : first + BLOCK_ROWS], rows[second : second + BLOCK_ROWS]
            differing = np.bitwise_count(hashes[some][:, None] ^ hashes[others][None])
            one, other = np.nonzero(differing <= max_hamming)
            yield np.stack([some[one], others[other]], axis=1)[second + other > first + one]


def same_picture(digests: NDArray[np.uint64], hashes: NDArray[np.uint64] | None, max_hamming: int | None) -> Indices:
    """Of each row, the first row that shows the same picture: equal pixels or, where asked, near perceptual hashes.

    digests: (N, 2), the first 16 bytes of each.
    """
    firsts = first_equal(digests)
    if max_hamming is None or hashes is None:
        return firsts
    rows = np.arange(len(firsts))
    alike = first_equal(hashes)
    unique = np.flatnonzero(alike == rows)
    near = (unique[pairs] for pairs in near_hashes(hashes[unique], max_hamming))
    return joined(len(firsts), [np.stack([firsts, rows], axis=1), np.stack([alike, rows], axis=1), *near])


def same_group(pictures: Indices, groups: NDArray[np.uint64]) -> Indices:
    """Of each row, the first row of its picture or of its group by the source's word, 0 for none, however joined."""
    named = np.flatnonzero(groups)
    if not len(named):
        return pictures
    rows = np.arange(len(pictures))
    said = np.stack([named[first_equal(groups[named])], named], axis=1)
    return joined(len(pictures), [np.stack([pictures, rows], axis=1), said])


def keeper(pictures: Indices, rank: NDArray[np.float64], named_test: NDArray[np.bool_] | None = None) -> Indices:
    """Of each row, the row of its group to keep: of those that the source calls test, else of all, the highest rank.

    Among equals the first. A rank that is not a number is the lowest.
    """
    lowest = np.where(np.isnan(rank), -np.inf, rank)
    held_out = np.zeros(len(pictures), bool) if named_test is None else named_test
    order = np.lexsort((np.arange(len(pictures)), -lowest, ~held_out))  # the last key counts first
    _, group = np.unique(pictures, return_inverse=True)
    best = np.full(len(pictures), -1, np.int64)
    found, place = np.unique(group[order], return_index=True)
    best[found] = order[place]
    return best[group]


def place_of(group: bytes) -> int:
    """A number in 0..2**64 - 1 from the digest of a picture, or from the name of a group."""
    return int.from_bytes(hashlib.sha256(b"split\0" + group).digest()[:8], "big")


def assign_splits(
    config: FilterConfig, firsts: Indices, places: NDArray[np.uint64], named: NDArray[np.int8]
) -> NDArray[np.int8]:
    """The split of every row, as a place in SPLITS: rows of one group are always in one.

    firsts: the first row of each row's group; places: `place_of` each row, the first one's counts; named: the source's
    word for each row's split, likewise, -1 for none. A group with a row named test is test; else one with a row named
    validation is that; else one named train is never test.
    """
    said = {name: np.isin(firsts, firsts[named == number]) for number, name in enumerate(SPLITS)}
    place = places[firsts].astype(np.float64) / 2**64
    least = np.where(said["train"], 0.0, config.test_fraction)
    drawn = np.where(place < least, TEST, np.where(place < least + config.validation_fraction, VALIDATION, TRAIN))
    return np.select([said["test"], said["validation"]], [TEST, VALIDATION], drawn).astype(np.int8)
