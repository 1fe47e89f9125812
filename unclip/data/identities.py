"""Which rows of a long list repeat an earlier one: exact, in memory that grows by one bit a row.

Identities go to 256 files by their first byte, 24 bytes each; each file is then sorted alone.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

SPILL_ROWS = 1 << 16  # identities in memory before they go to disk
ENTRY = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])


class Identities:
    """16-byte identities with the numbers of their rows, added in any number."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="unclip-identities-")
        self._identities, self._rows, self._num_rows = bytearray(), array("q"), 0

    def __enter__(self) -> "Identities":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, identity: bytes, row: int) -> None:
        """One more identity."""
        self._identities += identity
        self._rows.append(row)
        self._num_rows = max(self._num_rows, row + 1)
        if len(self._rows) == SPILL_ROWS:
            self._spill()

    def repeats(self) -> NDArray[np.uint8]:
        """One bit a row, the first row's the highest of the first byte: 1 where an earlier row has its identity."""
        bits = np.zeros(-(-self._num_rows // 8), np.uint8)
        for entries in self._parts():
            entries = entries[np.lexsort((entries["row"], entries["low"], entries["high"]))]
            same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
            rows = entries["row"][1:][same]
            np.bitwise_or.at(bits, rows >> 3, (128 >> (rows & 7)).astype(np.uint8))
        return bits

    def _parts(self) -> Iterator[NDArray[np.void]]:
        """All entries, those with the same identity together."""
        if not any(Path(self._folder.name).iterdir()):
            yield self._entries()
            return
        self._spill()
        for file in sorted(Path(self._folder.name).iterdir()):
            yield np.fromfile(file, ENTRY)

    def _entries(self) -> NDArray[np.void]:
        """What is in memory; then nothing is."""
        entries = np.empty(len(self._rows), ENTRY)
        halves = np.frombuffer(bytes(self._identities), ">u8").reshape(-1, 2)
        entries["high"], entries["low"], entries["row"] = halves[:, 0], halves[:, 1], self._rows
        self._identities, self._rows = bytearray(), array("q")
        return entries

    def _spill(self) -> None:
        entries = self._entries()
        parts = (entries["high"] >> np.uint64(56)).astype(np.intp)
        entries = entries[np.argsort(parts, kind="stable")]
        ends = np.cumsum(np.bincount(parts, minlength=256))
        for part, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            with (Path(self._folder.name) / f"{part:02x}").open("ab") as file:
                file.write(entries[start:end].tobytes())


def bits_between(bits: NDArray[np.uint8], first: int, count: int) -> NDArray[np.bool_]:
    """The bits of `count` rows from row `first` on; those beyond the last are 0."""
    part = np.unpackbits(bits[first // 8 : -(-(first + count) // 8)])[first % 8 :][:count]
    return np.pad(part, (0, count - len(part))).astype(bool)
