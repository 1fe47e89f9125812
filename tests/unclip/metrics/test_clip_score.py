import numpy as np
import pytest

from unclip.metrics.clip_score import clip_score


def test_it_is_the_mean_cosine_whatever_the_lengths() -> None:
    image, text = np.array([[2.0, 0.0], [0.0, 5.0]]), np.array([[1.0, 0.0], [3.0, 0.0]])
    assert clip_score(image, text) == pytest.approx(0.5)


def test_a_negative_cosine_counts() -> None:
    assert clip_score(np.eye(3), -np.eye(3)) == pytest.approx(-1.0)


def test_rows_must_belong_together() -> None:
    with pytest.raises(ValueError, match="predicted has 3 rows, truth has 2"):
        clip_score(np.eye(3), np.eye(3)[:2])
