"""Rows that belong together, however many there are: only those that are not alone are in memory.

Rows are numbers from 0; N of them in all. A group is named by its first row.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unclip.data.scratch import BLOCK_ROWS, Column, blocks

Indices = NDArray[np.int64]
Pairs = NDArray[np.int64]  # (M, 2)
Mask = NDArray[np.bool_]
MAX_BUCKETS = 256  # files open at once
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two numbers meet; 2**64 over the golden ratio
SETTLE_PAIRS = 100_000


@dataclass(frozen=True)
class Groups:
    """The rows in groups of two and more, ascending, and the first row of each one's group."""

    rows: Indices
    firsts: Indices

    @classmethod
    def of(cls, pairs: Iterable[Pairs]) -> "Groups":
        """The groups that pairs (M, 2) of rows join."""
        both = np.concatenate([np.empty((0, 2), np.int64), *pairs])
        rows, places = np.unique(both[both[:, 0] != both[:, 1]], return_inverse=True)
        one, other = places.reshape(-1, 2).T
        graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(rows), len(rows)))
        _, first, label = np.unique(
            connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
        )
        return cls(rows, rows[first[label]] if len(rows) else rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_others(self) -> int:
        """The rows that are not the first of their group."""
        return int((self.rows != self.firsts).sum())

    @property
    def pairs(self) -> Pairs:
        """The fewest pairs that join the groups: of each row but the first, the first and itself."""
        others = self.rows != self.firsts
        return np.stack([self.firsts[others], self.rows[others]], axis=1)

    def among(self, mine: Mask) -> "Groups":
        """The same for some rows only; the first of a group, by which it is named, may not be one of them."""
        here = mine[self.rows]
        return Groups(self.rows[here], self.firsts[here])

    def where(self, rows: Indices) -> tuple[Mask, Indices]:
        """Of each row, whether it is in a group, and its place in `self.rows` if so."""
        if not len(self):
            return np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
        place = np.minimum(np.searchsorted(self.rows, rows), len(self) - 1)
        return self.rows[place] == rows, place

    def first_of(self, rows: Indices) -> Indices:
        """Of each row, the first of its group: itself where it is alone."""
        found, place = self.where(rows)
        return np.where(found, self.firsts[place], rows) if len(self) else rows


class Joining:
    """Groups that grow with every pair that is found."""

    def __init__(self) -> None:
        self._groups, self._waiting, self._num_waiting = Groups.of(()), list[Pairs](), 0

    def join(self, pairs: Pairs) -> None:
        """Make one group of the groups of each pair."""
        if not len(pairs):
            return
        self._waiting.append(pairs)
        self._num_waiting += len(pairs)
        if self._num_waiting > SETTLE_PAIRS + len(self._groups):
            self.groups()

    def groups(self) -> Groups:
        """The groups so far."""
        if self._num_waiting:
            self._groups = Groups.of([self._groups.pairs, *self._waiting])
            self._waiting, self._num_waiting = [], 0
        return self._groups


def first_equal(values: NDArray[Any]) -> Indices:
    """Of each row, the first row of the same value; rows of several columns are compared by all of them."""
    columns = values[:, None] if values.ndim == 1 else values
    order = np.lexsort(columns.T)  # stable: of equals the first comes first
    begins = np.ones(len(order), bool)
    begins[1:] = (columns[order[1:]] != columns[order[:-1]]).any(axis=1)
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return firsts


def equal_rows(values: NDArray[np.uint64], mine: Mask | None = None, work: Path | None = None) -> Iterator[Pairs]:
    """Pairs (M, 2) of a row and an earlier one of the same value, the first; each row that is not a first is in one.

    values: (N,) or (N, W), mapped or not; mine: the rows that count; work: a folder for a while.
    """
    for rows, found in buckets(values, lambda block: block if block.ndim == 1 else block[:, 0], mine, work):
        firsts = first_equal(found)
        others = firsts != np.arange(len(firsts))
        yield np.stack([rows[firsts[others]], rows[others]], axis=1)


def buckets(
    values: NDArray[np.uint64],
    part: Callable[[NDArray[np.uint64]], NDArray[np.uint64]],
    mine: Mask | None = None,
    work: Path | None = None,
) -> Iterator[tuple[Indices, NDArray[np.uint64]]]:
    """All rows, ascending, and their values, in pieces that keep those together whose values have the same `part`.

    By files in `work`, for a while: in memory is a piece of BLOCK_ROWS and few more, if no part is too frequent.
    """
    size = len(values) if mine is None else int(mine.sum())
    bits = min(MAX_BUCKETS.bit_length() - 1, max(0, -(-size // BLOCK_ROWS) - 1).bit_length())
    files = [Column(np.uint64, work, width=1 + int(np.prod(values.shape[1:]))) for _ in range(1 << bits)]
    for block in blocks(len(values)):
        rows = np.arange(block.start, block.stop) if mine is None else block.start + np.flatnonzero(mine[block])
        some = values[rows]
        number = (part(some) * SPREAD) >> np.uint64(64 - bits) if bits else np.zeros(len(rows), np.uint64)
        records = np.column_stack([rows.astype(np.uint64), some])
        for bucket in np.unique(number).tolist():
            files[bucket].append(records[number == bucket])
    for file in files:
        records = file.array()
        yield records[:, 0].astype(np.int64), records[:, 1:].reshape(-1, *values.shape[1:])
