"""Duplicates by decoded pixels, perceptual hash or the source's word; and the split that keeps them together."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unclip.data.config import FilterConfig

Indices = NDArray[np.int64]
HASH_SIDE = 8
THUMB_SIDE = 32


def _cosines() -> NDArray[np.float64]:
    """The lowest HASH_SIDE rows of the discrete cosine transform (DCT-II) of THUMB_SIDE values."""
    k, n = np.arange(HASH_SIDE)[:, None], np.arange(THUMB_SIDE)[None]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * THUMB_SIDE))


COSINES = _cosines()


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that change little with size, compression and brightness: signs of low frequencies about their median."""
    thumb = image.convert("L").resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BILINEAR)
    waves = COSINES @ np.asarray(thumb, np.float64) @ COSINES.T
    values = waves.reshape(-1)
    middle = (values.size - 1) // 2
    bits = values > np.partition(values[1:], middle)[middle]  # the median of an odd number of values
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


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


def keeper(pictures: Indices, named_test: NDArray[np.bool_]) -> Indices:
    """Of each row, the row of its group to keep: the first that the source calls test, else the first."""
    best: dict[int, int] = {}
    for row, group in enumerate(pictures.tolist()):
        if group not in best or (named_test[row] and not named_test[best[group]]):
            best[group] = row
    return np.array([best[group] for group in pictures.tolist()], np.int64)


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
