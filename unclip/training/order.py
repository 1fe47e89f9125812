"""Which rows a step reads: a function of the seed and the step, so that a data position is just the step."""

from functools import lru_cache

import numpy as np

from unclip.training.job import Indices
from unclip.training.seeds import step_seed


def batch_indices(seed: int, step: int, batch_size: int, num_rows: int) -> Indices:
    """The row numbers of step `step`: (batch_size,) int64.

    Steps read one permutation of all rows after the other, each shuffled anew; a batch may span two of them.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, num_rows)
    rows = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = epoch_permutation(seed, int(epoch), num_rows)[places[chosen]]
    return rows


@lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, num_rows: int) -> Indices:
    """All row numbers in the order of an epoch."""
    return np.random.default_rng(step_seed(seed, epoch, "order")).permutation(num_rows)
