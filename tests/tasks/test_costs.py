"""What networks cost, against counts by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from flows.config import load_pipeline
from tasks.costs import PAPER_PARAMETERS, Cost, network_costs
from unclip.training.flops import measure, peak_flops, peak_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paper():
    return {cost.part: cost for cost in network_costs(load_pipeline(ROOT / "pipelines.yaml", "paper"))}


def test_a_network_is_measured_by_its_products_and_by_what_it_keeps():
    with torch.device("meta"):
        network, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), torch.zeros(4, 8)
        flops, num_bytes = measure(network, [x])
    first, second = 2 * 4 * 8 * 16, 2 * 4 * 16 * 2
    assert flops == 2 * first + 3 * second  # forward, by weights, and by the hidden layer
    assert num_bytes == (4 * 8 + 4 * 16) * 2  # the input; what ReLU gives, which two of them keep, once


def test_what_differs_from_the_papers_size_is_explained(paper):
    assert set(paper) == {"clip", *PAPER_PARAMETERS}
    differing = {
        part for part, theirs in PAPER_PARAMETERS.items() if abs(paper[part].num_parameters / theirs - 1) > 0.1
    }
    assert differing == {part for part, cost in paper.items() if cost.remark} == {"prior_diffusion", "prior_ar"}


def test_a_transformer_costs_six_operations_a_weight_and_token_and_its_attention(paper):
    width, depth, tokens = 2048, 24, 256
    weights = 12 * width**2 * depth * (tokens + tokens + 4)  # caption encoder, then caption, zt, time, noised, query
    attention = 2 * width * depth * (tokens**2 + (tokens + 4) ** 2)
    assert paper["prior_diffusion"].flops == pytest.approx(6 * (weights + attention), rel=0.01)
    assert paper["prior_diffusion"].num_samples == 600_000 * 4096  # App. C, table 3


def test_hours_follow_from_operations():
    cost = Cost(part="decoder", num_parameters=10, flops=989 * 10**12, activation_bytes=0, num_samples=3600, remark="")
    assert cost.gpu_hours == pytest.approx(1 / 0.4) and cost.state_bytes == 200


@pytest.mark.parametrize(
    ("name", "peak"),  # dense bf16, by NVIDIA's data sheets
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_board_is_known_or_not_told(name, peak):
    assert peak_of(name) == peak and peak_flops("cpu") is None


def test_a_pipeline_that_trains_nothing_costs_its_clip(monkeypatch):
    monkeypatch.setenv("UNCLIP_URLS", "pairs.csv")
    (cost,) = network_costs(load_pipeline(ROOT / "pipelines.yaml", "data"))
    assert cost.part == "clip" and cost.num_samples == 0 and round(cost.num_parameters / 1e6) == 151
