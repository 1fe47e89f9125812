"""What every figure asks of its features: finite (N, D) in float64, on the sphere where cosines are meant."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Features = NDArray[np.floating]


def as_matrix(features: Features, name: str, min_rows: int = 1) -> Matrix:
    """The features as finite float64 (N, D).

    Raises:
        ValueError: not two-dimensional, fewer than `min_rows` rows, or a value that is not finite.
    """
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {matrix.shape}")
    if len(matrix) < min_rows:
        raise ValueError(f"{name} must have >= {min_rows} rows, got {len(matrix)}")
    if not np.isfinite(matrix).all():
        raise ValueError(
            f"{name} must be finite, got {int((~np.isfinite(matrix)).any(axis=1).sum())} rows that are not"
        )
    return matrix


def as_pair(first: Features, second: Features, names: tuple[str, str], min_rows: int = 1) -> tuple[Matrix, Matrix]:
    """Two sets of features of one dimension, as float64.

    Raises:
        ValueError: as `as_matrix`, or the dimensions differ.
    """
    one, two = as_matrix(first, names[0], min_rows), as_matrix(second, names[1], min_rows)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"{names[0]} has dimension {one.shape[1]}, {names[1]} has {two.shape[1]}")
    return one, two


def as_rows(first: Features, second: Features, names: tuple[str, str]) -> tuple[Matrix, Matrix]:
    """Two sets of features whose rows belong together, as float64 unit vectors.

    Raises:
        ValueError: as `as_pair`, or the numbers of rows differ, or a row is zero.
    """
    one, two = as_pair(first, second, names)
    if len(one) != len(two):
        raise ValueError(f"{names[0]} has {len(one)} rows, {names[1]} has {len(two)}")
    return normalise(one, names[0]), normalise(two, names[1])


def normalise(matrix: Matrix, name: str) -> Matrix:
    """Each row divided by its length.

    Raises:
        ValueError: a row is zero.
    """
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if (norms == 0).any():
        raise ValueError(f"{name} must have no zero row, got {int((norms == 0).sum())}")
    unit: Matrix = matrix / norms
    return unit
