from typing import Any

import pytest

from tasks.assemble_config import AssembleConfig
from tasks.evaluate_config import EvaluateConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_captions": 3}, r"evaluate.num_captions must be >= 4, got 3"),
        ({"decoder_steps": 0}, r"evaluate.decoder_steps must be >= 1, got 0"),
        ({"num_draws": 1}, r"evaluate.num_draws must be >= 2, got 1"),
        ({"guidance": -1.0}, r"evaluate.guidance must be >= 0, got -1.0"),
        ({"precision": "fp16"}, r"evaluate.precision must be 'bf16' or 'fp32', got 'fp16'"),
        ({"targets": {"singel": 0.7}}, r"evaluate.targets must name .*; got 'singel'"),
    ],
)
def test_an_impossible_evaluation_names_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**values)


def test_an_unknown_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"assemble.prior must be one of .*, got 'gan'"):
        AssembleConfig(prior="gan")
