"""The search index over image embeddings: exact where the table is small, inverted lists above, recall measured.

N rows, D dimensions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.config import IndexConfig
from unclip.data.table import Floats, check_agree, unit, vectors_of

FLAT_BELOW = 100_000  # rows: exact search answers in milliseconds below
LISTS_PER_ROOT = 4  # lists by the square root of the rows; 4 to 16 is usual
ROWS_PER_LIST = 39  # faiss warns below so many training rows a list
NUM_QUERIES = 256
TIE = 1e-5  # cosines nearer than this are one rank


@dataclass(frozen=True, kw_only=True)
class Built:
    """An index and what was measured of it."""

    index: Any  # faiss.Index, inner product
    figures: dict[str, Any]


def build_index(config: IndexConfig, parts: Sequence[Path], seed: int) -> Built:
    """An index over the unit image embeddings of all parts, ids counted through them in order.

    Queries for the recall are text embeddings of the table, drawn by `seed`: what `search` is asked.

    Raises: ValueError for an empty table, or when recall@10 stays below `min_recall`.
    """
    infos = check_agree(parts)
    size = sum(info.num_rows for info in infos)
    if size == 0:
        raise ValueError("the embedding table has no rows: nothing to index")
    kind = config.kind if config.kind != "auto" else "flat" if size < FLAT_BELOW else "ivf"
    reason = f"{size} rows" + (f", {FLAT_BELOW} is where lists begin" if config.kind == "auto" else ", as set")
    index = faiss.IndexFlatIP(infos[0].dimension) if kind == "flat" else learned_lists(config, parts, size, seed)
    for block in unit_images(parts):
        index.add(block)
    queries = sampled(parts, "text_embedding", [info.num_rows for info in infos], NUM_QUERIES, seed)
    exact = exact_scores(parts, queries, 10)
    if kind == "ivf":
        recall = choose_probes(config, index, parts, queries, exact)
    else:
        recall = recalls(index, parts, queries, exact)
    if recall[10] < config.min_recall:
        raise ValueError(
            f"recall@10 is {recall[10]:.4f}, below min_recall {config.min_recall}: num_probes must be more"
        )
    figures = {"kind": kind, "reason": reason, "rows": size, "recall_at_1": recall[1], "recall_at_10": recall[10]}
    return Built(index=index, figures=figures | ({"num_probes": index.nprobe} if kind == "ivf" else {}))


def unit_images(parts: Sequence[Path]) -> Iterator[Floats]:
    """The unit image embeddings of each part."""
    for path in parts:
        yield unit(vectors_of(path, "image_embedding"))


def learned_lists(config: IndexConfig, parts: Sequence[Path], size: int, seed: int) -> Any:
    """An empty inverted-list index with 8-bit codes, its lists learned on a seeded sample."""
    counts = [info.num_rows for info in check_agree(parts)]
    sample = sampled(parts, "image_embedding", counts, config.train_rows, seed)
    num_lists = max(1, min(int(LISTS_PER_ROOT * size**0.5), len(sample) // ROWS_PER_LIST))
    if config.num_probes is not None and config.num_probes > num_lists:
        raise ValueError(f"num_probes must be <= {num_lists}, the number of lists, got {config.num_probes}")
    dimension = sample.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dimension), dimension, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = seed % 2**31
    index.train(sample)
    return index


def sampled(parts: Sequence[Path], column: str, counts: Sequence[int], most: int, seed: int) -> Floats:
    """At most `most` unit vectors of a column, drawn from all parts by `seed`, in the order of the table."""
    size = sum(counts)
    chosen = np.sort(np.random.default_rng(seed).choice(size, min(most, size), replace=False))
    starts = np.cumsum([0, *counts])
    blocks = [
        vectors_of(path, column)[chosen[(chosen >= low) & (chosen < low + count)] - low]
        for path, low, count in zip(parts, starts, counts, strict=False)
    ]
    return unit(np.concatenate(blocks))


def exact_scores(parts: Sequence[Path], queries: Floats, k: int) -> Floats:
    """The k highest cosines (Q, k) of each query with the whole table, highest first; fewer rows repeat the last."""
    best = np.full((len(queries), 0), 0, np.float32)
    for block in unit_images(parts):
        best = -np.sort(-np.concatenate([best, queries @ block.T], axis=1), axis=1)[:, :k]
    return np.concatenate([best, np.repeat(best[:, -1:], k - best.shape[1], axis=1)], axis=1)


def recalls(index: Any, parts: Sequence[Path], queries: Floats, exact: Floats) -> dict[int, float]:
    """Recall at 1 and 10: the share of the true k that are found; rows of one cosine count as each other."""
    count = min(10, index.ntotal)
    _, ids = index.search(queries, count)
    vectors = rows_at(parts, np.maximum(ids, 0).reshape(-1)).reshape(len(queries), count, -1)
    scores = np.where(ids >= 0, np.einsum("qd,qkd->qk", queries, vectors), -2)
    return {k: float((scores[:, : min(k, count)] >= exact[:, min(k, count) - 1, None] - TIE).mean()) for k in (1, 10)}


def rows_at(parts: Sequence[Path], ids: NDArray[np.int64]) -> Floats:
    """The unit image embeddings (len(ids), D) of rows of the table, as they were embedded."""
    out = np.empty((len(ids), check_agree(parts[:1])[0].dimension), np.float32)
    start = 0
    for block in unit_images(parts):
        here = (ids >= start) & (ids < start + len(block))
        out[here] = block[ids[here] - start]
        start += len(block)
    return out


def choose_probes(
    config: IndexConfig, index: Any, parts: Sequence[Path], queries: Floats, exact: Floats
) -> dict[int, float]:
    """Set `index.nprobe`: as configured, else the fewest of 1, 2, 4, ... that reach `min_recall`; the recall then."""
    probes = config.num_probes or 1
    while True:
        index.nprobe = min(probes, index.nlist)
        recall = recalls(index, parts, queries, exact)
        if config.num_probes is not None or recall[10] >= config.min_recall or probes >= index.nlist:
            return recall
        probes *= 2


def write_index(built: Built, parts: Sequence[Path], out: Path) -> None:
    """Write `index.faiss`, and `keys.parquet`: key, shard, row, caption by index id."""
    faiss.write_index(built.index, str(out / "index.faiss"))
    tables = [pq.read_table(path, columns=["key", "caption"]) for path in parts]
    counts = [len(table) for table in tables]
    columns = {
        "key": pa.chunked_array([chunk for table in tables for chunk in table["key"].chunks], pa.string()),
        "shard": pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), counts)),
        "row": pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
        "caption": pa.chunked_array([chunk for table in tables for chunk in table["caption"].chunks], pa.string()),
    }
    pq.write_table(pa.table(columns), out / "keys.parquet", compression="zstd")


def search(folder: Path, queries: Floats, k: int) -> tuple[pa.Table, NDArray[np.int64], Floats]:
    """The key map, and of each unit query (Q, D) the ids (Q, k) of the nearest images and their cosines.

    Raises: ValueError when the folder holds no index, or the key map is not the index's.
    """
    path = folder / "index.faiss"
    if not path.is_file():
        raise ValueError(f"{folder} holds no index.faiss")
    index, keys = faiss.read_index(str(path)), pq.read_table(folder / "keys.parquet")
    if index.ntotal != len(keys):
        raise ValueError(f"{folder}: the index has {index.ntotal} rows, keys.parquet {len(keys)}")
    cosines, ids = index.search(queries, min(k, index.ntotal))
    return keys, ids, cosines
