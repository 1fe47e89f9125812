"""Ridge regression from text embedding to image embedding: the baseline every prior must beat."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pca import Moments, full_precision


class LinearPrior(nn.Module):
    """zi = normalise(zt W + b), in closed form."""

    weight: Tensor  # (D, D)
    bias: Tensor  # (D,)

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(embed_dim, embed_dim))
        self.register_buffer("bias", torch.zeros(embed_dim))

    @classmethod
    def fit(cls, zt: Tensor, zi: Tensor, ridge: float) -> Self:
        """The prior fitted to unit embeddings zt, zi (N, D)."""
        return cls.from_moments(Moments.of(torch.cat([zt, zi], dim=1)), ridge)

    @classmethod
    def from_moments(cls, joint: Moments, ridge: float) -> Self:
        """The prior of rows [zt, zi] (N, 2D) with these moments.

        ridge is relative to the mean variance of zt's dimensions, so that it does not depend on N or D.
        """
        if ridge < 0:
            raise ValueError(f"prior_linear.ridge must be >= 0, got {ridge}")
        dim = len(joint.mean) // 2
        covariance = joint.covariance()
        text = covariance[:dim, :dim]
        penalty = ridge * text.diagonal().mean() * torch.eye(dim, dtype=text.dtype)
        weight = torch.linalg.lstsq(text + penalty, covariance[:dim, dim:], driver="gelsd").solution
        prior = cls(dim)
        prior.weight.copy_(weight)
        prior.bias.copy_(joint.mean[dim:] - joint.mean[:dim] @ weight)
        return prior

    def forward(self, zt: Tensor) -> Tensor:
        """Unit image embeddings (B, D) of text embeddings (B, D)."""
        with full_precision(zt):
            return F.normalize(zt.float() @ self.weight + self.bias, dim=-1)

    def sample(self, zt: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As `forward`: nothing is drawn, and the caption counts through zt alone."""
        return self(zt)
