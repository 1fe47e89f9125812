"""What benchmarks beside a peer share: training steps of two networks, each in processes of its own, in turn.

Each with the optimiser that it trains with: ours with the engine's (torch's fused kernel), theirs with torch's AdamW as
its own examples call it. The network's part of a step is told beside the whole.
"""

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
from unclip.training.adam import Adam
from unclip.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".tools" / "peers"
NUM_STEPS = 3  # timed, after one that is not
RATE, DECAY = 1e-4, 0.01  # of both optimisers

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
        """Measure, print, judge; with --one, measure one of the two and print that as JSON."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--one", nargs=2, metavar=("WHOSE", "PRECISION"), help="ours or theirs, fp32 or bf16")
        options = parser.parse_args()
        if options.one:
            print(json.dumps(self.measure(*options.one)))
            return 0
        self.prepare()
        threads = torch.get_num_threads()
        print(f"{machine()}, torch {torch.__version__}, {threads} threads; {options.rounds} rounds", flush=True)
        return max(self.judge(precision, options.rounds) for precision in self.asked)

    def judge(self, precision: str, rounds: int) -> int:
        """Both in turn; 0 where ours is fast and small enough."""
        found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for number in range(rounds):
            for whose in list(found)[:: 1 if number % 2 == 0 else -1]:
                found[whose].append(self.in_process(whose, precision))
        ours, theirs = ({n: statistics.median(r[n] for r in runs) for n in runs[0]} for runs in found.values())
        ratio, asked = theirs["seconds"] / ours["seconds"], self.asked[precision]
        alone = theirs["network_seconds"] / ours["network_seconds"]
        print(
            f"{precision}: ours {ours['seconds']:.2f} s, {ours['peak_mb']:,.0f} MB, {ours['parameters'] / 1e6:.1f} M; "
            f"theirs {theirs['seconds']:.2f} s, {theirs['peak_mb']:,.0f} MB, {theirs['parameters'] / 1e6:.1f} M: "
            f"{ratio:.2f} x as fast, {asked} asked; {alone:.2f} x without the optimiser",
            flush=True,
        )
        return int(ratio < asked or ours["peak_mb"] >= theirs["peak_mb"])

    def in_process(self, whose: str, precision: str) -> dict[str, float]:
        """`measure` in a process of its own."""
        path = os.pathsep.join([str(ROOT), str(PEERS)] if whose == "theirs" else [str(ROOT)])
        command = [sys.executable, "-m", self.module, "--one", whose, precision]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def measure(self, whose: str, precision: str) -> dict[str, float]:
        """Median seconds of a step, megabytes that training adds to what libraries take at most, parameters."""
        torch.manual_seed(0)
        if whose == "theirs":
            import_module(self.library)
        torch.optim.AdamW([torch.zeros(1)])  # imports torch's compiler, which a peer's library has done already
        libraries_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        network, loss = self.ours() if whose == "ours" else self.theirs()
        move = our_optimizer(network) if whose == "ours" else their_optimizer(network)
        taken, by_network = [], []
        for _ in range(1 + NUM_STEPS):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
                value = loss()
            value.backward()
            by_network.append(time.perf_counter() - began)
            move()
            taken.append(time.perf_counter() - began)
        return {
            "seconds": statistics.median(taken[1:]),
            "network_seconds": statistics.median(by_network[1:]),
            "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries_kb) / 1e3,
            "parameters": sum(p.numel() for p in network.parameters()),
        }


def our_optimizer(network: nn.Module) -> Callable[[], None]:
    """A step of the training engine's Adam, which uses the gradients up."""
    config = TrainConfig(num_steps=1, batch_size=1, learning_rate=RATE, weight_decay=DECAY)
    adam = Adam(dict(network.named_parameters()), config)
    return lambda: adam.step(RATE)


def their_optimizer(network: nn.Module) -> Callable[[], None]:
    """A step of torch's AdamW as it comes; gradients are gone after it."""
    adam = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)

    def move() -> None:
        adam.step()
        adam.zero_grad()

    return move
