import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.metrics.fid import frechet_distance


def features(seed: int, rows: int = 200, dim: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def by_square_root(one: np.ndarray, two: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(np.cov(one, rowvar=False) @ np.cov(two, rowvar=False))
    spread = np.trace(np.cov(one, rowvar=False) + np.cov(two, rowvar=False) - 2 * root.real)
    return float(np.square(one.mean(0) - two.mean(0)).sum() + spread)


def test_it_equals_the_formula_with_a_matrix_square_root() -> None:
    one, two = features(0), features(1, rows=300)
    assert frechet_distance(one, two) == pytest.approx(by_square_root(one, two), rel=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), dim=st.integers(1, 24))
def test_a_set_is_at_no_distance_from_itself(seed: int, rows: int, dim: int) -> None:
    one = features(seed, rows, dim)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9 * np.square(one).sum())


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), dim=st.integers(1, 24))
def test_it_is_symmetric_with_fewer_rows_than_dimensions(seed: int, rows: int, dim: int) -> None:
    one, two = features(seed, rows, dim), features(seed + 1, rows + 1, dim)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), rel=1e-9)


def test_a_shift_adds_its_squared_length() -> None:
    one = features(2)
    shift = np.full(one.shape[1], 0.5)
    assert frechet_distance(one, one + shift) == pytest.approx(np.square(shift).sum(), rel=1e-9)


def test_float32_features_are_measured_in_float64() -> None:
    one = (1000 + features(3)).astype(np.float32)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-8)


def test_one_row_has_no_covariance() -> None:
    with pytest.raises(ValueError, match=r"generated must have >= 2 rows, got 1"):
        frechet_distance(features(0), features(1, rows=1))


def test_a_value_that_is_not_finite_is_refused() -> None:
    broken = features(0)
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="real must be finite, got 1 rows"):
        frechet_distance(broken, features(1))
