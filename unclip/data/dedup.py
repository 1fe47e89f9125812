"""Duplicates by pixels, perceptual hash or the source's word; which one is kept; the split that keeps them together."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unclip.data.config import FilterConfig

Indices = NDArray[np.int64]


class Groups:
    """Rows joined into groups; each group is named by its first row."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def first(self, row: int) -> int:
        """The first row of the group that `row` is in."""
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        """Make one group of the groups of two rows."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parent[high] = low

    def join_equal(self, values: Sequence[object]) -> None:
        """Join rows of the same value; None equals nothing."""
        seen: dict[object, int] = {}
        for row, value in enumerate(values):
            if value is not None:
                self.join(seen.setdefault(value, row), row)

    def firsts(self) -> Indices:
        """Of each row, the first row of its group."""
        return np.array([self.first(row) for row in range(len(self._parent))], np.int64)


def near_hashes(hashes: NDArray[np.uint64], max_hamming: int) -> Iterator[tuple[int, int]]:
    """Pairs of different rows whose hashes differ in at most `max_hamming` bits; exact, each pair at least once.

    By the pigeonhole principle two such hashes agree in one of max_hamming + 1 pieces of their bits.
    """
    edges = np.linspace(0, 64, max_hamming + 2).astype(int)
    for start, stop in pairwise(edges.tolist()):
        piece = (hashes >> np.uint64(start)) & np.uint64((1 << (stop - start)) - 1)
        order = np.argsort(piece, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            for place, row in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                for other in others[np.bitwise_count(hashes[others] ^ hashes[row]) <= max_hamming]:
                    yield int(row), int(other)


def same_picture(digests: Sequence[bytes], hashes: NDArray[np.uint64], max_hamming: int | None) -> Indices:
    """Of each row, the first row that shows the same picture: equal pixels or, where asked, near perceptual hashes."""
    groups = Groups(len(digests))
    groups.join_equal(digests)
    if max_hamming is not None:
        unique, first = np.unique(hashes, return_index=True)
        groups.join_equal(hashes.tolist())
        for one, other in near_hashes(unique, max_hamming):
            groups.join(int(first[one]), int(first[other]))
    return groups.firsts()


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


def split_of(config: FilterConfig, group: bytes, named: set[str]) -> str:
    """The split of a duplicate group: a number in [0, 1) from its digest, and the splits its rows name.

    A group with a row named test is test. One named train (or validation) is never test.
    """
    if "test" in named:
        return "test"
    if "validation" in named:
        return "validation"
    place = int.from_bytes(hashlib.sha256(b"split\0" + group).digest()[:8], "big") / 2**64
    test = 0.0 if "train" in named else config.test_fraction
    return "test" if place < test else "validation" if place < test + config.validation_fraction else "train"


def assign_splits(
    config: FilterConfig,
    pictures: Indices,
    digests: Sequence[bytes],
    groups: Sequence[str | None],
    named: Sequence[str | None],
) -> list[str]:
    """The split of every row: rows of one picture, or of one group of the source, are always in one split."""
    union = Groups(len(pictures))
    union.join_equal(pictures.tolist())
    union.join_equal(groups)
    firsts = union.firsts()
    said: dict[int, set[str]] = {}
    for row, first in enumerate(firsts.tolist()):
        said.setdefault(first, set()).update({named[row] or ""})
    split = {}
    for first, names in said.items():
        group = groups[first]
        split[first] = split_of(config, group.encode() if group is not None else digests[first], names)
    return [split[first] for first in firsts.tolist()]
