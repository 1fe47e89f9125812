import numpy as np
import pytest

from unclip.metrics.retrieval import retrieval_figures, retrieval_ranks


def points(seed: int, rows: int = 40, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim))


def test_a_perfect_prediction_ranks_first_whatever_its_length() -> None:
    truth = points(0)
    np.testing.assert_array_equal(retrieval_ranks(truth * 3.0, truth), 1.0)


def test_the_opposite_prediction_ranks_last() -> None:
    truth = np.eye(5) + 0.1
    np.testing.assert_array_equal(retrieval_ranks(-truth, truth), 5.0)


def test_a_truth_that_says_nothing_ranks_in_the_middle() -> None:
    truth = np.ones((9, 4))
    np.testing.assert_array_equal(retrieval_ranks(points(1, 9, 4), truth), 5.0)


def test_a_chance_prediction_finds_its_truth_as_often_as_chance() -> None:
    figures = retrieval_figures(points(2, 2000), points(3, 2000), at=(200,))
    assert figures["recall_at_200"] == pytest.approx(0.1, abs=0.03)
    assert figures["median_rank"] == pytest.approx(1000, rel=0.1)


def test_rows_shifted_by_one_are_seen() -> None:
    figures = retrieval_figures(np.roll(np.eye(6), 1, axis=0), np.eye(6))
    assert figures["recall_at_1"] == 0.0


def test_a_zero_row_is_refused() -> None:
    with pytest.raises(ValueError, match="predicted must have no zero row, got 6"):
        retrieval_ranks(np.zeros((6, 6)), np.eye(6))
