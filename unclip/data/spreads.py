"""Figures of what never stands in memory whole: spreads by counting, repeats by way of files, seeded draws."""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1, 50, 99)
NUM_HALVES = 2**16  # bit patterns of a float16
BUCKETS = 64  # files that values are sorted into by their first bits
SPILLED_BYTES = 2**16  # buffered of each


class Spread:
    """Least, mean, percentiles and most of values given in blocks; percentiles are exact to a float16, 1 in 2048."""

    def __init__(self) -> None:
        self._counts = np.zeros(NUM_HALVES, np.int64)
        self._least, self._most, self._sum = np.inf, -np.inf, 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count some values, which must be finite."""
        if not len(values):
            return
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16).view(np.uint16)
        self._counts += np.bincount(halves, minlength=NUM_HALVES)
        self._least, self._most = min(self._least, values.min()), max(self._most, values.max())
        self._sum += float(values.sum(dtype=np.float64))

    def figures(self) -> dict[str, float]:
        """`min`, `p1`, `p50`, `p99`, `max` and `mean`; empty of no values."""
        total = int(self._counts.sum())
        if not total:
            return {}
        values = np.arange(NUM_HALVES, dtype=np.uint16).view(np.float16).astype(np.float32)
        order = np.argsort(values, kind="stable")  # nan last
        reached = np.cumsum(self._counts[order])
        places = [int(np.searchsorted(reached, total * percent / 100)) for percent in PERCENTILES]
        middle = {
            f"p{percent}": float(np.clip(values[order[place]], self._least, self._most))
            for percent, place in zip(PERCENTILES, places, strict=True)
        }
        return {"min": float(self._least), **middle, "max": float(self._most), "mean": self._sum / total}


def drawn_rows(counts: Sequence[int], most: int, seed: int) -> list[list[int]]:
    """Of each of several files with so many rows, in order, the rows that a draw of at most `most` from all hits."""
    size = sum(counts)
    chosen = np.sort(np.random.default_rng(seed).choice(size, min(most, size), replace=False)) if size else np.array([])
    starts = np.cumsum([0, *counts])
    ends = np.searchsorted(chosen, starts)
    return [(chosen[a:b] - low).astype(int).tolist() for low, (a, b) in zip(starts, pairwise(ends), strict=False)]


def repeated(blocks: Iterable[NDArray[np.uint64]]) -> dict[str, int]:
    """How many different values occur more than once, and how many values are more than one of each.

    Memory is that of a block or of a 64th of all values, evenly spread as digests are.
    """
    with tempfile.TemporaryDirectory(prefix="unclip-digests-") as folder:
        paths = [Path(folder) / f"{bucket:02d}" for bucket in range(BUCKETS)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb", buffering=SPILLED_BYTES)) for path in paths]
            for block in blocks:
                bucket = (block % np.uint64(BUCKETS)).astype(np.int64)
                order = np.argsort(bucket, kind="stable")
                ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))[:-1]
                for file, values in zip(files, np.split(block[order], ends), strict=True):
                    file.write(values.tobytes())
        counts = (np.unique(np.fromfile(path, np.uint64), return_counts=True)[1] for path in paths)
        found = [(int((times > 1).sum()), int((times - 1).sum())) for times in counts]
    return {"pictures": sum(groups for groups, _ in found), "rows_more": sum(more for _, more in found)}
