"""A whole training run: state, resume, batches ahead, curve, validation, checkpoints; then the weights."""

import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unclip.training.blocks import prepare
from unclip.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from unclip.training.curve import Curve
from unclip.training.distributed import Ranks
from unclip.training.flops import measure, peak_flops
from unclip.training.job import Batch, Job
from unclip.training.loop import Figures, Step, autocast, fit
from unclip.training.order import batch_indices
from unclip.training.prefetch import prefetch
from unclip.training.schedule import learning_rate
from unclip.training.sharding import let_go
from unclip.training.state import State, new_state

MAX_THREADS = 4  # that make batches
AHEAD = 4  # batches ready before they are needed
PROGRESS_S = 0.5
NUM_KEYS = 8  # of an offending batch, in the message; the file has them all


def num_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


class Interrupted(RuntimeError):
    """SIGTERM came; the checkpoint is written."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stage trains: `out` gets the weights and the curve, `work` what only a killed run needs."""

    stage: str
    out: Path
    work: Path
    seed: int
    device: str
    ranks: Ranks = Ranks()

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.work / f"checkpoint-{step:09d}.safetensors"

    def best(self, step: int) -> Path:
        """The averaged weights of a step that validated best, so far."""
        return self.work / f"best-{step:09d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Those that are there, the newest last."""
        return sorted(self.work.glob("checkpoint-*.safetensors"))


def train(job: Job, place: Place, progress: Callable[..., None]) -> dict[str, Any]:
    """Trains to the last step from where the folder's checkpoint stands, writes the weights, finishes; the metrics.

    Every rank trains; the first alone writes, and has metrics.

    Raises: FloatingPointError with stage, step and keys when loss or gradient is not finite; Interrupted on SIGTERM.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    flops = 0  # of a sample; counted before anything is recomputed or shared out
    if job.example is not None and place.ranks.is_first:
        flops = measure(job.model, job.example)[0]
    finished = deepcopy(job.model) if job.train.shard and place.ranks.is_first else None
    state = new_state(job.model, job.train, place.device, units=job.units, blocks=job.blocks)
    record = resume(state, place)
    prepare(state.model, job.blocks, job.train)
    place.ranks.wait()  # the checkpoint is read by all before the first of them writes the next
    curve = Curve(place.out / "curve.jsonl", record["curve_bytes"]) if place.ranks.is_first else None
    start = Start(step=state.step, best=record["best"], sample_flops=flops * job.train.num_passes)
    watch = Watch(job, place, curve, progress, start)
    step = Step(job.loss, job.train, place.seed, place.device, place.ranks)
    num_threads = max(1, min(MAX_THREADS, num_cores() // place.ranks.count))
    batches = prefetch(_loader(job, place), state.step, job.train.num_steps, AHEAD, num_threads)
    try:
        with _sigterm(watch):
            fit(state, step, watch.waiting(batches), job.train, watch)
    except FloatingPointError as error:
        raise FloatingPointError(f"{place.stage}: {error}; {_offenders(job, place, state.step)}") from None
    finally:
        batches.close()
        if curve is not None:
            curve.close()
    for name, model in {"ema": state.average, "online": state.model}.items():
        save_weights(model, place.out / f"{name}.safetensors", writes=place.ranks.is_first)
    if not place.ranks.is_first:
        return {}
    if watch.best is not None:
        shutil.copyfile(place.best(watch.best["step"]), place.out / "best.safetensors")
    if finished is not None:  # the first rank is alone now: it needs all weights for itself
        finished.load_state_dict(load_file(place.out / "ema.safetensors"))
        finished.to(place.device)
    average = state.average if finished is None else finished.eval().requires_grad_(False)
    return {**watch.metrics(state), **job.finish(average, place.out)}


def resume(state: State, place: Place) -> dict[str, Any]:
    """Fills the state from the newest checkpoint that can be read; what the checkpoint says of curve and best weights.

    Raises: SafetensorError where there are checkpoints and none can be read.
    """
    kept = place.checkpoints()
    for path in reversed(kept):
        try:
            return load_checkpoint(state, path)
        except SafetensorError as error:
            print(f"{path} cannot be read: {error}", file=sys.stderr)
            if path == kept[0]:
                raise
    return {"curve_bytes": 0, "best": None}


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known when a process begins to train."""

    step: int  # done before
    best: dict[str, Any] | None  # step and loss of the average that validated best, where `keep_best` asks
    sample_flops: int  # of a sample's forward and backward passes; 0 where they are not counted


class Watch:
    """What happens between steps: curve, progress, validation, checkpoints, and the end that SIGTERM asks for."""

    def __init__(
        self, job: Job, place: Place, curve: Curve | None, progress: Callable[..., None], start: Start
    ) -> None:
        self.job, self.place, self.curve, self.progress, self.start = job, place, curve, progress, start
        self.best = start.best
        self.peak_flops = peak_flops(place.device) if job.train.precision == "bf16" else None
        self.is_asked_to_end = False
        self.started = self.told = self.asked = time.monotonic()
        self.waited_s = 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time they are waited for counted; the first is the pipeline filling, so it is not."""
        for number, batch in enumerate(batches):
            if number:
                self.waited_s += time.monotonic() - self.asked
            else:
                self.started = time.monotonic()
            yield batch
            self.asked = time.monotonic()

    def __call__(self, state: State, figures: Figures) -> None:
        """Follows a step; all that is written or told is the first rank's to write or tell."""
        ends = self.place.ranks.any(self.is_asked_to_end)  # what SIGTERM sets is only read: it may come meanwhile
        if self.place.ranks.is_first or self.job.train.shard:
            self._record(state, figures, ends)
        if ends and state.step < self.job.train.num_steps:
            self.place.ranks.wait()  # for the first, which saves: it would be ended with the others
            saved = f"stopped at step {state.step} of {self.job.train.num_steps}, which is saved"
            raise Interrupted(f"{self.place.stage}: {saved}")

    def _record(self, state: State, figures: Figures, ends: bool) -> None:
        """Curve, validation, checkpoint, progress. Where weights are shared out, every rank's are asked for."""
        state.count(figures)
        config, is_last = self.job.train, state.step == self.job.train.num_steps
        validates = is_last or (config.validate_every and state.step % config.validate_every == 0)
        if validates or state.step % config.log_every == 0:
            row = self._row(state) | (self._validate(state) if validates else {})
            if self.curve is not None:
                self.curve.append(row)
        if is_last or ends or state.step % config.checkpoint_every == 0:
            record = {"curve_bytes": 0 if self.curve is None else self.curve.sync(), "best": self.best}
            save_checkpoint(state, self.place.checkpoint(state.step), record, writes=self.place.ranks.is_first)
            if self.place.ranks.is_first:
                self._tidy()
        if self.place.ranks.is_first and (is_last or time.monotonic() - self.told > PROGRESS_S):
            self._tell(state, figures)

    def _tidy(self) -> None:
        """Removes what the newest checkpoint makes needless: older ones, and weights that it does not call the best."""
        best = None if self.best is None else self.place.best(int(self.best["step"]))
        outdated = [path for path in self.place.work.glob("best-*.safetensors") if path != best]
        for old in (*outdated, *self.place.checkpoints()[: -self.job.train.keep_last]):
            old.unlink()

    def _row(self, state: State) -> dict[str, float]:
        means = dict(sorted(state.take_means().items()))  # in one order, resumed or not
        first = {"step": state.step, "loss": means.pop("loss")}
        rate = learning_rate(self.job.train, state.step - 1)
        return {**first, "learning_rate": rate, **means}

    def _validate(self, state: State) -> dict[str, float]:
        if self.job.validate is None:
            return {}
        models = {"val": state.model, "val_ema": state.average}
        scores = {name: _scores(self.job, model, self.place) for name, model in models.items()}
        state.model.train()
        row = {f"{part}_{name}": value for part, figures in scores.items() for name, value in figures.items()}
        for name, value in row.items():
            if not math.isfinite(value):
                raise RuntimeError(f"{self.place.stage}: {name} is {value} at step {state.step}")
        if self.job.train.keep_best and self._is_best(row):
            save_weights(state.average, self.place.best(state.step), writes=self.place.ranks.is_first)
            self.best = {"step": state.step, "val_ema_loss": row["val_ema_loss"]}
        return row

    def _is_best(self, row: dict[str, float]) -> bool:
        """Whether this average validated best; where all ranks validated, they agree on it."""
        is_best = self.best is None or row["val_ema_loss"] < self.best["val_ema_loss"]
        return self.place.ranks.any(is_best) if self.job.train.shard else is_best

    def _tell(self, state: State, figures: Figures) -> None:
        self.told = time.monotonic()
        now = {name: float(figures[name]) for name in ("loss", "grad_norm")}
        rate = learning_rate(self.job.train, state.step - 1)
        told = {**now, "learning_rate": rate, **self._speed(state), **self._memory()}
        self.progress(state.step, self.job.train.num_steps, **told)

    def _speed(self, state: State) -> dict[str, float]:
        """Since this process began; FLOPs are the network's, forward and backward, whatever is recomputed."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        steps_per_s = (state.step - self.start.step) / seconds
        speed = {"steps_per_s": steps_per_s, "data_wait_fraction": self.waited_s / seconds}
        speed["samples_per_s"] = steps_per_s * self.job.train.batch_size
        if self.start.sample_flops:
            speed["flops_per_s"] = speed["samples_per_s"] * self.start.sample_flops
            if self.peak_flops:
                speed["flops_utilisation"] = speed["flops_per_s"] / (self.peak_flops * self.place.ranks.count)
        return speed

    def _memory(self) -> dict[str, float]:
        """The peaks of this process."""
        peak: dict[str, float] = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if torch.device(self.place.device).type == "cuda":
            peak["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.place.device)
        return peak

    def metrics(self, state: State) -> dict[str, Any]:
        """What a finished run tells of itself; the speed is of this process's share of the steps."""
        speed = self._speed(state) if state.step > self.start.step else {}
        best = {f"best_{name}": value for name, value in (self.best or {}).items()}
        num_parameters = sum(p.numel() for p in state.model.parameters())
        counts = {"num_steps": state.step, "num_parameters": num_parameters, "num_ranks": self.place.ranks.count}
        if self.start.sample_flops:
            counts["train_flops"] = state.step * self.job.train.batch_size * self.start.sample_flops
        return {**counts, **best, **speed, **self._memory()}


def _scores(job: Job, model: nn.Module, place: Place) -> dict[str, float]:
    """The figures of `validate`, without gradients and in the precision of training."""
    assert job.validate is not None
    model.eval()
    with torch.no_grad(), autocast(job.train, place.device):
        scores = job.validate(model)
    let_go(model)
    return scores


def _loader(job: Job, place: Place) -> Callable[[int], Batch]:
    """Step number to its batch on the device."""
    is_cuda = torch.device(place.device).type == "cuda"

    def load(step: int) -> Batch:
        rows = batch_indices(place.seed, step, job.train.batch_size, job.num_rows)
        batch = job.batch(place.ranks.part(rows))
        for name, value in batch.items():
            if is_cuda:
                value = value.pin_memory().to(place.device, non_blocking=True)
            if job.train.channels_last and value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            batch[name] = value
        return batch

    return load


def _offenders(job: Job, place: Place, step: int) -> str:
    """The keys of the batch that failed; all of them go into a file."""
    rows = batch_indices(place.seed, step, job.train.batch_size, job.num_rows)
    keys = [key for part in place.ranks.parts(rows) for key in job.keys(part)]
    path = place.work / "offending_keys.txt"
    if place.ranks.is_first:
        path.write_text("\n".join(keys) + "\n")
    more = f" and {len(keys) - NUM_KEYS} more in {path}" if len(keys) > NUM_KEYS else ""
    return f"batch of {', '.join(keys[:NUM_KEYS])}{more}"


@contextmanager
def _sigterm(watch: Watch) -> Iterator[None]:
    """While inside, SIGTERM lets the step end, then saves and raises."""

    def ask(*_: object) -> None:
        watch.is_asked_to_end = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
