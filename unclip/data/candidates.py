"""The rows that the filter kept, joined to the embedding table and to what else a policy over embeddings goes by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.dedup import number_of
from unclip.data.dense import SPLITS
from unclip.data.groups import Indices
from unclip.data.raw_rows import RawRows, raw_rows
from unclip.data.scratch import BLOCK_ROWS, Column, Texts, taken
from unclip.data.table import check_agree

FILTERED = {"shard": np.int32, "split": np.int8, "num_pixels": np.int64, "sharpness": np.float32}
JOINED = {"row": np.int32, "score": np.float32, "aesthetic": np.float32, "caption": np.uint64}
NOTHING = {"row": -1, "score": np.nan, "aesthetic": np.nan, "caption": 0}


class Candidates:
    """N rows in the order of their shards; arrays are mapped. `row` is the place in a part, -1 of a row without one."""

    keys: pa.Array  # of strings
    shard: NDArray[np.int32]
    split: NDArray[np.int8]  # place in SPLITS
    num_pixels: NDArray[np.int64]
    sharpness: NDArray[np.float32]
    row: NDArray[np.int32]
    score: NDArray[np.float32]
    aesthetic: NDArray[np.float32]
    caption: NDArray[np.uint64]  # of its digest, capitals and outer space apart

    def __init__(
        self, parts: Sequence[Path], filtered: Path, *, aesthetic: Sequence[Path] = (), work: Path | None = None
    ) -> None:
        """parts: `part.parquet` in shard order; filtered: the filter's `kept.parquet`; aesthetic: a file a part.

        work: a folder for a while.

        Raises: as `check_agree`.
        """
        check_agree(parts)
        self.parts, self.work = parts, work
        self.figures: dict[str, Any] = {}  # how near rows were searched for, once they were
        self.rejected: dict[str, str] = {}  # why, by key
        self._read(filtered)
        joined = {name: Column(dtype, work) for name, dtype in JOINED.items()}
        for number, path in enumerate(parts):
            mine = slice(*np.searchsorted(self.shard, np.array([number, number + 1], np.int32)).tolist())
            found = self._joined(self.keys[mine], path, aesthetic[number] if aesthetic else None)
            for name, column in joined.items():
                column.append(found[name])
        vars(self).update({name: column.array() for name, column in joined.items()})

    def __len__(self) -> int:
        return len(self.keys)

    def _read(self, filtered: Path) -> None:
        keys, columns = Texts(self.work), {name: Column(dtype, self.work) for name, dtype in FILTERED.items()}
        with pq.ParquetFile(filtered) as file:
            for batch in file.iter_batches(BLOCK_ROWS):
                keys.append(batch["key"])
                numbers = {name: batch[name] for name in FILTERED}
                numbers["split"] = pc.index_in(numbers["split"], pa.array(SPLITS))
                for name, column in columns.items():
                    column.append(numbers[name].to_numpy(zero_copy_only=False))
        self.keys = keys.array()
        vars(self).update({name: column.array() for name, column in columns.items()})

    def _joined(self, keys: pa.Array, path: Path, aesthetic: Path | None) -> dict[str, NDArray[Any]]:
        """What a part says of the rows of its shard."""
        rejects = path.with_name("rejects.parquet")
        if rejects.is_file():
            self.rejected |= {row["key"]: row["reason"] for row in pq.read_table(rejects).to_pylist()}
        out = {name: np.full(len(keys), NOTHING[name], JOINED[name]) for name in JOINED}
        part = pq.read_table(path, columns=["key", "caption", "clip_score"])
        place = pc.index_in(keys, part["key"].combine_chunks().cast(pa.large_string()))  # Arrow narrows no late slice
        mine, row = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False)), place.drop_null().to_numpy()
        out["row"][mine], out["score"][mine] = row, part["clip_score"].to_numpy()[row]
        out["caption"][mine] = [number_of(plain(text)) for text in part["caption"].take(pa.array(row)).to_pylist()]
        if aesthetic is not None:
            out["aesthetic"][mine] = pq.read_table(aesthetic)["aesthetic"].to_numpy()[row]
        return out

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.keys[row].as_py())

    def rank(self, keep: str, rows: Indices) -> NDArray[np.float64]:
        """Of some rows, how much each deserves to be the one of its duplicates that is kept; equal for "first"."""
        columns: dict[str, NDArray[Any]] = {
            "first": np.zeros(len(rows)),
            "largest": self.num_pixels[rows],
            "sharpest": self.num_pixels[rows] * self.sharpness[rows].astype(np.float64),  # as the filter's
            "best_clip_score": self.score[rows],
            "best_aesthetic": self.aesthetic[rows],
        }
        return columns[keep].astype(np.float64)

    @contextmanager
    def vectors(self, mine: Indices) -> Iterator[RawRows]:
        """The image embeddings of some rows, ascending, in a file for a while."""
        shard, row = (taken(values, mine, self.work) for values in (self.shard, self.row))
        with raw_rows(self.parts, shard, row, self.work) as found:
            yield found


def plain(caption: str) -> str:
    """A caption by which two are the same: capitals and outer space apart."""
    return caption.strip().casefold()
