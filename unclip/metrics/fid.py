"""Fréchet distance between two sets of features, each taken for a normal distribution (Heusel et al. 2017)."""

import numpy as np

from unclip.metrics.features import Features, Matrix, as_pair


def frechet_distance(real: Features, generated: Features) -> float:
    """Squared Fréchet distance of two sets of features, (N, D) and (M, D), N and M >= 2.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). With S = F^T F the last trace is the sum of the singular values of
    F1 F2^T: no matrix square root, so nothing goes complex or negative where there are fewer rows than dimensions.
    """
    one, two = as_pair(real, generated, ("real", "generated"), min_rows=2)
    shift = one.mean(axis=0) - two.mean(axis=0)
    factor_one, factor_two = covariance_factor(one), covariance_factor(two)
    cross = np.linalg.svd(factor_one @ factor_two.T, compute_uv=False).sum()
    spread = np.square(factor_one).sum() + np.square(factor_two).sum() - 2 * cross
    return float(np.square(shift).sum() + max(spread, 0.0))


def covariance_factor(features: Matrix) -> Matrix:
    """F with F^T F the unbiased covariance of (N, D) features; F is (min(N, D), D)."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"), dtype=np.float64)
