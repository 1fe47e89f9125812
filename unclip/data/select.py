"""The rows that embeddings let through: CLIP score, aesthetics, leaks into held-out rows, near duplicates.

A step that is off costs nothing. N rows, D dimensions.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unclip.data.candidates import Candidates, plain
from unclip.data.config import SelectConfig
from unclip.data.dedup import TRAIN, keeper, number_of
from unclip.data.dense import SPLITS
from unclip.data.evaluation_set import EvaluationSet
from unclip.data.funnel import Step
from unclip.data.groups import Groups, Mask
from unclip.data.leaks import Near, best, between, find_leaks, sliced, taken_of
from unclip.data.near_duplicates import near_groups
from unclip.data.scratch import blocks, places
from unclip.data.selection import Selection

KEPT_SCHEMA = pa.schema({"key": pa.string(), "shard": pa.int32(), "row": pa.int32(), "split": pa.string()})


def select_rows(
    config: SelectConfig, rows: Candidates, before: Iterable[Step] = (), evaluation: EvaluationSet | None = None
) -> Selection:
    """What the policy keeps. Leaks go first, so that of near duplicates the one kept is one that may stay.

    before: the funnel that led to the rows; evaluation: what training is kept apart from, besides the held-out rows.

    Raises: ValueError when no training row is left.
    """
    selection = Selection.of("select", rows.keys, rows.shard, before, rows.work)
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
    mine = places(selection.kept, rows.work)
    with rows.vectors(mine) as vectors:
        leaks = find_leaks(vectors, ~train[selection.kept], max_cosine, seed=0, work=rows.work)
    rows.figures["leaks"] = leaks.figures
    found = replace(leaks.found, rows=mine[leaks.found.rows], held_out=mine[leaks.found.held_out])
    drop_near("leak", found, selection, rows.key, rows.key)


def drop_evaluation_leaks(
    max_cosine: float, evaluation: EvaluationSet, rows: Candidates, train: Mask, selection: Selection
) -> None:
    """Drop training rows whose image is nearer than `max_cosine` to one of another evaluation set."""
    mine = places(selection.kept & train, rows.work)
    with rows.vectors(mine) as vectors:
        mine_of, theirs = partial(taken_of, vectors, np.arange(len(mine))), partial(sliced, evaluation.images)
        found = best(between(mine_of, theirs, max_cosine))
    keys = evaluation.keys
    drop_near("evaluation_leak", replace(found, rows=mine[found.rows]), selection, evaluation.name, lambda i: keys[i])


def drop_near(
    reason: str, found: Near, selection: Selection, name: Callable[[int], str], key: Callable[[int], str]
) -> None:
    """Drop rows that are too near to others, of which `name` says what a person reads and `key` the key."""
    bad = np.zeros(len(selection.keys), bool)
    bad[found.rows] = True

    def other(i: int) -> int:
        return int(found.held_out[bisect_left(found.rows, i)])

    def detail(i: int) -> str:
        return f"{found.cosine[bisect_left(found.rows, i)]:.4f} to {name(other(i))}"

    selection.drop(reason, bad, detail, lambda i: key(other(i)))


def drop_shared_captions(rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows with the caption of a held-out row, capitals and outer space apart."""
    held_out = np.flatnonzero(selection.kept & ~train)
    captions, first = np.unique(rows.caption[held_out], return_index=True)
    named = held_out[first]

    def near(i: int) -> str:
        return rows.key(int(named[bisect_left(captions, rows.caption[i])]))

    selection.drop("shared_caption", among(rows.caption, captions) & train, lambda i: f"of {near(i)}", near)


def drop_evaluation_captions(evaluation: EvaluationSet, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop training rows with a caption of another evaluation set."""
    named = {number_of(plain(caption)): place for place, caption in enumerate(evaluation.captions)}

    def place(i: int) -> int:
        return named[int(rows.caption[i])]

    def detail(i: int) -> str:
        return f"of {evaluation.name(place(i))}"

    shared = among(rows.caption, np.array(list(named), np.uint64))
    selection.drop("evaluation_caption", shared & train, detail, lambda i: evaluation.keys[place(i)])


def among(values: NDArray[np.uint64], some: NDArray[np.uint64]) -> Mask:
    """Of each value, whether it is one of some."""
    found = np.empty(len(values), bool)
    for block in blocks(len(values)):
        found[block] = np.isin(values[block], some)
    return found


def drop_near_duplicates(max_cosine: float, keep: str, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Of training images joined by cosines of at least `max_cosine`, drop all but the one that `keep` names."""
    mine = places(selection.kept & train, rows.work)
    with rows.vectors(mine) as vectors:
        found = near_groups(vectors, max_cosine, seed=0, work=rows.work)
    rows.figures["near_duplicates"] = found.figures
    groups = Groups(mine[found.groups.rows], mine[found.groups.firsts])
    selection.drop_others("near_duplicate", groups, keeper(groups, rows.rank(keep, groups.rows)))


def drop_worst(fraction: float, rows: Candidates, train: Mask, selection: Selection) -> None:
    """Drop all training rows but the share with the best CLIP scores; at equal scores the first stay."""
    mine = selection.kept & train
    scores = rows.score[mine]
    rank = len(scores) - max(1, round(fraction * len(scores)))
    scores.partition(rank)
    least, worst = scores[rank], mine & (rows.score < scores[rank])
    equal = np.flatnonzero(mine & (rows.score == least))
    worst[equal[int((scores[rank:] == least).sum()) :]] = True
    selection.drop("below_best", worst, lambda i: f"{rows.score[i]:.4f}")


def kept_tables(rows: Candidates, selection: Selection) -> Iterator[pa.Table]:
    """key, shard, row (in that part), split of the rows kept, in tables of KEPT_SCHEMA."""
    for block in blocks(len(rows)):
        kept = block.start + np.flatnonzero(selection.kept[block])
        columns = {
            "key": rows.keys.take(pa.array(kept)),
            "shard": pa.array(rows.shard[kept]),
            "row": pa.array(rows.row[kept]),
            "split": pa.array(SPLITS).take(pa.array(rows.split[kept])),
        }
        yield pa.table(columns).cast(KEPT_SCHEMA)
