"""Batches that a CLIP cannot solve by colour alone: part of each is groups of pictures of the same colours."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unclip.training.job import Indices

HARD_FRACTION = 0.5  # of a batch; without it CLIP finds captions by colour and shapes stay at chance
GROUP = 8  # pictures of the same colours


class HardBatches:
    """Row numbers to the rows trained on: where pictures have objects, half a batch is swapped for hard groups."""

    def __init__(self, metas: Sequence[Mapping[str, Any]]) -> None:
        """metas: of every training row; rows without objects that name colours are left as they are."""
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, meta in enumerate(metas):
            colors = tuple(sorted(thing["color"] for thing in meta.get("objects", ()) if "color" in thing))
            if colors:
                groups[colors].append(row)
        self._group_of: dict[int, Indices] = {}
        for members in groups.values():
            array = np.asarray(members, np.int64)
            self._group_of |= dict.fromkeys(members, array)

    def rows(self, indices: Indices) -> Indices:
        """The rows to train on in place of these: as many, and a function of `indices` alone."""
        chosen = indices.copy()
        rng = np.random.default_rng(indices.astype(np.uint64))
        for start in range(0, int(len(indices) * HARD_FRACTION), GROUP):
            group = self._group_of.get(int(indices[start]))
            if group is not None:
                size = min(GROUP, len(group), len(indices) - start)
                chosen[start : start + size] = rng.choice(group, size, replace=False)
        return chosen
