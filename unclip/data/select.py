"""The rows that embeddings let through: CLIP score, leaks into held-out rows, shared captions, near duplicates.

Leaks are searched for exactly. A step that is off costs nothing. N rows, D dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.config import SelectConfig
from unclip.data.dedup import Indices
from unclip.data.filters import Selection
from unclip.data.near_duplicates import near_groups, raw_rows
from unclip.data.near_duplicates import near_pairs as near_pairs
from unclip.data.table import Floats, check_agree, unit, vectors_of

BLOCK_ROWS = 2048
Mask = NDArray[np.bool_]


class Candidates:
    """The rows that the filter kept, joined to the table: `row` is -1 where a row was not embedded."""

    def __init__(self, parts: Sequence[Path], filtered: Path, work: Path | None = None) -> None:
        """parts: `part.parquet` in shard order; filtered: the filter's `kept.parquet`; work: a folder for a while.

        Raises: as `check_agree`.
        """
        check_agree(parts)
        table = pq.read_table(filtered)
        self.parts, self.work = parts, work
        self.near_duplicates: dict[str, Any] = {}  # how they were searched for, once they were
        self.keys: list[str] = table["key"].to_pylist()
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.split = np.array(table["split"].to_pylist(), dtype=object)
        self.row = np.full(len(table), -1, np.int64)
        self.score = np.full(len(table), np.nan, np.float32)
        self.captions = [""] * len(table)
        for number, path in enumerate(parts):
            self._join(number, path)

    def _join(self, number: int, path: Path) -> None:
        part = pq.read_table(path, columns=["key", "caption", "clip_score"])
        place = {key: row for row, key in enumerate(part["key"].to_pylist())}
        captions, score = part["caption"].to_pylist(), part["clip_score"].to_numpy()
        for i in np.flatnonzero(self.shard == number):
            row = place.get(self.keys[i])
            if row is not None:
                self.row[i], self.score[i], self.captions[i] = row, score[row], captions[row]

    def images(self, rows: Indices) -> Floats:
        """Unit image embeddings (len(rows), D) of some candidates, one part read at a time."""
        dimension = check_agree(self.parts[:1])[0].dimension
        out = np.empty((len(rows), dimension), np.float32)
        for number in np.unique(self.shard[rows]):
            places = np.flatnonzero(self.shard[rows] == number)
            out[places] = vectors_of(self.parts[number], "image_embedding")[self.row[rows[places]]]
        return unit(out)


def nearest(queries: Floats, vectors: Floats) -> tuple[Indices, Floats]:
    """Of each unit query (N, D), the number of the nearest of `vectors` (M, D) and its cosine."""
    best, cosine = np.empty(len(queries), np.int64), np.empty(len(queries), np.float32)
    for start in range(0, len(queries), BLOCK_ROWS):
        near = queries[start : start + BLOCK_ROWS] @ vectors.T
        best[start : start + BLOCK_ROWS] = near.argmax(1)
        cosine[start : start + BLOCK_ROWS] = near.max(1)
    return best, cosine


def select_rows(config: SelectConfig, rows: Candidates) -> Selection:
    """What the policy keeps. Leaks go first, so that of near duplicates the one kept is one that may stay.

    Raises: ValueError when no training row is left.
    """
    selection = Selection.of(rows.keys, rows.shard)
    selection.drop("not_embedded", rows.row < 0, lambda i: "")
    train = rows.split == "train"
    if config.min_clip_score is not None:
        selection.drop("low_clip_score", ~(rows.score >= config.min_clip_score), lambda i: f"{rows.score[i]:.4f}")
    if config.max_leak_cosine is not None:
        drop_leaks(config.max_leak_cosine, rows, train, selection)
    if config.drop_shared_captions:
        drop_shared_captions(rows, train, selection)
    if config.max_duplicate_cosine is not None:
        drop_near_duplicates(config.max_duplicate_cosine, rows, train, selection)
    if config.keep_fraction is not None:
        drop_worst(config.keep_fraction, rows, train, selection)
    if not (selection.kept & train).any():
        raise ValueError(f"select keeps no training row; the steps: {selection.funnel}")
    return selection


def drop_leaks(max_cosine: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows whose image is nearer than `max_cosine` to a held-out one."""
    mine, held_out = np.flatnonzero(selection.kept & train), np.flatnonzero(selection.kept & ~train)
    best, cosine = np.zeros(len(rows.keys), np.int64), np.full(len(rows.keys), -2, np.float32)
    if len(mine) and len(held_out):
        found, cosine[mine] = nearest(rows.images(mine), rows.images(held_out))
        best[mine] = held_out[found]
    selection.drop("leak", cosine > max_cosine, lambda i: f"{cosine[i]:.4f} to {rows.keys[best[i]]}")


def drop_shared_captions(rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows with the caption of a held-out row, capitals and outer space apart."""
    captions = [caption.strip().casefold() for caption in rows.captions]
    held_out = {captions[i]: i for i in np.flatnonzero(selection.kept & ~train)}
    shared = np.array([caption in held_out for caption in captions], bool)
    selection.drop("shared_caption", shared & train, lambda i: f"of {rows.keys[held_out[captions[i]]]}")


def drop_near_duplicates(max_cosine: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Of training images joined by cosines of at least `max_cosine`, drop all but the first."""
    mine = np.flatnonzero(selection.kept & train)
    with raw_rows(rows.parts, rows.shard[mine], rows.row[mine], rows.work) as vectors:
        found = near_groups(vectors, max_cosine, seed=0)
    rows.near_duplicates = found.figures
    first = np.arange(len(rows.keys))
    first[mine] = mine[found.firsts]
    selection.drop("near_duplicate", first != np.arange(len(first)), lambda i: f"of {rows.keys[first[i]]}")


def drop_worst(fraction: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop all training rows but the share with the best CLIP scores; at equal scores the first stay."""
    mine = np.flatnonzero(selection.kept & train)
    order = mine[np.argsort(-rows.score[mine], kind="stable")]
    worst = np.zeros(len(rows.keys), bool)
    worst[order[max(1, round(fraction * len(mine))) :]] = True
    selection.drop("below_best", worst, lambda i: f"{rows.score[i]:.4f}")


def kept_table(rows: Candidates, selection: Selection) -> pa.Table:
    """key, shard, row (in that part), split of the rows kept, sorted by key."""
    kept = np.flatnonzero(selection.kept)
    columns = {
        "key": pa.array([rows.keys[i] for i in kept], pa.string()),
        "shard": pa.array(rows.shard[kept], pa.int32()),
        "row": pa.array(rows.row[kept], pa.int32()),
        "split": pa.array(rows.split[kept].tolist(), pa.string()),
    }
    return pa.table(columns).sort_by("key")
