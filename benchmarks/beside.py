"""What benchmarks beside a peer share: training steps of two networks, in turn, and what each takes alone."""

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
        if options.one:
            what, precision = options.one
            print(json.dumps(self.times(precision, options.steps) if what == "times" else self.peak(what, precision)))
            return 0
        self.prepare()
        threads = torch.get_num_threads()
        print(f"{machine()}, torch {torch.__version__}, {threads} threads; {options.steps} steps of each", flush=True)
        return max(self.judge(precision, options.steps) for precision in self.asked)

    def judge(self, precision: str, num_steps: int) -> int:
        """0 where ours is fast and small enough."""
        took = self.in_process("times", precision, num_steps)
        ours, theirs = (self.in_process(whose, precision, num_steps) for whose in SIDES)
        ratio, asked = took["theirs"] / took["ours"], self.asked[precision]
        print(
            f"{precision}: ours {took['ours']:.2f} s, {ours['peak_mb']:,.0f} MB, {ours['parameters'] / 1e6:.1f} M; "
            f"theirs {took['theirs']:.2f} s, {theirs['peak_mb']:,.0f} MB, {theirs['parameters'] / 1e6:.1f} M: "
            f"{ratio:.2f} x as fast, {asked} asked",
            flush=True,
        )
        return int(ratio < asked or ours["peak_mb"] >= theirs["peak_mb"])

    def in_process(self, what: str, precision: str, num_steps: int) -> dict[str, float]:
        """One measurement in a process of its own, which finds the peer's libraries where it needs them."""
        path = os.pathsep.join([str(ROOT)] if what == "ours" else [str(ROOT), str(PEERS)])
        command = [sys.executable, "-m", self.module, "--one", what, precision, "--steps", str(num_steps)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def times(self, precision: str, num_steps: int) -> dict[str, float]:
        """Median seconds of each one's steps, taken in turn in one process, so that both meet the same machine."""
        steps = {whose: self.training(whose, precision)[1] for whose in SIDES}
        took: dict[str, list[float]] = {whose: [] for whose in SIDES}
        for number in range(1 + num_steps):
            for whose in SIDES if number % 2 else reversed(SIDES):
                began = time.perf_counter()
                steps[whose]()
                took[whose].append(time.perf_counter() - began)
        return {whose: statistics.median(seconds[1:]) for whose, seconds in took.items()}

    def peak(self, whose: str, precision: str) -> dict[str, float]:
        """Megabytes that training adds to what libraries take, and parameters."""
        if whose == "theirs":
            import_module(self.library)
        torch.optim.AdamW([torch.zeros(1)])  # imports torch's compiler, which a peer's library may have done already
        libraries_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        network, step = self.training(whose, precision)
        for _ in range(3):
            step()
        return {
            "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries_kb) / 1e3,
            "parameters": sum(p.numel() for p in network.parameters()),
        }

    def training(self, whose: str, precision: str) -> tuple[nn.Module, Callable[[], None]]:
        """A network and its training step; one optimiser, torch's, for both."""
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
