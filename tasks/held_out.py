"""The held-out rows an evaluation looks at: captions to make pictures for, and other real pictures to compare with.

N rows, P pixels a side, D embedding dimension, L tokens of context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.shards import ShardReader
from unclip.data.table import read_part

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Rows of the test split with all that is known of them; `metas` as the source wrote them."""

    keys: list[str]
    captions: list[str]
    metas: list[dict[str, Any]]
    pictures: Pixels  # (N, P, P, 3)
    zi: NDArray[np.float32]  # (N, D) unit norm
    zt: NDArray[np.float32]  # (N, D) unit norm
    tokens: NDArray[np.int32]  # (N, L)

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, start: int, stop: int) -> "HeldOut":
        """Rows from `start` up to `stop`."""
        part = slice(start, stop)
        return HeldOut(
            keys=self.keys[part],
            captions=self.captions[part],
            metas=self.metas[part],
            pictures=self.pictures[part],
            zi=self.zi[part],
            zt=self.zt[part],
            tokens=self.tokens[part],
        )


def held_out(shards: Sequence[Path], parts: Sequence[Path], kept: Path, num_rows: int, px: int, seed: int) -> HeldOut:
    """Up to `num_rows` rows of the test split that `kept` lists, in an order drawn by `seed`; pictures at `px`.

    `shards` and `parts` in shard order.

    Raises: ValueError where a key is not where `kept` says.
    """
    table = pq.read_table(kept)
    table = table.filter(pc.equal(table["split"], "test")).sort_by("key")
    if not len(table):
        raise ValueError("the test split is empty: there is nothing to evaluate on")
    order = np.random.default_rng(seed).permutation(len(table))[:num_rows]
    keys, shard, row = (table[name].to_pylist() for name in ("key", "shard", "row"))
    readers = {s: ShardReader(shards[s]) for s in sorted({shard[i] for i in order})}
    places = {s: {key: i for i, key in enumerate(reader.keys)} for s, reader in readers.items()}
    tables = {s: read_part(parts[s]) for s in readers}
    for i in order:
        if keys[i] not in places[shard[i]] or tables[shard[i]].keys[row[i]] != keys[i]:
            raise ValueError(f"{kept}: {keys[i]} is not in row {row[i]} of shard {shard[i]}")
    found = [(readers[shard[i]], places[shard[i]][keys[i]], tables[shard[i]], row[i]) for i in order]
    info = tables[shard[order[0]]].info
    return HeldOut(
        keys=[keys[i] for i in order],
        captions=[part.captions[r] for _, _, part, r in found],
        metas=[reader.meta(place) for reader, place, _, _ in found],
        pictures=np.stack([reader.decode(place, px) for reader, place, _, _ in found]),
        zi=np.stack([part.image[r] for _, _, part, r in found]).reshape(-1, info.dimension),
        zt=np.stack([part.text[r] for _, _, part, r in found]).reshape(-1, info.dimension),
        tokens=np.stack([part.tokens[r] for _, _, part, r in found]).reshape(-1, info.context),
    )


def split_rows(rows: HeldOut, num_captions: int, least: int) -> tuple[HeldOut, HeldOut]:
    """Rows to caption and, apart from them, rows to compare with; half and half where there are few.

    Raises: ValueError where either would have fewer than `least`.
    """
    num_first = min(num_captions, len(rows) // 2)
    if num_first < least:
        raise ValueError(f"evaluate needs >= {2 * least} held-out rows, the test split has {len(rows)}")
    return rows.rows(0, num_first), rows.rows(num_first, len(rows))


def training_metas(shards: Sequence[Path], kept: Path, num_rows: int) -> list[dict[str, Any]]:
    """The metadata of the first `num_rows` rows of the training split; `shards` in shard order."""
    table = pq.read_table(kept, columns=["key", "shard", "split"])
    table = table.filter(pc.equal(table["split"], "train")).sort_by("key")[:num_rows]
    found = []
    for number in sorted(set(table["shard"].to_pylist())):
        reader = ShardReader(shards[number])
        places = {key: i for i, key in enumerate(reader.keys)}
        found += [reader.meta(places[key]) for key in table.filter(pc.equal(table["shard"], number))["key"].to_pylist()]
    return found
