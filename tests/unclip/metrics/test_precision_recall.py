import numpy as np
import pytest

from unclip.metrics.precision_recall import neighbour_radii, precision_recall


def cloud(seed: int, rows: int = 150, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


def by_loops(real: np.ndarray, generated: np.ndarray, k: int) -> float:
    radii = [np.sort(np.linalg.norm(real - row, axis=1))[k] for row in real]
    return float(
        np.mean([any(np.linalg.norm(g - r) <= d for r, d in zip(real, radii, strict=True)) for g in generated])
    )


def test_it_equals_the_definition_by_loops() -> None:
    real, generated = cloud(0, 60), cloud(1, 50) * 1.5
    found = precision_recall(real, generated)
    assert (found.precision, found.recall) == (by_loops(real, generated, 3), by_loops(generated, real, 3))


def test_a_set_against_itself_is_perfect() -> None:
    found = precision_recall(cloud(2), cloud(2))
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_sets_far_apart_share_nothing() -> None:
    found = precision_recall(cloud(3), cloud(3) + 100)
    assert (found.precision, found.recall) == (0.0, 0.0)


def test_a_collapsed_model_is_precise_and_recalls_nothing() -> None:
    real = cloud(4)
    found = precision_recall(real, np.repeat(real[:1], 10, axis=0) + 1e-3 * cloud(5, 10))
    assert found.precision == 1.0
    assert found.recall < 0.1


def test_swapping_the_sets_swaps_the_figures() -> None:
    one, two = precision_recall(cloud(6), cloud(7) * 2), precision_recall(cloud(7) * 2, cloud(6))
    assert (one.precision, one.recall) == (two.recall, two.precision)


def test_radii_do_not_depend_on_the_block() -> None:
    np.testing.assert_allclose(neighbour_radii(cloud(8), 3, block_rows=7), neighbour_radii(cloud(8), 3))


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="real must have >= 4 rows, got 3"):
        precision_recall(cloud(0, 3), cloud(1))
