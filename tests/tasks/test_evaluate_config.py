from typing import Any

import pytest

from tasks.assemble_config import AssembleConfig
from tasks.evaluate_config import EvaluateConfig
from tasks.sampling import prior_options, rendering_of


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_captions": 3}, r"evaluate.num_captions must be >= 4, got 3"),
        ({"num_draws": 1}, r"evaluate.num_draws must be >= 2, got 1"),
        ({"precision": "fp16"}, r"evaluate.precision must be 'bf16' or 'fp32', got 'fp16'"),
        ({"targets": {"singel": 0.7}}, r"evaluate.targets must name .*; got 'singel'"),
    ],
)
def test_an_impossible_evaluation_names_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prior": "gan"}, r"assemble.prior must be one of .*, got 'gan'"),
        ({"decoder_steps": 0}, r"assemble.decoder_steps must be >= 1, got 0"),
        ({"decoder_sampler": "euler"}, r"assemble.decoder_sampler must be 'ddpm' or 'ddim', got 'euler'"),
        ({"guidance": -1.0}, r"assemble.guidance must be >= 0, got -1.0"),
    ],
)
def test_an_impossible_way_to_sample_names_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AssembleConfig(**values)


def test_a_stack_samples_by_default_as_the_paper_does() -> None:
    sampling = AssembleConfig()
    expected = {"num_steps": 64, "sampler": "analytic", "num_candidates": 2, "guidance": 1.0}  # App. C; §2.2, §5.5
    assert prior_options(sampling, "prior_diffusion") == expected
    rendering = rendering_of(sampling)
    assert (rendering.decoder_sampler, rendering.mid_steps, rendering.top_steps) == ("ddpm", 27, 15)  # App. C, table 3
