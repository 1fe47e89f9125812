"""What benchmarks beside a peer share: training steps of two networks in turn, and the memory of each alone."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.overhead import machine

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".tools" / "peers"
SIDES = ("ours", "theirs")
NUM_UNTIMED = 3  # steps whose memory is measured: the second one has an optimiser's state already

Network = Callable[[], tuple[nn.Module, Callable[[], Tensor]]]  # a network, and its loss on a batch of its own


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Ours and theirs; `module` is what `python -m` runs, `library` what theirs is imported from."""

    module: str
    ours: Network
    theirs: Network
    library: str
    asked: dict[str, float]  # times as fast, by precision
    prepare: Callable[[], None] = lambda: None  # once, before anything is measured

    def main(self, about: str | None) -> int:
        """Measure, print, judge; with --one, measure one thing and print that as JSON."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--steps", type=int, default=15, help="of each, in turn; one of each goes before")
        parser.add_argument("--one", nargs=2, metavar=("WHAT", "PRECISION"), help="times, ours or theirs; fp32 or bf16")
        options = parser.parse_args()
        if options.steps < 2:
            parser.error(f"--steps must be >= 2, got {options.steps}")
        if options.one:
            what, precision = options.one
            if what not in (*SIDES, "times") or precision not in self.asked:
                parser.error(f"--one takes times, ours or theirs and {' or '.join(self.asked)}, got {what} {precision}")
            print(json.dumps(self.times(precision, options.steps) if what == "times" else self.peak(what, precision)))
            return 0
        self.prepare()
        threads = torch.get_num_threads()
        print(f"{machine()}, torch {torch.__version__}, {threads} threads; {options.steps} steps of each", flush=True)
        return max(self.judge(precision, options.steps) for precision in self.asked)

    def judge(self, precision: str, num_steps: int) -> int:
        """0 where ours is fast and small enough."""
        took = self.in_process("times", precision, "--steps", str(num_steps))
        ours, theirs = (self.in_process(whose, precision) for whose in SIDES)
        ratio, asked = took["theirs"] / took["ours"], self.asked[precision]
        print(
            f"{precision}: ours {took['ours']:.2f} s, {ours['peak_mb']:,.0f} MB, {ours['parameters'] / 1e6:.1f} M; "
            f"theirs {took['theirs']:.2f} s, {theirs['peak_mb']:,.0f} MB, {theirs['parameters'] / 1e6:.1f} M: "
            f"{ratio:.2f} x as fast ({took['low']:.2f} to {took['high']:.2f} in half of the pairs), {asked} asked",
            flush=True,
        )
        return int(ratio < asked or ours["peak_mb"] >= theirs["peak_mb"])

    def in_process(self, what: str, precision: str, *options: str) -> dict[str, float]:
        """One measurement in a process of its own, which finds the peer's libraries where it needs them."""
        path = os.pathsep.join([str(ROOT)] if what == "ours" else [str(ROOT), str(PEERS)])
        command = [sys.executable, "-m", self.module, "--one", what, precision, *options]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def times(self, precision: str, num_steps: int) -> dict[str, float]:
        """Median seconds of each one's steps, and the quartiles of how much longer theirs take than ours beside them.

        They are taken in turn in one process, so that both meet the same machine.
        """
        steps = {whose: self.training(whose, precision)[1] for whose in SIDES}
        took: dict[str, list[float]] = {whose: [] for whose in SIDES}
        for number in range(1 + num_steps):
            for whose in SIDES if number % 2 else reversed(SIDES):
                began = time.perf_counter()
                steps[whose]()
                took[whose].append(time.perf_counter() - began)
        timed = {whose: seconds[1:] for whose, seconds in took.items()}
        low, _, high = statistics.quantiles((b / a for a, b in zip(*timed.values(), strict=True)), n=4)
        return {whose: statistics.median(seconds) for whose, seconds in timed.items()} | {"low": low, "high": high}

    def peak(self, whose: str, precision: str) -> dict[str, float]:
        """Megabytes that training adds to what libraries take, and parameters."""
        if whose == "theirs":
            import_module(self.library)
        torch.optim.AdamW([torch.zeros(1)])  # imports torch's compiler, which a peer's library may have done already
        libraries_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        network, step = self.training(whose, precision)
        for _ in range(NUM_UNTIMED):
            step()
        return {
            "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries_kb) / 1e3,
            "parameters": sum(p.numel() for p in network.parameters()),
        }

    def training(self, whose: str, precision: str) -> tuple[nn.Module, Callable[[], None]]:
        """A network and its training step, with torch's AdamW on either side."""
        torch.manual_seed(0)
        network, loss = self.ours() if whose == "ours" else self.theirs()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                value = loss()
            value.backward()
            optimizer.step()

        return network, step
