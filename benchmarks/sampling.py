"""What sampling costs beside what it must: `python -m benchmarks.sampling [--rounds N]`, medians of N rounds in turn.

- AR prior, 319 codes: with the key-value cache, and with everything before a code computed again for it (>= 10 x).
- DDIM, 50 steps: the sampler, and as many bare calls of the network (<= 3 % more).
- Rows for a prior at random from the cached table, by batches of 4,096, two threads (>= 200,000 rows/s).

Exit code 1 where a target is missed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.overhead import machine
from models.ar_prior import ArPrior, draw, draw_top_half
from models.config import ArPriorConfig, CaptionEncoderConfig, DecoderConfig, UNetConfig
from models.decoder import Decoder
from models.pca import Pca
from tasks.prior_rows import Rows
from unclip.data.dense import Dense
from unclip.data.table import TableInfo
from unclip.training.order import batch_indices
from unclip.training.prefetch import prefetch

NUM_CODES, BATCH, STEPS = 319, 8, 50
ROWS, DIM, ROW_BATCH, NUM_BATCHES = 200_000, 768, 4096, 100


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {rounds} rounds", flush=True)
    torch.manual_seed(0)
    return max(judge_cache(rounds), judge_ddim(rounds), judge_rows(rounds))


def judge_cache(rounds: int) -> int:
    """The AR prior with and without its cache."""
    prior = ar_prior()
    zt, tokens = F.normalize(torch.randn(BATCH, DIM), dim=-1), torch.randint(1, 99, (BATCH, 77))
    cached, recomputed = in_turn(rounds, lambda: prior.sample(zt, tokens), lambda: recompute(prior, zt, tokens))
    return tell("AR prior, 319 codes: cached", cached, "recomputed", recomputed, recomputed / cached, 10.0)


def judge_ddim(rounds: int) -> int:
    """The sampler and the network alone."""
    unet = UNetConfig(channels=48, depth=1, head_channels=48, attention_px=(8,))
    decoder = Decoder(DecoderConfig(image_px=16, unet=unet), embed_dim=128, vocab_size=99, context=24).eval()
    zi, tokens = F.normalize(torch.randn(16, 128), dim=-1), torch.randint(1, 99, (16, 24))
    xt, t = torch.randn(16, 3, 16, 16), torch.full((16,), 500)

    def bare() -> None:
        with torch.no_grad():
            condition = decoder.condition(zi, tokens)
            for _ in range(STEPS):
                decoder.predict(xt, t, condition)

    alone, sampled = in_turn(rounds, bare, lambda: decoder.decode(xt, zi, tokens, STEPS))
    more = sampled / alone - 1
    print(
        f"DDIM, {STEPS} steps: network alone {alone:.2f} s, sampler {sampled:.2f} s: {more:+.1%}, at most 3 % allowed"
    )
    return int(more > 0.03)


def judge_rows(rounds: int) -> int:
    """Random rows of a table on disk."""
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        rows = Rows(table(Path(folder)))

        def read() -> None:
            for batch in prefetch(
                lambda step: rows.batch(batch_indices(0, step, ROW_BATCH, ROWS)), 0, NUM_BATCHES, 4, 2
            ):
                assert len(batch["zi"]) == ROW_BATCH

        (seconds,) = in_turn(rounds, read)
    speed = ROW_BATCH * NUM_BATCHES / seconds
    print(f"rows of {DIM} dimensions, shuffled: {speed:,.0f} rows/s, at least 200,000 asked")
    return int(speed < 200_000)


def ar_prior() -> ArPrior:
    """A small network over the paper's 319 codes of 1,024 buckets."""
    config = ArPriorConfig(width=256, depth=6, heads=8, caption=CaptionEncoderConfig(width=128, depth=2, heads=4))
    return ArPrior(config, Pca(DIM, NUM_CODES, 1024), embed_dim=DIM, vocab_size=99, context=77).eval()


@torch.no_grad()
def recompute(prior: ArPrior, zt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Codes (B, K) drawn with all that precedes a code computed anew for each."""
    start, hidden, mask = prior._condition(zt, tokens, None)
    contexts = [block.cross.keys_values(hidden) for block in prior.blocks]
    inputs, codes = [start], []
    for place in range(NUM_CODES + 1):
        x = torch.stack(inputs, dim=1) + prior.position[: place + 1]
        for block, context in zip(prior.blocks, contexts, strict=True):
            x = block(x, causal=True, context=context, context_mask=mask)
        last = prior.norm(x[:, -1])
        if place == 0:
            inputs.append(prior.dot_in(draw_top_half(prior.dot_out(last), None)))
            continue
        codes.append(draw(last @ prior.code_out[place - 1].T, None))
        if place < NUM_CODES:
            inputs.append(prior._embed(codes[-1][:, None], place - 1)[:, 0])
    return torch.stack(codes, dim=1)


def table(folder: Path) -> Dense:
    """Random rows, mapped from files as a trainer maps them."""
    rng = np.random.default_rng(0)
    for name in ("zi", "zt"):
        np.save(folder / f"{name}.npy", rng.standard_normal((ROWS, DIM), dtype=np.float32))
    np.save(folder / "tokens.npy", rng.integers(0, 99, (ROWS, 77), dtype=np.int32))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("zi", "zt", "tokens")}
    texts = dict.fromkeys(
        ("model", "weights_digest", "preprocessing_digest", "tokenizer", "versions", "shard_digest"), ""
    )
    info = TableInfo(**texts, context=77, dimension=DIM, compute_type="fp32", num_rows=ROWS)
    return Dense(keys=[], shard=np.zeros(ROWS, np.int32), info=info, **arrays)


def in_turn(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The median seconds of each call, taken in turn."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for seconds, call in zip(taken, calls, strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in taken]


def tell(what: str, first: float, other: str, second: float, ratio: float, least: float) -> int:
    """Prints a comparison; 1 where the ratio is too small."""
    print(f"{what} {first:.2f} s, {other} {second:.2f} s: {ratio:.1f} x, at least {least:g} x asked", flush=True)
    return int(ratio < least)


if __name__ == "__main__":
    sys.exit(main())
