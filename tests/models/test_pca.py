"""Facts about principal components and their buckets."""

from functools import reduce

import pytest
import torch

from models.pca import Moments, Pca, fit_pca, reconstruction_error


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(500, 8, generator=generator) * torch.arange(8, 0, -1) + 3


@pytest.fixture
def pca(rows):
    fitted = fit_pca(Moments.of(rows), None, 0.9, 16)
    fitted.fit_buckets(rows)
    return fitted


def test_the_covariance_is_numpys(rows):
    expected = torch.cov(rows.double().T, correction=0)
    assert torch.allclose(Moments.of(rows).covariance(), expected)


def test_two_halves_in_any_order_equal_one_whole(rows):
    parts = [Moments.of(rows[a:b]) for a, b in ((0, 3), (3, 200), (200, 500))]
    whole = Moments.of(rows)
    for first, second, third in ((0, 1, 2), (2, 0, 1)):
        merged = parts[first].merge(parts[second]).merge(parts[third])
        assert merged.count == 500
        assert torch.allclose(merged.mean, whole.mean) and torch.allclose(merged.scatter, whole.scatter)


def test_the_order_of_many_parts_moves_the_last_bits_only():
    parts = [Moments.of(torch.randn(40, 8, generator=torch.Generator().manual_seed(i)) + 3) for i in range(60)]
    forward, backward = (reduce(Moments.merge, order) for order in (parts, parts[::-1]))
    assert (forward.scatter - backward.scatter).abs().max() < 2e-15 * forward.scatter.abs().max()
    assert (forward.mean - backward.mean).abs().max() < 2e-15 * forward.mean.abs().max()


def test_merging_with_no_rows_changes_nothing(rows):
    merged = Moments.of(rows[:0]).merge(Moments.of(rows))
    assert torch.equal(merged.scatter, Moments.of(rows).scatter)


def test_all_components_are_the_identity(rows):
    pca = fit_pca(Moments.of(rows), 8, 1.0, 4)
    assert torch.allclose(pca.decode(pca.encode(rows)), rows, atol=1e-4)


def test_the_error_is_the_reconstructions_own(rows):
    moments = Moments.of(rows)
    pca = fit_pca(moments, 3, 1.0, 4)
    lost = (pca.decode(pca.encode(rows)) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert reconstruction_error(pca.eigenvalues)[2] == pytest.approx(lost.item(), rel=1e-3)
    assert reconstruction_error(pca.eigenvalues)[-1] == 0


def test_the_fewest_components_that_keep_the_fraction_are_kept(rows, pca):
    errors = reconstruction_error(pca.eigenvalues)
    assert errors[pca.num_components - 1] <= 0.1 < errors[pca.num_components - 2]


def test_the_sign_does_not_depend_on_the_order_of_rows(rows, pca):
    other = fit_pca(Moments.of(rows.flip(0)), None, 0.9, 16)
    assert torch.allclose(other.components, pca.components, atol=1e-5)


def test_buckets_are_equally_filled(rows, pca):
    counts = torch.bincount(pca.quantise(pca.encode(rows))[:, 0], minlength=16)
    assert counts.min() >= 28 and counts.max() <= 35


def test_a_level_falls_in_its_own_bucket(pca):
    codes = torch.arange(16)[:, None].expand(16, pca.num_components)
    assert torch.equal(pca.quantise(pca.dequantise(codes)), codes)


def test_more_buckets_lose_less(rows):
    errors = []
    for num_buckets in (4, 16, 64):
        pca = fit_pca(Moments.of(rows), 8, 1.0, num_buckets)
        pca.fit_buckets(rows)
        back = pca.decode(pca.dequantise(pca.quantise(pca.encode(rows))))
        errors.append((back - rows).square().mean().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match=r"num_components must be 1\.\.8, got 9"):
        Pca(8, 9, 4)
    with pytest.raises(ValueError, match="num_buckets must be >= 2, got 1"):
        Pca(8, 4, 1)


def test_codes_are_the_same_under_autocast(rows, pca):
    codes = pca.quantise(pca.encode(rows))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pca.quantise(pca.encode(rows)), codes)
        assert pca.decode(pca.dequantise(codes)).dtype == torch.float32
