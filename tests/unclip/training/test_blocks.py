"""Blocks recomputed or compiled: the same training, less of it kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.unclip.training.test_run import bytes_of, config, job, network, run
from unclip.training.blocks import prepare


def test_a_recomputed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    run(tmp_path / "kept", job())
    example = (torch.zeros(1, 8, device="meta"),)  # its operations are counted as they were
    run(tmp_path / "recomputed", replace(job(recompute=True), blocks=(nn.Sequential,), example=example))
    assert bytes_of(tmp_path / "recomputed") == bytes_of(tmp_path / "kept")


def test_of_a_recomputed_block_only_its_input_is_kept() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    model, x = network(), torch.randn(4, 8)
    prepare(model, (nn.Sequential,), config(recompute=True))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(x)
    assert sum(kept) <= x.numel()
    result.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler on a CPU")
def test_a_compiled_run_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    run(tmp_path / "plain", job(precision="fp32"))
    run(tmp_path / "compiled", replace(job(precision="fp32", compile=True), blocks=(nn.Linear,)))
    plain, compiled = (load_file(tmp_path / name / "ema.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", ["recompute", "compile"])
def test_a_setting_that_finds_no_block_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{setting} has no effect: Sequential has no blocks"):
        run(tmp_path / "out", replace(job(**{setting: True}), blocks=()))


def test_attention_is_recomputed_the_way_it_was_computed() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train()
    x = torch.randn(2, 5, 8)
    plain = [torch.autograd.grad(model(x).square().sum(), [*model.parameters()])]
    prepare(model, (nn.TransformerEncoderLayer,), config(recompute=True))
    with sdpa_kernel(SDPBackend.MATH):
        value = model(x).square().sum()
    plain.append(torch.autograd.grad(value, [*model.parameters()]))  # outside: the backends are the usual ones again
    for before, after in zip(*plain, strict=True):
        torch.testing.assert_close(after, before)
