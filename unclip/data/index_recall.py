"""How much of exact search an index finds, on texts of the table, and how many lists it must look into for it.

Q queries, D dimensions.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from unclip.data.config import IndexConfig
from unclip.data.spreads import drawn_rows
from unclip.data.table import Floats, check_agree, unit, vectors_in, vectors_of

NUM_QUERIES = 256
NUM_RIVALS = 64  # rows of an exact search that are known: those of one cosine count as each other
TIE = 1e-5  # cosines nearer than this are one rank
REFINE = 8  # times the rows asked for are looked at again in the table ("ivf_pq")

COLUMN = "image_embedding"

Indices = NDArray[np.int64]
Nearest = tuple[Floats, Indices]


def sampled(parts: Sequence[Path], column: str, counts: Sequence[int], most: int, seed: int) -> Floats:
    """At most `most` unit vectors of a column, drawn from all parts by `seed`, in the order of the table.

    Parts that none is drawn from stay unread.
    """
    drawn = [(part, rows) for part, rows in zip(parts, drawn_rows(counts, most, seed), strict=True) if rows]
    found = vectors_in([part for part, _ in drawn], column, ahead=1)
    return unit(np.concatenate([vectors[rows] for vectors, (_, rows) in zip(found, drawn, strict=True)]))


def exact_nearest(parts: Sequence[Path], counts: Sequence[int], queries: Floats, k: int) -> Nearest:
    """The cosines and ids (Q, k) of the k rows of the whole table nearest to each query, nearest first.

    counts: rows of each part.
    """
    found = (nearest_in(vectors, queries, k) for vectors in vectors_in(parts, COLUMN, ahead=1))
    return merged_nearest(found, counts, k)


def nearest_in(vectors: NDArray[np.float16], queries: Floats, k: int) -> Nearest:
    """The cosines and places (Q, k or all) of the rows of one part nearest to each query, nearest first."""
    if not len(vectors):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    cosines, places = faiss.knn(queries, unit(vectors), min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    return cosines, places


def merged_nearest(found: Iterable[Nearest], counts: Sequence[int], k: int) -> Nearest:
    """What is nearest (Q, k) in the whole table, by what is nearest in each of its parts of so many rows, in order.

    With fewer rows the last cosine is repeated, with id -1.
    """
    best, ids, start = np.empty((0, 0), np.float32), np.empty((0, 0), np.int64), 0
    for number, (cosines, places) in enumerate(found):
        best = np.concatenate([best, cosines], axis=1) if number else cosines
        ids = np.concatenate([ids, places + start], axis=1) if number else places
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
        start += counts[number]
    lacking = k - best.shape[1]
    pad = np.full((len(best), lacking), -1, np.int64)
    return np.concatenate([best, np.repeat(best[:, -1:], lacking, axis=1)], 1), np.concatenate([ids, pad], 1)


def recalls(ids: Indices, exact: Nearest) -> dict[int, float]:
    """Recall at 1 and 10 of found ids (Q, 10 or all): the share of the true k; equal cosines count as each other."""
    cosines, rivals = exact
    found = {}
    for k in (1, 10):
        count = min(k, ids.shape[1])
        true = (cosines >= cosines[:, count - 1, None] - TIE) & (rivals >= 0)
        hit = (ids[:, :count, None] == np.where(true, rivals, -2)[:, None, :]).any(axis=2)
        found[k] = float(hit.mean())
    return found


def choose_probes(
    config: IndexConfig, index: Any, parts: Sequence[Path], queries: Floats, exact: Nearest
) -> dict[int, float]:
    """The recall, the index's probes set: as configured, else the fewest of 1, 2, 4, ... that reach `min_recall`."""
    ivf, probes = faiss.extract_index_ivf(index), config.num_probes or 1
    while True:
        ivf.nprobe = min(probes, ivf.nlist)
        recall = recalls(find(index, parts, queries, 10)[0], exact)
        if config.num_probes is not None or recall[10] >= config.min_recall or probes >= ivf.nlist:
            return recall
        probes *= 2


def find(index: Any, parts: Sequence[Path], queries: Floats, k: int) -> tuple[Indices, Floats]:
    """The ids (Q, k) of the rows that an index finds nearest to each query, and their cosines; -1 where there is none.

    An index of product codes is asked for more, and the table itself says which of them are nearest.

    Raises: ValueError when it needs the parts of the table and there are none.
    """
    k = min(k, index.ntotal)
    if not isinstance(index, faiss.IndexPreTransform):
        cosines, ids = index.search(queries, k)
        return ids, cosines
    if not parts:
        raise ValueError("an index of product codes needs the table, parts/*.parquet beside it: there is none")
    _, ids = index.search(queries, min(REFINE * k, index.ntotal))
    vectors = rows_at(parts, np.maximum(ids, 0).reshape(-1)).reshape(*ids.shape, -1)
    cosines = np.where(ids >= 0, np.einsum("qd,qkd->qk", queries, vectors), -2).astype(np.float32)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(cosines, order, 1)


def rows_at(parts: Sequence[Path], ids: Indices) -> Floats:
    """The unit image embeddings (len(ids), D) of rows of the table, as they were embedded; other parts stay unread."""
    counts = [info.num_rows for info in check_agree(parts)]
    starts = np.cumsum([0, *counts])
    part = np.searchsorted(starts, ids, side="right") - 1
    out = np.empty((len(ids), check_agree(parts[:1])[0].dimension), np.float32)
    for number in np.unique(part):
        here = part == number
        out[here] = unit(vectors_of(parts[number], "image_embedding")[ids[here] - starts[number]])
    return out
