"""A training step of the diffusion prior beside DALLE2-pytorch's prior network: `python -m benchmarks.prior_step`.

Both 512 wide, 6 deep, 8 heads, 77 caption tokens, batch 64, with AdamW and nothing dropped; each in processes of its
own, in turn. Ours learns a caption encoder besides (its least, 64 wide and 1 deep), theirs is given encodings. Asked:
1.3 x as fast in fp32, 1.2 x in bf16, less memory. The peer comes to `.tools/peers` from the package index, over the
versions of our own environment. Exit code 1 where a target is missed.
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
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.overhead import machine
from models.config import CaptionEncoderConfig, DiffusionPriorConfig
from models.diffusion_prior import DiffusionPrior

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".tools" / "peers"
WIDTH, DEPTH, HEADS, CONTEXT, BATCH = 512, 6, 8, 77, 64
VOCABULARY = 49_408
NUM_STEPS = 3  # timed, after one that is not
ASKED = {"fp32": 1.3, "bf16": 1.2}

Loss = Callable[[], Tensor]


def main() -> int:
    """Measure, print, judge; with --one, measure one of the two and print that as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("WHOSE", "PRECISION"), help="ours or theirs, fp32 or bf16")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return 0
    fetch_peers()
    print(
        f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {options.rounds} rounds",
        flush=True,
    )
    return max(judge(precision, options.rounds) for precision in ASKED)


def fetch_peers() -> None:
    """Install the peer beside our environment, without what it shares with it."""
    if not (PEERS / "dalle2_pytorch").is_dir():
        names = str(ROOT / "benchmarks" / "peers.txt")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEERS), "-r", names]
        subprocess.run(command, check=True)


def judge(precision: str, rounds: int) -> int:
    """Both in turn; 0 where ours is fast and small enough."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        for whose in list(found)[:: 1 if number % 2 == 0 else -1]:
            found[whose].append(in_process(whose, precision))
    ours, theirs = ({n: statistics.median(r[n] for r in runs) for n in runs[0]} for runs in found.values())
    ratio, asked = theirs["seconds"] / ours["seconds"], ASKED[precision]
    print(
        f"{precision}: ours {ours['seconds']:.2f} s, {ours['peak_mb']:,.0f} MB, {ours['parameters'] / 1e6:.1f} M; "
        f"theirs {theirs['seconds']:.2f} s, {theirs['peak_mb']:,.0f} MB, {theirs['parameters'] / 1e6:.1f} M: "
        f"{ratio:.2f} x as fast, {asked} asked",
        flush=True,
    )
    return int(ratio < asked or ours["peak_mb"] >= theirs["peak_mb"])


def in_process(whose: str, precision: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(PEERS)] if whose == "theirs" else [str(ROOT)])
    command = [sys.executable, "-m", "benchmarks.prior_step", "--one", whose, precision]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(whose: str, precision: str) -> dict[str, float]:
    """Median seconds of a step, megabytes that training adds to what libraries take at most, parameters."""
    torch.manual_seed(0)
    if whose == "theirs":
        import_module("dalle2_pytorch.dalle2_pytorch")
    libraries_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network, loss = ours() if whose == "ours" else theirs()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    taken = []
    for _ in range(1 + NUM_STEPS):
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            value = loss()
        value.backward()
        optimizer.step()
        taken.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(taken[1:]),
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries_kb) / 1e3,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def ours() -> tuple[nn.Module, Loss]:
    """Our prior, and its loss on random embeddings and captions of full length."""
    caption = CaptionEncoderConfig(width=64, depth=1, heads=1)
    config = DiffusionPriorConfig(width=WIDTH, depth=DEPTH, heads=HEADS, caption=caption, condition_drop_prob=0.0)
    prior = DiffusionPrior(config, embed_dim=WIDTH, vocab_size=VOCABULARY, context=CONTEXT)
    zi, zt = embeddings()
    tokens, generator = torch.randint(1, VOCABULARY, (BATCH, CONTEXT)), torch.Generator().manual_seed(0)
    return prior, lambda: prior.loss(zi, zt, tokens, generator)[0]


def theirs() -> tuple[nn.Module, Loss]:
    """The peer's prior, and its loss on the same embeddings and random encodings of captions of full length."""
    from dalle2_pytorch.dalle2_pytorch import DiffusionPrior as Peer
    from dalle2_pytorch.dalle2_pytorch import DiffusionPriorNetwork

    network = DiffusionPriorNetwork(
        dim=WIDTH, num_timesteps=1000, max_text_len=CONTEXT, depth=DEPTH, heads=HEADS, dim_head=WIDTH // HEADS
    )
    prior = Peer(network, image_embed_dim=WIDTH, timesteps=1000)
    zi, zt = embeddings()
    encodings = torch.randn(BATCH, CONTEXT, WIDTH)
    return prior, lambda: prior(text_embed=zt, image_embed=zi, text_encodings=encodings)


def embeddings() -> tuple[Tensor, Tensor]:
    """Random unit embeddings of pictures and captions, (B, W) each."""
    zi, zt = F.normalize(torch.randn(2, BATCH, WIDTH), dim=-1)
    return zi, zt


if __name__ == "__main__":
    sys.exit(main())
