"""Facts about the linear prior."""

import pytest
import torch
import torch.nn.functional as F

from models.linear_prior import LinearPrior
from models.pca import Moments


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    zt = torch.randn(400, 6, generator=generator)
    zi = zt @ torch.randn(6, 6, generator=generator) + torch.randn(6, generator=generator)
    return zt, zi


def test_a_linear_relation_is_found_exactly(pair):
    zt, zi = pair
    assert torch.allclose(LinearPrior.fit(zt, zi, 0.0)(zt), F.normalize(zi, dim=-1), atol=1e-4)


def test_parts_give_the_fit_of_the_whole(pair):
    joint = torch.cat(pair, dim=1)
    merged = LinearPrior.from_moments(Moments.of(joint[:150]).merge(Moments.of(joint[150:])), 1e-3)
    assert torch.allclose(merged.weight, LinearPrior.fit(*pair, 1e-3).weight, atol=1e-5)


def test_a_heavy_ridge_leaves_the_mean(pair):
    zt, zi = pair
    prior = LinearPrior.fit(zt, zi, 1e9)
    assert torch.allclose(prior(zt), F.normalize(zi.mean(0), dim=-1).expand(400, 6), atol=1e-4)


def test_a_text_direction_without_variance_does_no_harm(pair):
    zt, zi = pair
    flat = torch.cat([zt[:, :5], torch.ones(400, 1)], dim=1)
    assert torch.isfinite(LinearPrior.fit(flat, zi, 0.0)(flat)).all()


def test_a_negative_ridge_is_refused(pair):
    with pytest.raises(ValueError, match="ridge must be >= 0, got -1"):
        LinearPrior.fit(*pair, -1.0)
