import numpy as np
import pytest

from unclip.metrics.diversity import diversity, diversity_within


def test_it_equals_the_mean_over_all_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [1 - unit[i] @ unit[j] for i in range(12) for j in range(12) if i != j]
    assert diversity(rows) == pytest.approx(np.mean(pairs))


def test_one_answer_to_everything_has_none() -> None:
    assert diversity(np.ones((7, 3))) == pytest.approx(0.0, abs=1e-12)


def test_opposite_answers_have_the_most() -> None:
    assert diversity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(2.0)


def test_within_captions_ignores_how_captions_differ() -> None:
    draws = np.repeat(np.eye(4)[:, None], 3, axis=1)
    assert diversity_within(draws) == pytest.approx(0.0, abs=1e-12)


def test_draws_need_three_axes() -> None:
    with pytest.raises(ValueError, match=r"draws must have shape \(N, K, D\)"):
        diversity_within(np.eye(4))
