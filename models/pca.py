"""Principal components of image embeddings, and the buckets their coefficients are quantised into (§2.2).

N rows, D embedding dimension, K components, Q buckets.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D) of rows, in float64; two halves merge to the whole (Chan et al. 1979)."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """The moments of rows (N, D)."""
        rows = rows.double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows together."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), scatter)

    def covariance(self) -> Tensor:
        """The population covariance (D, D)."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / self.count


class Pca(nn.Module):
    """A basis of embedding space ordered by eigenvalue, with bucket edges for each coefficient.

    Buckets hold equal numbers of the rows they were fitted on (quantile edges: the paper does not say), and a
    bucket stands for its median.
    """

    mean: Tensor  # (D,)
    components: Tensor  # (K, D), orthonormal rows
    eigenvalues: Tensor  # (D,), falling; all of them, for the reconstruction error
    edges: Tensor  # (K, Q - 1), rising
    levels: Tensor  # (K, Q)

    def __init__(self, embed_dim: int, num_components: int, num_buckets: int) -> None:
        super().__init__()
        if not 1 <= num_components <= embed_dim:
            raise ValueError(f"pca.num_components must be 1..{embed_dim}, got {num_components}")
        if num_buckets < 2:
            raise ValueError(f"pca.num_buckets must be >= 2, got {num_buckets}")
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("components", torch.zeros(num_components, embed_dim))
        self.register_buffer("eigenvalues", torch.zeros(embed_dim))
        self.register_buffer("edges", torch.zeros(num_components, num_buckets - 1))
        self.register_buffer("levels", torch.zeros(num_components, num_buckets))

    @property
    def num_components(self) -> int:
        """K."""
        return self.levels.shape[0]

    @property
    def num_buckets(self) -> int:
        """Q."""
        return self.levels.shape[1]

    def encode(self, embeddings: Tensor) -> Tensor:
        """Coefficients (B, K) of embeddings (B, D)."""
        with full_precision(embeddings):
            return (embeddings.float() - self.mean) @ self.components.T

    def decode(self, coefficients: Tensor) -> Tensor:
        """The embeddings (B, D) of coefficients (B, k <= K); the components left out stay at the mean."""
        with full_precision(coefficients):
            return coefficients.float() @ self.components[: coefficients.shape[1]] + self.mean

    def quantise(self, coefficients: Tensor) -> Tensor:
        """The bucket (B, K) int64, 0..Q-1, that each coefficient falls in."""
        columns = coefficients.T.contiguous().to(self.edges.dtype)  # (K, B)
        return torch.searchsorted(self.edges, columns).T

    def dequantise(self, codes: Tensor) -> Tensor:
        """The coefficients (B, K) that buckets (B, K) stand for."""
        return self.levels.gather(1, codes.T).T

    @torch.no_grad()
    def fit_buckets(self, rows: Tensor) -> None:
        """Set edges and levels from the quantiles of embeddings (N, D)."""
        coefficients = self.encode(rows.to(self.components.dtype))
        share = torch.arange(1, 2 * self.num_buckets, device=rows.device) / (2 * self.num_buckets)
        values = quantiles(coefficients, share).T.contiguous()  # (K, 2Q - 1)
        self.levels.copy_(values[:, 0::2])
        self.edges.copy_(values[:, 1::2])


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """No autocast inside: what is fitted in float64 is not to be read in bf16."""
    return torch.autocast(like.device.type, enabled=False)


def quantiles(rows: Tensor, shares: Tensor) -> Tensor:
    """The values (S, K) below which `shares` (S,) of each column of rows (N, K) lie, interpolated linearly."""
    ordered = rows.sort(0).values
    place = shares.to(torch.float64) * (len(rows) - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(rows) - 1)
    return ordered[low].lerp(ordered[high], (place - low).to(rows.dtype)[:, None])


def fit_pca(moments: Moments, num_components: int | None, keep_fraction: float, num_buckets: int) -> Pca:
    """The principal components of rows with these moments; buckets still to be fitted.

    num_components: None keeps the fewest whose eigenvalues add up to `keep_fraction` of the variance (§2.2: 99 %).
    Each component's largest entry is positive, so that the same rows give the same basis.
    """
    values, vectors = torch.linalg.eigh(moments.covariance())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    if num_components is None:
        kept = values.cumsum(0) / values.sum().clamp(min=1e-30)
        num_components = min(int((kept < keep_fraction).sum()) + 1, len(values))
    pca = Pca(len(values), num_components, num_buckets)
    pca.mean.copy_(moments.mean)
    pca.components.copy_(vectors[:num_components])
    pca.eigenvalues.copy_(values)
    return pca


def reconstruction_error(eigenvalues: Tensor) -> list[float]:
    """The share of variance lost with 1, 2, ... D components."""
    lost = eigenvalues.double().flip(0).cumsum(0).flip(0)
    return (torch.cat([lost[1:], lost.new_zeros(1)]) / lost[0].clamp(min=1e-30)).tolist()
