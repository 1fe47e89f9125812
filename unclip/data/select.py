"""The rows that embeddings let through: CLIP score, aesthetics, leaks into held-out rows, near duplicates.

Leaks are searched for exactly. A step that is off costs nothing. N rows, D dimensions.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.config import SelectConfig
from unclip.data.dedup import TRAIN, Indices, keeper, number_of
from unclip.data.dense import SPLITS
from unclip.data.evaluation_set import EvaluationSet
from unclip.data.funnel import Step
from unclip.data.near_duplicates import near_groups, raw_rows
from unclip.data.selection import Mask, Selection
from unclip.data.table import Floats, check_agree, unit, vectors_of

BLOCK_ROWS = 2048


class Candidates:
    """The rows that the filter kept, joined to the table: `row` is -1 where a row was not embedded."""

    def __init__(
        self, parts: Sequence[Path], filtered: Path, *, aesthetic: Sequence[Path] = (), work: Path | None = None
    ) -> None:
        """parts: `part.parquet` in shard order; filtered: the filter's `kept.parquet`; aesthetic: a file a part.

        work: a folder for a while.

        Raises: as `check_agree`.
        """
        check_agree(parts)
        table = pq.read_table(filtered)
        self.parts, self.work = parts, work
        self.near_duplicates: dict[str, Any] = {}  # how they were searched for, once they were
        self.keys: pa.Array = table["key"].combine_chunks()
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.split = np.asarray(pc.index_in(table["split"], pa.array(SPLITS)).to_numpy(), np.int8)  # place in SPLITS
        self.num_pixels, self.sharpness = table["num_pixels"].to_numpy(), table["sharpness"].to_numpy()
        self.row = np.full(len(table), -1, np.int32)
        self.score = np.full(len(table), np.nan, np.float32)
        self.aesthetic = np.full(len(table), np.nan, np.float32)
        self.caption = np.zeros(len(table), np.uint64)  # of its digest
        self.rejected: dict[str, str] = {}  # why, by key
        for number, path in enumerate(parts):
            self._join(number, path, aesthetic[number] if aesthetic else None)

    def __len__(self) -> int:
        return len(self.keys)

    def _join(self, number: int, path: Path, aesthetic: Path | None) -> None:
        part = pq.read_table(path, columns=["key", "caption", "clip_score"])
        mine = np.flatnonzero(self.shard == number)
        place = pc.index_in(self.keys.take(pa.array(mine)), part["key"].combine_chunks())
        mine, row = mine[place.is_valid().to_numpy(zero_copy_only=False)], place.drop_null().to_numpy()
        self.row[mine], self.score[mine] = row, part["clip_score"].to_numpy()[row]
        self.caption[mine] = [number_of(plain(text)) for text in part["caption"].take(pa.array(row)).to_pylist()]
        if aesthetic is not None:
            self.aesthetic[mine] = pq.read_table(aesthetic)["aesthetic"].to_numpy()[row]
        rejects = path.with_name("rejects.parquet")
        if rejects.is_file():
            self.rejected |= {row["key"]: row["reason"] for row in pq.read_table(rejects).to_pylist()}

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.keys[row].as_py())

    def rank(self, keep: str) -> NDArray[np.float64]:
        """Of each row, how much it deserves to be the one of its duplicates that is kept; equal for "first"."""
        columns: dict[str, NDArray[Any]] = {
            "first": np.zeros(len(self)),
            "largest": self.num_pixels,
            "sharpest": self.num_pixels * self.sharpness.astype(np.float64),  # as the filter's
            "best_clip_score": self.score,
            "best_aesthetic": self.aesthetic,
        }
        return columns[keep].astype(np.float64)

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


def select_rows(
    config: SelectConfig, rows: Candidates, before: Iterable[Step] = (), evaluation: EvaluationSet | None = None
) -> Selection:
    """What the policy keeps. Leaks go first, so that of near duplicates the one kept is one that may stay.

    before: the funnel that led to the rows; evaluation: what training is kept apart from, besides the held-out rows.

    Raises: ValueError when no training row is left.
    """
    selection = Selection.of("select", rows.keys, rows.shard, before)
    selection.drop("not_embedded", rows.row < 0, lambda i: rows.rejected.get(rows.key(i), ""))
    train = rows.split == TRAIN
    if config.min_clip_score is not None:
        selection.drop("low_clip_score", ~(rows.score >= config.min_clip_score), lambda i: f"{rows.score[i]:.4f}")
    if config.min_aesthetic is not None:
        low = ~(rows.aesthetic >= config.min_aesthetic)
        selection.drop("low_aesthetic", low, lambda i: f"{rows.aesthetic[i]:.3f}")
    if config.max_leak_cosine is not None:
        drop_leaks(config.max_leak_cosine, rows, train, selection)
        if evaluation:
            drop_evaluation_leaks(config.max_leak_cosine, evaluation, rows, train, selection)
    if config.drop_shared_captions:
        drop_shared_captions(rows, train, selection)
        if evaluation:
            drop_evaluation_captions(evaluation, rows, train, selection)
    if config.max_duplicate_cosine is not None:
        drop_near_duplicates(config.max_duplicate_cosine, config.keep, rows, train, selection)
    if config.keep_fraction is not None:
        drop_worst(config.keep_fraction, rows, train, selection)
    if not (selection.kept & train).any():
        steps = ", ".join(f"{reason} {count}" for reason, count in selection.refused().items())
        raise ValueError(f"select keeps no training row; dropped: {steps or 'nothing, there were none'}")
    return selection


def drop_leaks(max_cosine: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows whose image is nearer than `max_cosine` to a held-out one."""
    held_out = np.flatnonzero(selection.kept & ~train)
    found, cosine = nearest_of_part(rows, selection.kept & train, rows.images(held_out))

    def near(i: int) -> str:
        return rows.key(held_out[found[i]])

    selection.drop("leak", cosine > max_cosine, lambda i: f"{cosine[i]:.4f} to {near(i)}", near)


def drop_evaluation_leaks(
    max_cosine: float, evaluation: EvaluationSet, rows: Candidates, train: Mask, selection: Selection
) -> None:
    """Drop training rows whose image is nearer than `max_cosine` to one of another evaluation set."""
    found, cosine = nearest_of_part(rows, selection.kept & train, evaluation.images)

    def detail(i: int) -> str:
        return f"{cosine[i]:.4f} to {evaluation.name(int(found[i]))}"

    selection.drop("evaluation_leak", cosine > max_cosine, detail, lambda i: evaluation.keys[found[i]])


def nearest_of_part(rows: Candidates, mine: Mask, others: Floats) -> tuple[Indices, Floats]:
    """Of each of my rows the nearest of the unit vectors (M, D) and its cosine, a part in memory at a time.

    0 and -2 for rows that are not mine, and where there are no others.
    """
    best, cosine = np.zeros(len(rows), np.int64), np.full(len(rows), -2, np.float32)
    for number in np.unique(rows.shard[mine]) if len(others) else ():
        some = np.flatnonzero(mine & (rows.shard == number))
        best[some], cosine[some] = nearest(rows.images(some), others)
    return best, cosine


def plain(caption: str) -> str:
    """A caption by which two are the same: capitals and outer space apart."""
    return caption.strip().casefold()


def drop_shared_captions(rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows with the caption of a held-out row, capitals and outer space apart."""
    held_out = np.flatnonzero(selection.kept & ~train)
    named = dict(zip(rows.caption[held_out].tolist(), held_out.tolist(), strict=True))
    shared = np.isin(rows.caption, rows.caption[held_out])

    def near(i: int) -> str:
        return rows.key(named[int(rows.caption[i])])

    selection.drop("shared_caption", shared & train, lambda i: f"of {near(i)}", near)


def drop_evaluation_captions(evaluation: EvaluationSet, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows with a caption of another evaluation set."""
    named = {number_of(plain(caption)): place for place, caption in enumerate(evaluation.captions)}
    shared = np.isin(rows.caption, np.array(list(named), np.uint64))

    def place(i: int) -> int:
        return named[int(rows.caption[i])]

    def detail(i: int) -> str:
        return f"of {evaluation.name(place(i))}"

    selection.drop("evaluation_caption", shared & train, detail, lambda i: evaluation.keys[place(i)])


def drop_near_duplicates(max_cosine: float, keep: str, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Of training images joined by cosines of at least `max_cosine`, drop all but the one that `keep` names."""
    mine = np.flatnonzero(selection.kept & train)
    with raw_rows(rows.parts, rows.shard[mine], rows.row[mine], rows.work) as vectors:
        found = near_groups(vectors, max_cosine, seed=0)
    rows.near_duplicates = found.figures
    best = np.arange(len(rows))
    best[mine] = mine[keeper(found.firsts, rows.rank(keep)[mine])]

    def near(i: int) -> str:
        return rows.key(best[i])

    selection.drop("near_duplicate", best != np.arange(len(best)), lambda i: f"of {near(i)}", near)


def drop_worst(fraction: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop all training rows but the share with the best CLIP scores; at equal scores the first stay."""
    mine = np.flatnonzero(selection.kept & train)
    order = mine[np.argsort(-rows.score[mine], kind="stable")]
    worst = np.zeros(len(rows), bool)
    worst[order[max(1, round(fraction * len(mine))) :]] = True
    selection.drop("below_best", worst, lambda i: f"{rows.score[i]:.4f}")


def kept_table(rows: Candidates, selection: Selection) -> pa.Table:
    """key, shard, row (in that part), split of the rows kept, sorted by key."""
    kept = np.flatnonzero(selection.kept)
    columns = {
        "key": rows.keys.take(pa.array(kept)),
        "shard": pa.array(rows.shard[kept], pa.int32()),
        "row": pa.array(rows.row[kept], pa.int32()),
        "split": pa.array(SPLITS).take(pa.array(rows.split[kept])),
    }
    return pa.table(columns).sort_by("key")
