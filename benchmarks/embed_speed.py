"""`unclip embed` beside what it cannot do without: `python -m benchmarks.embed_speed [--images N] [--rounds N]`.

ViT-B/32 with random weights over JPEGs of the size of photographs, beside the bare forward pass of both towers at the
same batch and precision, over crops that are in memory: asked is 0.92 of the images a second of our own forward, which
does no more than ours in the dump; open_clip's does more. A CLIP of next to no layers, beside bare decoding and
resizing in as many threads as there are cores: asked is 0.85, by Pillow as everybody does it; a dump resizes otherwise.
A dump of a hundred shards that gets one more, beside making it: asked is 1 % of the time; `--only-grow --grow b32` with
a real encoder.

They run in turn over the same images, in one process; figures are medians, of ratios with the least and the most, and
of seconds of the cores' work besides: on a machine that others use these waver less.
A dump is made from tars to its manifest; what is left out is the start of Python and the loading of weights, which the
last figure shows. Exit code 1 where a target is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `unclip embed` does; read when torch is imported

import numpy as np
import torch
from PIL import Image

from benchmarks.overhead import machine
from benchmarks.photos import write_photos
from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from tasks.clip_encoder import ClipEncoder
from tasks.clip_files import save_clip
from unclip.data.config import ShardsConfig
from unclip.data.dump import fill_dump
from unclip.data.dump_engine import Engine
from unclip.data.images import crop_square, open_rgb
from unclip.data.listings import Listing, tar_listing

TINY = ClipConfig(
    embed_dim=64,
    vision=VisionConfig(image_px=224, patch_px=56, width=32, layers=1, head_width=32),
    text=TextConfig(context=77, width=32, heads=1, layers=1),
)
FORWARD_SHARE, DECODE_SHARE, ONE_MORE_SHARE = 0.92, 0.85, 0.01
CHUNK = 16  # pictures that a thread decodes at a time


def main() -> int:
    """Measure, print, judge."""
    options = arguments()
    print(f"{machine()}; {options.images} images a round, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="embed-speed-") as name:
        aside = Path(name)
        failed = 0
        if not options.only_grow:
            write_photos(aside / "tars", 1, options.images)
            for precision in options.precision:
                failed |= beside_forward(aside, precision, options)
            failed |= beside_decoding(aside, options)
        if options.shards:
            failed |= one_more(aside, options)
    return failed


def arguments() -> argparse.Namespace:
    """How much to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--workers", type=int, default=0, help="processes that decode; 0: threads")
    parser.add_argument("--shards", type=int, default=100, help="of the dump that gets one more; 0: leave it out")
    parser.add_argument("--shard-rows", type=int, default=50, help="of each of its shards")
    parser.add_argument("--grow", choices=("tiny", "b32"), default="tiny", help="the CLIP of that dump")
    parser.add_argument("--only-ours", action="store_true", help="leave open_clip's own forward out: it takes longest")
    parser.add_argument("--only-grow", action="store_true", help="measure nothing else")
    return parser.parse_args()


def beside_forward(aside: Path, precision: str, options: argparse.Namespace) -> int:
    """ViT-B/32 and its forward pass."""
    plain = Clip(ClipSpec.from_name("ViT-B-32")).eval().requires_grad_(False)
    encoder = saved(aside / "b32", plain, precision)
    listing = tar_listing(aside / "tars" / "00000.tar", 0)
    num_crops = min(options.batch_size, len(listing))
    pixels = np.stack([encoder.crop(open_rgb(listing.find(i).data)) for i in range(num_crops)])
    tokens = encoder.tokenize([listing.find(i).caption for i in range(len(listing))])
    by_length = tokens[np.argsort((tokens != 0).sum(1), kind="stable")]

    def forward() -> None:
        for start in range(0, len(listing), options.batch_size):
            encoder.encode_image(pixels[: len(listing) - start])
            encoder.encode_text(by_length[start : start + options.batch_size])

    ways: dict[str, Callable[[], None]] = {
        "dump": lambda: dumped(aside, encoder, options),
        "our forward": forward,
    }
    if not options.only_ours:
        ways["open_clip's forward"] = partial(plain_forward, plain, precision, pixels, tokens, options.batch_size)
    return compared(f"ViT-B/32 {precision}", ways, options, FORWARD_SHARE)


@torch.inference_mode()
def plain_forward(plain: Clip, precision: str, pixels: np.ndarray, tokens: np.ndarray, batch_size: int) -> None:
    """Both towers as open_clip computes them: whole contexts, and in bf16 weights narrowed by autocast."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for start in range(0, len(tokens), batch_size):
            plain.encode_image(torch.from_numpy(pixels[: len(tokens) - start]))
            plain.encode_text(torch.from_numpy(tokens[start : start + batch_size]).long())


def beside_decoding(aside: Path, options: argparse.Namespace) -> int:
    """A CLIP of next to no layers, and decoding with resizing: by Pillow as open_clip does it, and as a dump does."""
    encoder = saved(aside / "tiny", Clip(ClipSpec.from_config(TINY, range(1, 40_000))), "fp32")
    listing = tar_listing(aside / "tars" / "00000.tar", 0)
    ways: dict[str, Callable[[], None]] = {
        "dump": lambda: dumped(aside, encoder, options),
        "decode, resize": lambda: decoded(listing, partial(crop_square, px=224)),
        "decode, resize by us": lambda: decoded(listing, encoder.crop),
    }
    return compared("tiny CLIP", ways, options, DECODE_SHARE)


def decoded(listing: Listing, crop: Callable[[Image.Image], object]) -> None:
    """Every picture read, decoded and resized, by a thread a core."""

    def chunk(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(listing))):
            np.asarray(crop(open_rgb(listing.find(i).data)))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(chunk, range(0, len(listing), CHUNK)))


def one_more(aside: Path, options: argparse.Namespace) -> int:
    """A dump of many shards, and the same with one shard more."""
    spec = ClipSpec.from_name("ViT-B-32") if options.grow == "b32" else ClipSpec.from_config(TINY, range(1, 40_000))
    encoder = saved(aside / "growing-clip", Clip(spec).eval(), options.precision[-1])
    tars, rows = aside / "many", options.shard_rows
    write_photos(tars, options.shards, rows)
    engine = Engine(encoder, (lambda: encoder,), options.batch_size, options.workers)
    source = ShardsConfig(pattern=str(tars / "*.tar"))

    def grow() -> object:
        return fill_dump(source, aside / "growing", engine, aside / "growing-clip", quiet)

    whole = timed(grow)
    write_photos(tars, 1, rows, first=options.shards)
    more, none = timed(grow), timed(grow)
    print(
        f"{options.grow}, {options.shards} shards of {rows}: {whole:.1f} s; one more {more:.2f} s, {more / whole:.2%} "
        f"({ONE_MORE_SHARE:.0%} asked, {1 / options.shards:.0%} is the shard itself); nothing new {none:.3f} s"
    )
    return int(more / whole > ONE_MORE_SHARE + 1 / options.shards)


def saved(folder: Path, clip: Clip, precision: str) -> ClipEncoder:
    """The encoder of a CLIP, in whose folder its weights lie."""
    from tasks.dump import open_encoder

    folder.mkdir(exist_ok=True)
    save_clip(folder, clip)
    return open_encoder(folder, precision)


def dumped(aside: Path, encoder: ClipEncoder, options: argparse.Namespace) -> None:
    """One dump of the images, from the tar to the manifest."""
    folder = aside / ("tiny" if encoder.name == "scratch" else "b32")
    engine = Engine(encoder, (lambda: encoder,), options.batch_size, options.workers)
    with tempfile.TemporaryDirectory(dir=aside) as out:
        manifest = fill_dump(ShardsConfig(pattern=str(aside / "tars" / "*.tar")), Path(out), engine, folder, quiet)
    assert manifest["rows"] == options.images


def quiet(*_: float) -> None:
    """Nobody watches."""


def compared(what: str, ways: dict[str, Callable[[], None]], options: argparse.Namespace, asked: float) -> int:
    """Run each way in turn, print images a second and ratios to the dump; 0 where the second way's is as asked."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            took[name].append(timed(ways[name]))
            work[name].append(time.process_time() - began)
            print(f"  {what} {name}: {took[name][-1]:.1f} s", file=sys.stderr, flush=True)
    ratios = {}
    for name, seconds in took.items():
        pairs = [theirs / ours for theirs, ours in zip(seconds, took["dump"], strict=True)]
        ratios[name] = statistics.median(pairs)
        by_work = statistics.median(b / a for a, b in zip(work["dump"], work[name], strict=True))
        speed = options.images / statistics.median(seconds)
        print(
            f"{what:<14} {name:<20} {speed:7.1f} images/s   dump / this: {ratios[name]:.3f} "
            f"({min(pairs):.3f} to {max(pairs):.3f}); by the cores' work {by_work:.3f}",
            flush=True,
        )
    judged = ratios[list(ways)[1]]
    print(f"{what:<14} {asked} asked: {'met' if judged >= asked else 'missed'}", flush=True)
    return int(judged < asked)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
