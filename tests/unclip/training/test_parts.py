"""The parts of the training loop: order, schedule, average, batches ahead, checkpoints, settings."""

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unclip.training.adam import Adam
from unclip.training.checkpoint import load_checkpoint, save_checkpoint
from unclip.training.config import TrainConfig
from unclip.training.ema import ema_decay, update_average
from unclip.training.job import Batch, Job
from unclip.training.order import batch_indices
from unclip.training.prefetch import prefetch
from unclip.training.schedule import learning_rate
from unclip.training.seeds import step_seed
from unclip.training.state import State, new_state
from unclip.training.validation import validation


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"num_steps": 100, "batch_size": 4, "learning_rate": 1.0, **changes})


@settings(max_examples=50)
@given(batch_size=st.integers(1, 40), num_rows=st.integers(1, 30), seed=st.integers(0, 9))
def test_every_epoch_reads_every_row_once(batch_size: int, num_rows: int, seed: int) -> None:
    steps = -(-3 * num_rows // batch_size)
    rows = np.concatenate([batch_indices(seed, step, batch_size, num_rows) for step in range(steps)])[: 3 * num_rows]
    assert (np.sort(rows.reshape(3, num_rows), axis=1) == np.arange(num_rows)).all()


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = [batch_indices(seed, epoch, 50, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[3] == batch_indices(1, 1, 50, 50).tolist()


def test_seeds_differ_by_seed_step_and_purpose() -> None:
    seeds = {
        step_seed(seed, step, purpose) for seed in range(9) for step in range(99) for purpose in ("loss", "global")
    }
    assert len(seeds) == 9 * 99 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_rate_warms_up_then_decays_to_zero() -> None:
    rates = [learning_rate(config(warmup_steps=10), step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5) and 0 < rates[99] < 1e-3


def test_a_constant_rate_stays() -> None:
    rates = [learning_rate(config(warmup_steps=0, decay="constant"), step) for step in range(100)]
    assert set(rates) == {1.0}


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    values, average, expected = torch.randn(20, 3), [torch.zeros(3)], torch.zeros(3)
    for value in values:
        update_average(average, [value], 0.9)
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average[0], expected)


def test_a_short_run_forgets_its_start() -> None:
    kept = np.prod([ema_decay(0.9999, step) for step in range(200)])
    assert kept < 1e-6
    assert ema_decay(0.999, 10**6) == 0.999


def test_batches_come_in_order_and_ahead() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        made.append(number)
        return number

    batches = prefetch(make, 5, 30, depth=3, num_threads=3)
    assert next(batches) == 5
    until = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)  # for more than are wanted
    assert sorted(made) == [5, 6, 7, 8]
    assert [*batches] == [*range(6, 30)]


def test_an_error_comes_when_its_batch_is_due() -> None:
    batches = prefetch(lambda number: 1 // (3 - number), 0, 9, depth=5)
    assert [next(batches) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_closing_leaves_no_thread() -> None:
    batches = prefetch(lambda number: number, 0, 10**9, depth=2, num_threads=2)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def state() -> State:
    torch.manual_seed(0)
    return new_state(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), config(channels_last=True), "cpu")


def step(state: State, seed: int) -> None:
    torch.manual_seed(seed)
    state.model(torch.randn(2, 3, 5, 5)).square().mean().backward()
    state.optimizer.step(0.1)
    state.advance(config())
    state.count({"loss": torch.tensor(0.1 * seed)})


def test_a_checkpoint_is_the_whole_state(tmp_path: Path) -> None:
    first, second = state(), state()
    step(first, 1)
    save_checkpoint(first, tmp_path / "c", {"curve_bytes": 7})
    assert load_checkpoint(second, tmp_path / "c") == {"curve_bytes": 7}
    for one in (first, second):
        step(one, 2)
    same = [a.equal(b) for x, y in ((first.model, second.model), (first.average, second.average))
            for a, b in zip(x.state_dict().values(), y.state_dict().values(), strict=True)]  # fmt: skip
    assert all(same) and first.take_means() == second.take_means() and second.step == 2


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    before = state()
    save_checkpoint(before, tmp_path / "c", {"n": 1})
    with largest_file((tmp_path / "c").stat().st_size // 2), pytest.raises(Exception, match="File too large"):
        save_checkpoint(before, tmp_path / "c", {"n": 2})
    assert load_checkpoint(state(), tmp_path / "c") == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """While inside, the kernel lets no file of this process grow further."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_our_adam_is_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 4, bias=False), nn.Linear(5, 4, bias=False)
    theirs.load_state_dict(ours.state_dict())
    mine = Adam(dict(ours.named_parameters()), config(weight_decay=0.1, beta2=0.98))
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1, fused=True)
    for x in torch.randn(10, 3, 5):
        for network in (ours, theirs):
            network(x).square().sum().backward()
        mine.step(0.01)
        other.step()
        other.zero_grad()
    assert ours.weight.equal(theirs.weight)


def test_decay_spares_vectors() -> None:
    network = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Adam(dict(network.named_parameters()), config(weight_decay=0.5)).step(0.1)
    assert network.bias.equal(before["bias"])
    torch.testing.assert_close(network.weight.detach(), before["weight"] * 0.95)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("num_steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("decay", "linear"), ("beta1", 1.0)],
        *[("beta2", -0.1), ("eps", 0.0), ("weight_decay", -1.0), ("clip_norm", -1.0), ("ema_decay", 1.0)],
        *[("precision", "fp16"), ("checkpoint_every", 0), ("validate_every", -1), ("log_every", 0)],
        *[("warmup_steps", 100), ("warmup_steps", -1)],
    ],
)
def test_an_impossible_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^train\.{setting} must be .*, got {value!r}$"):
        config(**{setting: value})


def test_validation_is_a_mean_over_rows_with_the_same_noise_at_every_call() -> None:
    values = torch.arange(10.0)  # in parts of 4, 3 and 3

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, Batch]:
        return batch["x"].mean(), {"noise": torch.randn(len(batch["x"]), generator=generator).mean()}

    validate = validation(loss, lambda rows: {"x": values[torch.from_numpy(rows)]}, 10, 4, "cpu")
    assert validate is not None and validation(loss, lambda rows: {}, 0, 4, "cpu") is None
    first = validate(nn.Identity())
    assert first["loss"] == pytest.approx(4.5) and first["noise"] != 0
    assert validate(nn.Identity()) == first


def test_no_rows_is_said() -> None:
    made = Job(
        model=nn.Identity(),
        loss=lambda model, batch, generator: (torch.zeros(()), {}),
        batch=lambda indices: {},
        num_rows=1,
        keys=lambda indices: [],
        train=config(),
        validate=None,
        finish=lambda model, out: {},
    )
    with pytest.raises(ValueError, match="no row to train on"):
        replace(made, num_rows=0)
