"""Improved precision and recall (Kynkäänniemi et al. 2019): the share of each set inside the other's manifold."""

from dataclasses import dataclass

import numpy as np

from unclip.metrics.features import Features, Matrix, as_pair

BLOCK_ROWS = 2_048  # rows of distances held at once


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Share of generated features that could be real, and of real ones that could be generated; both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(real: Features, generated: Features, num_neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall of generated (M, D) against real (N, D) features; 3 neighbours as in the paper's §3.

    Raises:
        ValueError: a set has no more rows than neighbours are asked for.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be >= 1, got {num_neighbours}")
    one, two = as_pair(real, generated, ("real", "generated"), min_rows=num_neighbours + 1)
    return PrecisionRecall(
        precision=inside_fraction(two, one, neighbour_radii(one, num_neighbours)),
        recall=inside_fraction(one, two, neighbour_radii(two, num_neighbours)),
    )


def neighbour_radii(features: Matrix, num_neighbours: int, block_rows: int = BLOCK_ROWS) -> Matrix:
    """Squared distance of each row to its k-th nearest other row; (N,)."""
    radii = np.empty(len(features))
    for start in range(0, len(features), block_rows):
        block = squared_distances(features[start : start + block_rows], features)
        own = np.arange(len(block))
        block[own, start + own] = np.inf
        radii[start : start + len(block)] = np.partition(block, num_neighbours - 1, axis=1)[:, num_neighbours - 1]
    return radii


def inside_fraction(points: Matrix, centres: Matrix, radii: Matrix) -> float:
    """Share of points that lie within some centre's radius (squared), the border included."""
    num_inside = 0
    for start in range(0, len(points), BLOCK_ROWS):
        block = squared_distances(points[start : start + BLOCK_ROWS], centres)
        num_inside += int((block <= radii[None, :]).any(axis=1).sum())
    return num_inside / len(points)


def squared_distances(one: Matrix, two: Matrix) -> Matrix:
    """Squared Euclidean distances, (N, M), never below zero."""
    squares = np.square(one).sum(axis=1)[:, None] + np.square(two).sum(axis=1)[None, :] - 2 * one @ two.T
    distances: Matrix = np.maximum(squares, 0.0)
    return distances
