"""The kept rows of an embedding table as memory-mapped arrays, gathered once: what a trainer reads at random.

N rows kept of one split, D dimensions, L tokens of context.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from unclip.data.table import Floats, TableInfo, Tokens, check_agree, read_part

TAKING_THREADS = min(4, len(os.sched_getaffinity(0)))
ROWS_PER_THREAD = 512  # fewer are gathered before a thread has begun
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dense:
    """The kept rows of a split, in the order of `kept.parquet`; the arrays are read-only memory maps."""

    keys: list[str]
    shard: Tokens  # (N,) index of the part (and of the image shard) a row is in
    zi: Floats  # (N, D) unit norm
    zt: Floats  # (N, D) unit norm
    tokens: Tokens  # (N, L)
    info: TableInfo  # of the first part

    def __len__(self) -> int:
        return len(self.keys)


def dense(parts: Sequence[Path], kept: Path, split: str, cache: Path) -> Dense:
    """The rows of `split` that `kept` lists, gathered from `parts` (in shard order) once; later calls map the files.

    `cache` is a folder for this; its entries are named by what they were made from. Several processes may call at once.

    Raises: ValueError for an unknown split, parts that disagree, or a key that is not where `kept` says.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    infos = check_agree(parts)
    folder = cache / cache_name(parts, kept, split)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache, prefix=".gather-"))
        try:
            gather(parts, kept, split, partial, infos[0])
            os.rename(partial, folder)
        except OSError:
            if not folder.exists():  # else another process gathered the same
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("shard", "zi", "zt", "tokens")}
    return Dense(keys=json.loads((folder / "keys.json").read_text()), info=infos[0], **arrays)


def take_rows(array: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """The rows (len(rows), ...) of an array at random places, many of them by several threads.

    Raises: IndexError for a place that is not there.
    """
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(array)):
        raise IndexError(f"rows must be in 0..{len(array) - 1}, got {rows.min()} to {rows.max()}")
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    pieces = min(TAKING_THREADS, len(rows) // ROWS_PER_THREAD)
    if pieces < 2:
        return np.take(array, rows, axis=0, out=out, mode="clip")
    edges = np.linspace(0, len(rows), pieces + 1).astype(int).tolist()
    takes = [
        taking().submit(np.take, array, rows[start:stop], 0, out[start:stop], "clip") for start, stop in pairwise(edges)
    ]
    for take in takes:
        take.result()
    return out


@cache
def taking() -> ThreadPoolExecutor:
    """The threads that gather rows."""
    return ThreadPoolExecutor(TAKING_THREADS, thread_name_prefix="take-rows")


def cache_name(parts: Sequence[Path], kept: Path, split: str) -> str:
    """A name that changes with the split, the rows kept or any part. Parts count by path, size and time of writing."""
    digest = hashlib.sha256(split.encode() + kept.read_bytes())
    for part in parts:
        stat = part.stat()
        digest.update(f"{part.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return f"{split}-{digest.hexdigest()[:24]}"


def gather(parts: Sequence[Path], kept: Path, split: str, out: Path, info: TableInfo) -> None:
    """Write `zi`, `zt`, `tokens`, `shard` as .npy and the keys as JSON into `out`, one part in memory at a time."""
    table = pq.read_table(kept)
    table = table.filter(pc.equal(table["split"], split))
    keys, shard, row = table["key"].to_pylist(), table["shard"].to_numpy(), table["row"].to_numpy()
    size = len(keys)
    zi = open_memmap(out / "zi.npy", mode="w+", dtype=np.float32, shape=(size, info.dimension))
    zt = open_memmap(out / "zt.npy", mode="w+", dtype=np.float32, shape=(size, info.dimension))
    tokens = open_memmap(out / "tokens.npy", mode="w+", dtype=np.int32, shape=(size, info.context))
    by_part = np.argsort(shard, kind="stable")
    edges = np.searchsorted(shard[by_part], np.arange(len(parts) + 1)).tolist()
    for path, (start, stop) in zip(parts, pairwise(edges), strict=True):
        places = by_part[start:stop]
        if start == stop:
            continue
        part, rows = read_part(path), row[places]
        for place, r in zip(places, rows, strict=True):
            if r >= len(part) or part.keys[r] != keys[place]:
                raise ValueError(f"{path}: row {r} is not {keys[place]}, as {kept} says")
        zi[places], zt[places], tokens[places] = part.image[rows], part.text[rows], part.tokens[rows]
    for array in (zi, zt, tokens):
        array.flush()
    np.save(out / "shard.npy", shard.astype(np.int32))
    (out / "keys.json").write_text(json.dumps(keys))
