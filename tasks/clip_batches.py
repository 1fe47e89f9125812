"""Batches that a CLIP cannot solve by colour alone: part of each is groups of pictures that are alike."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unclip.training.job import Indices

HARD_FRACTION = 0.6  # of a batch; without it CLIP finds captions by colour and shapes stay at chance
GROUP = 8  # pictures of a group
Groups = dict[int, Indices]  # the rows that are like a row, itself among them


class HardBatches:
    """Row numbers to the rows trained on: where pictures have objects, part of a batch is swapped for hard groups.

    Groups of the same colours make CLIP look at shapes. Every other group, where the picture shows two objects, has the
    same shapes too, and so differs in which object has which colour.
    """

    def __init__(self, metas: Sequence[Mapping[str, Any]]) -> None:
        """metas: of every training row; rows without objects that name colours are left as they are."""
        colors = [tuple(sorted(t["color"] for t in meta.get("objects", ()) if "color" in t)) for meta in metas]
        shapes = [tuple(sorted(t.get("shape", "") for t in meta.get("objects", ()))) for meta in metas]
        self._same_colors = _groups(colors)
        self._same_kinds = _groups([(*c, *s) if len(c) > 1 else c for c, s in zip(colors, shapes, strict=True)])

    def rows(self, indices: Indices) -> Indices:
        """The rows to train on in place of these: as many, and a function of `indices` alone."""
        chosen = indices.copy()
        rng = np.random.default_rng(indices.astype(np.uint64))
        for number, start in enumerate(range(0, int(len(indices) * HARD_FRACTION), GROUP)):
            group = (self._same_kinds if number % 2 else self._same_colors).get(int(indices[start]))
            if group is not None:
                size = min(GROUP, len(group), len(indices) - start)
                chosen[start : start + size] = rng.choice(group, size, replace=False)
        return chosen


def _groups(names: Sequence[tuple[str, ...]]) -> Groups:
    """The rows of each name, for every row that has one."""
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name:
            members[name].append(row)
    groups: Groups = {}
    for rows in members.values():
        groups |= dict.fromkeys(rows, np.asarray(rows, np.int64))
    return groups
