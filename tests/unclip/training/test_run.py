"""The training run as a whole: what a kill, a signal and a bad batch do to it. Tiny networks on the CPU."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks
from unclip.training.job import Batch, Indices, Job, Loss
from unclip.training.run import Interrupted, Place, Start, Watch, train
from unclip.training.state import new_state

torch.set_num_threads(1)
NUM_STEPS = 12
ROWS = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
FILES = ("ema.safetensors", "online.safetensors", "curve.jsonl")
KINDS: dict[str, dict[str, str]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "muon": {"precision": "fp32", "optimizer": "muon"},
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run may act on it."""


def config(**changes: Any) -> TrainConfig:
    base = {"num_steps": NUM_STEPS, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 5, "log_every": 3}
    return TrainConfig(**{**base, "validate_every": 4, "weight_decay": 0.01, **changes})


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 8))


def loss(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
    noise = torch.randn(batch["x"].shape, generator=generator)
    error = model(batch["x"] + 0.1 * noise).float() - batch["x"]
    return error.square().mean(), {"spread": error.std()}


def loss_that(act: Callable[[], None], step: int) -> Loss:
    """The loss, which acts before step `step` of this process."""
    steps = count()

    def acting(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if next(steps) == step:
            act()
        return loss(model, batch, generator)

    return acting


def kill() -> None:
    raise Killed


def read(indices: Indices) -> Batch:
    return {"x": ROWS[torch.from_numpy(indices)]}


def read_one_nan(indices: Indices) -> Batch:
    x = ROWS[torch.from_numpy(indices)].clone()
    x[torch.from_numpy(indices) == 17] = torch.nan
    return {"x": x}


@torch.no_grad()
def validate(model: nn.Module) -> dict[str, float]:
    return {"loss": float((model(ROWS).float() - ROWS).square().mean())}


def job(loss: Loss = loss, batch: Callable[[Indices], Batch] = read, **changes: Any) -> Job:
    return Job(
        model=network(),
        loss=loss,
        batch=batch,
        num_rows=50,
        keys=lambda indices: [f"{i:011d}" for i in indices],
        train=config(**changes),
        validate=validate,
        finish=lambda model, out: {"is_trained": any(p.requires_grad for p in model.parameters())},
        blocks=(nn.Linear,),
    )


def run(out: Path, job: Job) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    place = Place(stage="toy", out=out, work=out / "work", seed=3, device="cpu")
    return train(job, place, lambda *_, **__: None)


def bytes_of(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    made = {}
    for kind, settings in KINDS.items():
        out = tmp_path_factory.mktemp(kind) / "out"
        run(out, job(**settings))
        made[kind] = bytes_of(out)
    assert len({weights for weights, *_ in made.values()}) == len(KINDS)
    return made


def test_bf16_computes_otherwise_than_fp32(undisturbed: dict[str, list[bytes]]) -> None:
    assert all(one != other for one, other in zip(undisturbed["bf16"], undisturbed["fp32"], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", range(NUM_STEPS))
def test_killed_at_any_step_equals_undisturbed(
    tmp_path: Path, undisturbed: dict[str, list[bytes]], step: int, kind: str
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "out", job(loss_that(kill, step), **KINDS[kind]))
    run(tmp_path / "out", job(**KINDS[kind]))
    assert bytes_of(tmp_path / "out") == undisturbed[kind]


def test_killed_again_and_again_equals_undisturbed(tmp_path: Path, undisturbed: dict[str, list[bytes]]) -> None:
    for _ in range(2):
        with pytest.raises(Killed):
            run(tmp_path / "out", job(loss_that(kill, 6), precision="fp32"))
    run(tmp_path / "out", job(precision="fp32"))
    assert bytes_of(tmp_path / "out") == undisturbed["fp32"]


def test_sigterm_saves_where_it_stopped(tmp_path: Path, undisturbed: dict[str, list[bytes]]) -> None:
    with pytest.raises(Interrupted, match="toy: stopped at step 8 of 12, which is saved"):
        run(tmp_path / "out", job(loss_that(lambda: os.kill(os.getpid(), signal.SIGTERM), 7), precision="fp32"))
    run(tmp_path / "out", job(loss_that(kill, 4), precision="fp32"))  # 4 steps were left: the fifth never comes
    assert bytes_of(tmp_path / "out") == undisturbed["fp32"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_killed_after_its_last_step_only_finishes(tmp_path: Path, undisturbed: dict[str, list[bytes]]) -> None:
    run(tmp_path / "out", job(precision="fp32"))
    metrics = run(tmp_path / "out", job(loss_that(kill, 0), precision="fp32"))
    assert bytes_of(tmp_path / "out") == undisturbed["fp32"]
    assert metrics["num_steps"] == NUM_STEPS and metrics["is_trained"] is False


@pytest.mark.parametrize(
    "changes", [{"ema_decay": 0.5}, {"clip_norm": 0.01}, {"beta1": 0.5}, {"beta2": 0.9}, {"eps": 1.0}]
)
def test_every_setting_changes_the_weights(
    tmp_path: Path, undisturbed: dict[str, list[bytes]], changes: dict[str, Any]
) -> None:
    run(tmp_path / "out", job(precision="fp32", **changes))
    assert bytes_of(tmp_path / "out")[0] != undisturbed["fp32"][0]


@pytest.mark.parametrize("changes", [{"checkpoint_every": 1}, {"log_every": 1}, {"validate_every": 0}])
def test_watching_changes_no_weight(
    tmp_path: Path, undisturbed: dict[str, list[bytes]], changes: dict[str, Any]
) -> None:
    run(tmp_path / "out", job(precision="fp32", **changes))
    assert bytes_of(tmp_path / "out")[:2] == undisturbed["fp32"][:2]


def test_a_bad_batch_stops_with_stage_step_and_keys(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^toy: loss is nan at step \d+; batch of .*\b00000000017\b"):
        run(tmp_path / "out", job(batch=read_one_nan, num_steps=40))
    assert "00000000017" in (tmp_path / "out/work/offending_keys.txt").read_text().split()


def test_an_infinite_gradient_stops_too(tmp_path: Path) -> None:
    def steep(model: nn.Module, batch: Batch, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return (model(batch["x"]).float().sum() * 0).sqrt(), {}

    with pytest.raises(FloatingPointError, match=r"gradient norm is (nan|inf) at step 0"):
        run(tmp_path / "out", job(steep))


def test_the_curve_has_every_row_once(tmp_path: Path) -> None:
    run(tmp_path / "out", job())
    rows = curve(tmp_path / "out")
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 12]
    assert [row["step"] for row in rows if "val_ema_loss" in row] == [4, 8, 12]
    assert all({"loss", "learning_rate", "grad_norm", "spread"} <= row.keys() for row in rows)


def test_a_batch_can_be_overfitted(tmp_path: Path) -> None:
    run(tmp_path / "out", job(num_steps=300, batch_size=50, decay="constant", ema_decay=0.9, validate_every=100))
    assert curve(tmp_path / "out")[-1]["val_ema_loss"] < 0.2 * validate(network().eval())["loss"]


def test_only_what_is_published_and_one_checkpoint_is_left(tmp_path: Path) -> None:
    run(tmp_path / "out", job())
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted([*FILES, "checkpoint-000000012.safetensors"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("weights", "figure"), [("ema", "val_ema_loss"), ("online", "val_loss")])
def test_weights_load_by_name_and_score_as_validated_without_dropout(
    tmp_path: Path, weights: str, figure: str, precision: str
) -> None:
    run(tmp_path / "out", job(precision=precision))
    loaded = network()
    loaded.load_state_dict(load_file(tmp_path / f"out/{weights}.safetensors"), strict=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert validate(loaded.eval())["loss"] == curve(tmp_path / "out")[-1][figure]


def test_the_newest_checkpoints_are_kept_and_a_run_goes_on_from_any_of_them(
    tmp_path: Path, undisturbed: dict[str, list[bytes]]
) -> None:
    run(tmp_path / "out", job(precision="fp32", checkpoint_every=2, keep_last=3))
    kept = sorted((tmp_path / "out/work").glob("checkpoint-*"))
    assert [path.name[11:20] for path in kept] == ["000000008", "000000010", "000000012"]
    for path in kept[1:]:
        path.unlink()
    run(tmp_path / "out", job(precision="fp32", checkpoint_every=2, keep_last=3))
    assert bytes_of(tmp_path / "out") == undisturbed["fp32"]


def test_the_average_with_the_least_validation_loss_is_kept(tmp_path: Path) -> None:
    losses = {4: 3.0, 8: 1.0, 12: 2.0}
    averages = {}

    def score(model: nn.Module) -> dict[str, float]:
        if not any(p.requires_grad for p in model.parameters()):
            averages[min(set(losses) - set(averages))] = {n: v.clone() for n, v in model.state_dict().items()}
        return {"loss": losses[max(averages, default=4)]}

    metrics = run(tmp_path / "out", replace(job(keep_best=True), validate=score))
    best = load_file(tmp_path / "out/best.safetensors")
    assert metrics["best_step"] == 8 and metrics["best_val_ema_loss"] == 1.0
    assert all(value.equal(averages[8][name]) for name, value in best.items())


def test_a_killed_run_remembers_the_best(tmp_path: Path) -> None:
    losses = iter((3.0, 1.0) * 3)  # by weights and by their average: the first validation, at step 4, is the best

    def score(model: nn.Module) -> dict[str, float]:
        return {"loss": next(losses, 2.0)} if not killed else {"loss": 2.0}

    killed = False
    with pytest.raises(Killed):
        run(tmp_path / "out", replace(job(loss_that(kill, 6), keep_best=True), validate=score))
    killed = True
    best = next((tmp_path / "out/work").glob("best-*")).read_bytes()
    metrics = run(tmp_path / "out", replace(job(keep_best=True), validate=score))
    assert (metrics["best_step"], metrics["best_val_ema_loss"]) == (4, 1.0)
    assert (tmp_path / "out/best.safetensors").read_bytes() == best
    assert [path.name for path in (tmp_path / "out/work").glob("best-*")] == ["best-000000004.safetensors"]


def test_a_run_goes_on_from_an_older_checkpoint_where_the_newest_cannot_be_read(
    tmp_path: Path, undisturbed: dict[str, list[bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "out", job(loss_that(kill, 9), precision="fp32", checkpoint_every=4, keep_last=2))
    (tmp_path / "out/work/checkpoint-000000008.safetensors").write_bytes(b"damaged")
    run(tmp_path / "out", job(precision="fp32", checkpoint_every=4, keep_last=2))
    assert bytes_of(tmp_path / "out") == undisturbed["fp32"]
    assert "checkpoint-000000008.safetensors cannot be read" in capfd.readouterr().err


def test_the_best_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.keep_best has no effect: there is no row to validate on"):
        replace(job(keep_best=True), validate=None)
    with pytest.raises(ValueError, match=r"train.keep_best has no effect: validate_every names no step but the last"):
        job(keep_best=True, validate_every=0)


def test_what_is_told_between_steps(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    place = Place(stage="toy", out=tmp_path, work=tmp_path / "work", seed=3, device="cpu")
    example = (torch.zeros(1, 8, device="meta"),)
    metrics = train(replace(job(), example=example), place, lambda done, total, **figures: told.append(figures))
    last = told[-1]
    assert {"loss", "grad_norm", "learning_rate", "data_wait_fraction", "peak_memory_bytes"} <= last.keys()
    assert last["samples_per_s"] == pytest.approx(4 * last["steps_per_s"])
    flops = 2 * (2 * 8 * 16) + 3 * (2 * 16 * 8)  # forward and by weights; by the hidden layer too
    assert last["flops_per_s"] == pytest.approx(flops * last["samples_per_s"])
    assert metrics["train_flops"] == flops * 4 * metrics["num_steps"]
    assert "flops_utilisation" not in metrics  # nobody knows the peak of this device


def test_utilisation_is_the_networks_flops_over_the_peak_of_all_ranks(tmp_path: Path) -> None:
    place = Place(stage="toy", out=tmp_path, work=tmp_path, seed=3, device="cpu", ranks=Ranks(index=0, count=2))
    start = Start(step=2, best=None, sample_flops=1000)
    watch, state = Watch(job(), place, None, lambda *_, **__: None, start), new_state(network(), config(), "cpu")
    watch.peak_flops, watch.started, state.step = 10_000.0, time.monotonic() - 100, 52
    told = watch.metrics(state)
    expected = {"steps_per_s": 0.5, "samples_per_s": 2.0, "flops_per_s": 2000.0, "flops_utilisation": 0.1}
    assert {name: told[name] for name in expected} == pytest.approx(expected, rel=0.01)
