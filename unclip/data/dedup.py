"""Duplicates by pixels, perceptual hash or the source's word; which one is kept; the split that keeps them together."""

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unclip.data.config import FilterConfig
from unclip.data.dense import SPLITS
from unclip.data.groups import Groups, Indices, Joining, Mask, Pairs, buckets, equal_rows
from unclip.data.scratch import blocks

TRAIN, VALIDATION, TEST = range(3)
COMPARED_HASHES = 1024  # whose hashes are compared with those of their bucket at once


def number_of(text: str) -> int:
    """64 bits of a text's digest, never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") or 1


def near_hashes(
    hashes: NDArray[np.uint64], max_hamming: int, mine: Mask | None = None, work: Path | None = None
) -> Iterator[Pairs]:
    """Pairs (M, 2) of different rows whose hashes differ in at most `max_hamming` bits; exact, each at least once.

    By the pigeonhole principle two such hashes agree in one of max_hamming + 1 pieces of their bits. mine: the rows
    that count; work: a folder for a while.
    """
    edges = np.linspace(0, 64, max_hamming + 2).astype(int)
    for start, stop in pairwise(edges.tolist()):
        piece = partial(bits_of, start=start, num=stop - start)
        for rows, found in buckets(hashes, piece, mine, work):
            part = piece(found)
            order = np.argsort(part, kind="stable")
            for alike in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
                yield from (rows[alike[pairs]] for pairs in near_in(found[alike], max_hamming))


def bits_of(hashes: NDArray[np.uint64], start: int, num: int) -> NDArray[np.uint64]:
    """So many bits of each hash, from `start` on."""
    return (hashes >> np.uint64(start)) & np.uint64((1 << num) - 1)


def near_in(hashes: NDArray[np.uint64], max_hamming: int) -> Iterator[Pairs]:
    """The pairs of `near_hashes` among all of some hashes, each once."""
    for first in range(0, len(hashes) - 1, COMPARED_HASHES):
        for second in range(first, len(hashes), COMPARED_HASHES):
            some, others = hashes[first : first + COMPARED_HASHES], hashes[second : second + COMPARED_HASHES]
            one, other = np.nonzero(np.bitwise_count(some[:, None] ^ others[None]) <= max_hamming)
            yield np.stack([one + first, other + second], axis=1)[second + other > first + one]


def same_picture(
    digests: NDArray[np.uint64], hashes: NDArray[np.uint64], max_hamming: int | None, work: Path | None = None
) -> Groups:
    """Rows that show the same picture: of equal pixels or, where asked, of near perceptual hashes.

    digests: (N, 2), the first 16 bytes of each; work: a folder for a while.
    """
    found = Joining()
    for pairs in equal_rows(digests, work=work):
        found.join(pairs)
    if max_hamming is not None:
        different = np.ones(len(hashes), bool)
        for pairs in equal_rows(hashes, work=work):
            found.join(pairs)
            different[pairs[:, 1]] = False
        for pairs in near_hashes(hashes, max_hamming, different, work):
            found.join(pairs)
    return found.groups()


def same_group(pictures: Groups, names: NDArray[np.uint64], work: Path | None = None) -> Groups:
    """Rows of one picture or of one group by the source's word, 0 for none, however joined."""
    found = Joining()
    found.join(pictures.pairs)
    for pairs in equal_rows(names, np.asarray(names != 0), work):
        found.join(pairs)
    return found.groups()


def keeper(groups: Groups, rank: NDArray[np.float64], named_test: Mask | None = None) -> Indices:
    """Of each row in a group, the row of it to keep: of those that the source calls test, else of all, the best rank.

    rank, named_test: of `groups.rows`. Among equals the first. A rank that is not a number is the lowest.
    """
    lowest = np.where(np.isnan(rank), -np.inf, rank)
    held_out = np.zeros(len(groups), bool) if named_test is None else named_test
    order = np.lexsort((np.arange(len(groups)), -lowest, ~held_out))  # the last key counts first
    _, group = np.unique(groups.firsts, return_inverse=True)
    _, place = np.unique(group[order], return_index=True)
    return groups.rows[order[place]][group] if len(groups) else groups.rows


def place_of(group: bytes) -> int:
    """A number in 0..2**64 - 1 from the digest of a picture, or from the name of a group."""
    return int.from_bytes(hashlib.sha256(b"split\0" + group).digest()[:8], "big")


def assign_splits(
    config: FilterConfig, groups: Groups, places: NDArray[np.uint64], named: NDArray[np.int8]
) -> NDArray[np.int8]:
    """The split of every row, as a place in SPLITS: rows of one group are always in one.

    places: `place_of` each row, the first one's of its group counts; named: the source's word for each row's split,
    likewise, -1 for none. A group with a row named test is test; else one with a row named validation is that; else one
    named train is never test.
    """
    words = {number: np.unique(groups.firsts[named[groups.rows] == number]) for number in range(len(SPLITS))}
    splits = np.empty(len(places), np.int8)
    for block in blocks(len(places)):
        rows = np.arange(block.start, block.stop)
        found, _ = groups.where(rows)
        first = groups.first_of(rows)
        said = {number: np.where(found, np.isin(first, words[number]), named[rows] == number) for number in words}
        place = places[first].astype(np.float64) / 2**64
        least = np.where(said[TRAIN], 0.0, config.test_fraction)
        drawn = np.where(place < least, TEST, np.where(place < least + config.validation_fraction, VALIDATION, TRAIN))
        splits[block] = np.select([said[TEST], said[VALIDATION]], [TEST, VALIDATION], drawn)
    return splits
