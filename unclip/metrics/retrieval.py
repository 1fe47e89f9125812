"""Where the true embedding stands among the held-out ones, by likeness to the prediction."""

from collections.abc import Sequence

import numpy as np

from unclip.metrics.features import Features, Matrix, as_rows


def retrieval_ranks(predicted: Features, truth: Features) -> Matrix:
    """Rank (1 is best) of row i's truth among all N truths by cosine with prediction i; (N,).

    Ties share the middle of their places: a prediction that says nothing ranks (N + 1) / 2, not first.
    """
    one, two = as_rows(predicted, truth, ("predicted", "truth"))
    likeness = one @ two.T  # (N, N)
    own = np.diagonal(likeness)[:, None]
    same = np.isclose(likeness, own, rtol=0.0, atol=1e-12)
    ranks: Matrix = 1 + ((likeness > own) & ~same).sum(axis=1) + (same.sum(axis=1) - 1) / 2
    return ranks


def retrieval_figures(predicted: Features, truth: Features, at: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Median rank, and for each k the share of rows whose truth ranks k or better (`recall_at_k`)."""
    ranks = retrieval_ranks(predicted, truth)
    recall = {f"recall_at_{k}": float((ranks <= k).mean()) for k in at}
    return {"median_rank": float(np.median(ranks)), **recall}
