"""Impossible sizes of CLIP and priors are refused where they are written down."""

import pytest

from models.config import (
    ArPriorConfig,
    CaptionEncoderConfig,
    DiffusionPriorConfig,
    LinearPriorConfig,
    PcaConfig,
    TextConfig,
    VisionConfig,
)

REFUSED = [
    (VisionConfig, {"patch_px": 5}, "vision.image_px must be a multiple of patch_px 5, got 32"),
    (VisionConfig, {"layers": 0}, "vision.layers must be >= 1, got 0"),
    (TextConfig, {"context": 2}, "text.context must be >= 3"),
    (TextConfig, {"heads": 3}, "text.width must be a multiple of 2 \\* heads, got 128 and 3 heads"),
    (CaptionEncoderConfig, {"depth": 0}, "caption must have width, depth and heads >= 1"),
    (DiffusionPriorConfig, {"schedule": "square"}, "schedule must be cosine or linear, got 'square'"),
    (DiffusionPriorConfig, {"condition_drop_prob": 1.0}, "condition_drop_prob must be in \\[0, 1\\), got 1.0"),
    (DiffusionPriorConfig, {"scale": 0.0}, "scale must be > 0, got 0.0"),
    (ArPriorConfig, {"num_dot_buckets": 1}, "num_dot_buckets must be >= 2, got 1"),
    (LinearPriorConfig, {"ridge": -1.0}, "prior_linear.ridge must be >= 0, got -1.0"),
    (PcaConfig, {"keep_fraction": 0.0}, "pca.keep_fraction must be in \\(0, 1\\], got 0.0"),
    (PcaConfig, {"num_buckets": 1}, "pca.num_buckets must be >= 2, got 1"),
]


@pytest.mark.parametrize(("config", "fields", "message"), REFUSED)
def test_an_impossible_size_is_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)
