"""How far apart the members of a set of embeddings are: low where a model says the same to everything."""

import numpy as np
from numpy.typing import NDArray

from unclip.metrics.features import Features, as_matrix, normalise


def diversity(features: Features) -> float:
    """Mean of 1 - cosine over all pairs of different rows of (N, D), N >= 2; 0 where all point one way."""
    unit = normalise(as_matrix(features, "features", min_rows=2), "features")
    num_rows = len(unit)
    total = np.square(unit.sum(axis=0)).sum() - num_rows
    return float(1 - total / (num_rows * (num_rows - 1)))


def diversity_within(draws: NDArray[np.floating]) -> float:
    """Mean over captions of the diversity of their draws, (N, K, D), K >= 2; 0 for a model without chance in it."""
    if draws.ndim != 3 or not len(draws):
        raise ValueError(f"draws must have shape (N, K, D) with N >= 1, got {draws.shape}")
    return float(np.mean([diversity(rows) for rows in draws]))
