"""Training rows that are too near to a held-out one: exact where pairs are few, else inside the cells of clusterings.

N rows, D dimensions. In memory are the rows that are too near, and of the others a few bytes each.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unclip.data.groups import Groups, Indices, Mask, equal_rows
from unclip.data.near_duplicates import COMPARED_ROWS, NUM_CLUSTERINGS, NUM_PROBES, Draw, cells
from unclip.data.raw_rows import RawRows
from unclip.data.scratch import places
from unclip.data.table import Floats

Blocks = Callable[[], Iterator[tuple[Indices, Floats]]]  # rows and their unit vectors (N, D), read anew each time
EXACT_PAIRS = 10**10  # of a training and a held-out row: two minutes of two cores at 768 dimensions


@dataclass(frozen=True)
class Near:
    """Training rows, of each a held-out row that it is too near to, and their cosine."""

    rows: Indices
    held_out: Indices
    cosine: Floats


@dataclass(frozen=True)
class Leaks:
    """The training rows, ascending, that are too near to a held-out one, each with the nearest that was found."""

    found: Near
    figures: dict[str, Any]  # how they were looked for


def find_leaks(
    rows: RawRows,
    held_out: Mask,
    max_cosine: float,
    seed: int,
    *,
    exact_pairs: int = EXACT_PAIRS,
    work: Path | None = None,
) -> Leaks:
    """The training rows whose cosine to a held-out one is above `max_cosine`.

    Above `exact_pairs` pairs of a training and a held-out row, they are looked for inside the cells of NUM_CLUSTERINGS
    clusterings; the recall is then the share of the rows near NUM_PROBES held-out ones, by exact search, that were
    found. held_out: (N,), of the others each is a training row; work: a folder for a while.
    """
    training, others = places(~held_out, work), places(held_out, work)

    def leaking(some: Indices) -> Near:
        return best(between(partial(taken_of, rows, training), partial(taken_of, rows, some), max_cosine))

    pairs = len(training) * len(others)
    told = f"{len(training)} training rows x {len(others)} held out"
    if pairs <= exact_pairs:
        return Leaks(
            leaking(others), {"search": "exact", "reason": f"{told}, at most {exact_pairs}", "leak_recall": 1.0}
        )
    drawn = Draw(rows.digests(work))
    found = in_cells(rows, drawn, held_out, max_cosine, seed, work)
    true = leaking(np.sort(drawn.of(others, NUM_PROBES, seed))).rows
    recall = float(np.isin(true, found.rows).mean()) if len(true) else None
    figures = {"search": "clustered", "reason": f"{told}, more than {exact_pairs}", "leak_recall": recall}
    return Leaks(found, figures | {"leaks_checked": len(true)})


def between(mine: Blocks, others: Blocks, max_cosine: float) -> Iterator[Near]:
    """Of my rows those that are nearer than `max_cosine` to one of the others, a block of each in memory."""
    for block, vectors in mine():
        for theirs, their_vectors in others():
            yield nearer(block, vectors, theirs, their_vectors, max_cosine)


def taken_of(rows: RawRows, chosen: Indices) -> Iterator[tuple[Indices, Floats]]:
    """Some rows and their vectors, a block at a time."""
    for start in range(0, len(chosen), COMPARED_ROWS):
        block = chosen[start : start + COMPARED_ROWS]
        yield block, rows.unit(block)


def sliced(vectors: Floats) -> Iterator[tuple[Indices, Floats]]:
    """The rows of an array (N, D), a block at a time."""
    for start in range(0, len(vectors), COMPARED_ROWS):
        block = vectors[start : start + COMPARED_ROWS]
        yield np.arange(start, start + len(block)), block


def nearer(mine: Indices, vectors: Floats, others: Indices, their_vectors: Floats, max_cosine: float) -> Near:
    """Of my rows those that are nearer than `max_cosine` to one of the others, whose unit vectors (N, D) these are."""
    cosines = vectors @ their_vectors.T
    nearest = cosines.argmax(axis=1)
    cosine = cosines[np.arange(len(mine)), nearest]
    near = cosine > max_cosine
    return Near(mine[near], others[nearest[near]], cosine[near])


def best(some: Iterable[Near]) -> Near:
    """Of each row that is in some of them, ascending, the nearest."""
    none = Near(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    parts = [none, *(near for near in some if len(near.rows))]
    rows, held_out = np.concatenate([p.rows for p in parts]), np.concatenate([p.held_out for p in parts])
    cosine = np.concatenate([p.cosine for p in parts])
    order = np.lexsort((held_out, -cosine, rows))
    first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
    return Near(rows[first], held_out[first], cosine[first])


def in_cells(rows: RawRows, drawn: Draw, held_out: Mask, max_cosine: float, seed: int, work: Path | None) -> Near:
    """The leaks inside the cells of clusterings of the different vectors; of equal ones the first stands for all."""
    equal = Groups.of(equal_rows(drawn.digests, work=work))
    first, held = np.ones(len(rows), bool), held_out.copy()
    first[equal.pairs[:, 1]] = False
    held[equal.firsts[held_out[equal.rows]]] = True
    members, found = places(first, work), list[Near]()
    for clustering in range(NUM_CLUSTERINGS):
        for cell in cells(rows, drawn, members, np.random.default_rng([seed, clustering])):
            mine, theirs = cell[~held[cell]], cell[held[cell]]
            if len(mine) and len(theirs):
                found.append(nearer(mine, rows.unit(mine), theirs, rows.unit(theirs), max_cosine))
    return of_equals(best(found), equal, held_out, max_cosine)


def of_equals(found: Near, equal: Groups, held_out: Mask, max_cosine: float) -> Near:
    """The leaks of the first of equal rows, and those of the rows that it stood for; what is named is held out."""
    theirs, mine = held_out[equal.rows], ~held_out[equal.rows]
    firsts, place = np.unique(equal.firsts[theirs], return_index=True)
    named = Groups(firsts, equal.rows[theirs][place])  # of the first of equal rows, the first that is held out
    some = [Near(found.rows, named.first_of(found.held_out), found.cosine)]
    rows, stood_for = equal.rows[mine], equal.firsts[mine]
    same, _ = named.where(stood_for)
    if max_cosine < 1:
        some.append(Near(rows[same], named.first_of(stood_for[same]), np.ones(int(same.sum()), np.float32)))
    near, place = Groups(found.rows, found.rows).where(stood_for)
    some.append(Near(rows[near], some[0].held_out[place[near]], found.cosine[place[near]]))
    return best(some)
