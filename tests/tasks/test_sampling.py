"""What the settings of a stack tell its priors."""

from dataclasses import replace
from inspect import signature

import pytest

from models.ar_prior import ArPrior
from models.diffusion_prior import DiffusionPrior
from models.linear_prior import LinearPrior
from tasks.assemble_config import AssembleConfig
from tasks.sampling import prior_options

PRIORS = {"prior_diffusion": DiffusionPrior, "prior_ar": ArPrior, "prior_linear": LinearPrior}


@pytest.mark.parametrize("name", PRIORS)
def test_unset_they_are_the_priors_own_defaults(name: str) -> None:
    parameters = signature(PRIORS[name].sample).parameters
    assert prior_options(AssembleConfig(), name) == {
        option: parameters[option].default for option in prior_options(AssembleConfig(), name)
    }


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("prior_steps", 8, {"prior_diffusion": "num_steps"}),
        ("prior_sampler", "ddim", {"prior_diffusion": "sampler"}),
        ("num_candidates", 4, {"prior_diffusion": "num_candidates"}),
        ("prior_guidance", 1.5, {"prior_diffusion": "guidance", "prior_ar": "guidance"}),
        ("ar_temperature", 0.7, {"prior_ar": "temperature"}),
        ("ar_top_p", 0.9, {"prior_ar": "top_p"}),
    ],
)
def test_each_reaches_those_it_speaks_of(setting: str, value: float | str, told: dict[str, str]) -> None:
    changed = replace(AssembleConfig(), **{setting: value})
    for name in PRIORS:
        expected = {told[name]: value} if name in told else {}
        assert prior_options(changed, name) == prior_options(AssembleConfig(), name) | expected


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("prior_sampler", "euler", "assemble.prior_sampler must be one of analytic, ddpm, ddim, got 'euler'"),
        ("prior_guidance", -1.0, "assemble.prior_guidance must be >= 0, got -1.0"),
        ("ar_temperature", 0.0, "assemble.ar_temperature must be > 0, got 0.0"),
        ("ar_top_p", 1.5, r"assemble.ar_top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_impossible_ones_are_refused(setting: str, value: float | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AssembleConfig(), **{setting: value})


def test_a_sampler_of_a_single_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"assemble\.prior_sampler has no effect at prior_steps 1"):
        AssembleConfig(prior_steps=1, prior_sampler="ddim")
