"""What the filters cost: scores a picture, and the policies over 10,000 to a million rows.

`python -m benchmarks.scale_filters [--rows 10000 100000 1000000] [--px 512] [--rounds N] [--clock wall]`: every size in
a process of its own, the sizes in turn. Asked: from 10,000 rows to a million cost grows as n^1.1 at most, and the most
memory of the process's own (files that it maps are the system's to take back) by a tenth; exit code 1 where either
grows faster. Score files of 10,000 rows and table parts of 16 dimensions are drawn first.
"""

import argparse
import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.overhead import ROOT, machine
from benchmarks.scale_stages import timed, took, watch_memory
from unclip.data.candidates import Candidates
from unclip.data.config import FilterConfig, SelectConfig
from unclip.data.embed import text_digest
from unclip.data.filters import KEPT_SCHEMA, filter_rows
from unclip.data.languages import language_of
from unclip.data.scores import SCORES_SCHEMA, read_scores, score_caption, score_picture
from unclip.data.select import KEPT_SCHEMA as SELECTED_SCHEMA
from unclip.data.select import kept_tables, select_rows
from unclip.data.selection import write_kept
from unclip.data.shards import sample_key
from unclip.data.table import Embedded, TableInfo, write_part

SHARD_ROWS = 10_000
MAX_EXPONENT, MAX_MEMORY = 1.1, 1.1
POLICIES = {
    "filter": FilterConfig(languages=("en", "unknown"), min_language_prob=0.4, max_per_caption=3),
    "filter, perceptual": FilterConfig(max_hamming=4, keep="sharpest"),
    "select": SelectConfig(min_clip_score=-0.5, drop_shared_captions=True, keep_fraction=0.3),
    "select, leaks": SelectConfig(max_leak_cosine=0.96),
}
NO_SOURCE = {"group": None, "split": None, "unsafe": None, "watermark": None}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--px", type=int, default=512, help="side of the pictures that are scored")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--one", nargs=3, metavar=("POLICY", "ROWS", "FOLDER"), help="measure one thing, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], int(options.one[1]), Path(options.one[2]))))
        return 0
    print(machine())
    print_scores(options.px)
    with tempfile.TemporaryDirectory(prefix="filters-") as folder:
        for shard in range(max(options.rows) // SHARD_ROWS):
            draw_shard(Path(folder), shard)
        return max(judge(policy, options, Path(folder)) for policy in POLICIES)


def print_scores(px: int) -> None:
    """What each score of a picture and a caption takes."""
    coarse = np.random.default_rng(0).integers(0, 256, (px // 8, px // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((px, px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG")
    caption = "a photo of a dog that runs along the beach"
    language_of(caption)  # loads what it needs, for a second
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: Image.open(io.BytesIO(file.getvalue())).load(),
        "score the pixels": lambda: score_picture(image),
        "score the caption": lambda: score_caption(caption),
    }
    for name, part in parts.items():
        print(f"{name:<20} {1e6 * seconds_of(part):8.0f} µs" + (f"  ({px} px JPEG)" if name == "decode" else ""))


def seconds_of(part: Callable[[], object], times: int = 50) -> float:
    """The median of some calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        part()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def draw_shard(folder: Path, shard: int) -> None:
    """The scores of a shard, every twentieth picture there already, and its part of the table."""
    rng = np.random.default_rng(shard)
    numbers = rng.integers(0, 256, (SHARD_ROWS, 32), dtype=np.uint8)
    numbers[::20, 4:] = 0
    captions = [f"caption number {n} of a picture" for n in rng.integers(0, 10**6, SHARD_ROWS)]
    keys = [sample_key(shard, row) for row in range(SHARD_ROWS)]
    rows = [
        {
            "key": keys[i],
            "status": "ok",
            "width": 300 + i % 200,
            "height": 300,
            "std": 40.0,
            "sharpness": i % 97,
            "pixel_digest": numbers[i].tobytes(),
            "perceptual_hash": int(numbers[i, 8:16].view(np.uint64)[0]),
            "words": 6,
            "chars": 30,
            "language": "en",
            "language_prob": i % 100 / 99,
            "caption": captions[i],
            **NO_SOURCE,
        }
        for i in range(SHARD_ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), folder / f"{shard:06d}.scores", compression="zstd")
    image, text = rng.normal(size=(2, SHARD_ROWS, 16)).astype(np.float32)
    digest = text_digest("drawn")
    info = TableInfo(
        **dict.fromkeys(("weights_digest", "preprocessing_digest", "shard_digest"), digest),
        **dict.fromkeys(("model", "tokenizer", "compute_type", "versions"), "drawn"),
        context=1,
        dimension=16,
        num_rows=SHARD_ROWS,
    )
    embedded = Embedded(
        keys=keys,
        sample_ids=[bytes(16)] * SHARD_ROWS,
        image_sha256=[bytes(32)] * SHARD_ROWS,
        image=image,
        text=text,
        tokens=np.ones((SHARD_ROWS, 1), np.int32),
        captions=captions,
    )
    write_part(folder / f"{shard:06d}.parquet", embedded, info)


def measured(policy: str, num_rows: int, folder: Path) -> dict[str, float]:
    """Seconds and memory of one policy over the first rows, reading and writing included."""
    config, shards = POLICIES[policy], range(num_rows // SHARD_ROWS)
    threading.Thread(target=watch_memory, daemon=True).start()
    with tempfile.TemporaryDirectory(dir=folder) as name, timed():
        out = Path(name)
        if isinstance(config, SelectConfig):
            selected(config, [folder / f"{shard:06d}.parquet" for shard in shards], folder, out)
        else:
            scores = read_scores(folder / f"{shard:06d}.scores" for shard in shards)
            selection, kept = filter_rows(config, scores, work=out)
            write_kept(folder / f"kept{num_rows}", kept, KEPT_SCHEMA)
            selection.write(out)
    return took


def selected(config: SelectConfig, parts: list[Path], folder: Path, out: Path) -> None:
    """Select from what the last filter of as many rows kept."""
    rows = Candidates(parts, folder / f"kept{len(parts) * SHARD_ROWS}", work=out)
    selection = select_rows(config, rows)
    write_kept(out / "kept.parquet", kept_tables(rows, selection), SELECTED_SCHEMA)
    selection.write(out)


def measured_runs(policy: str, options: argparse.Namespace, folder: Path) -> dict[int, list[dict[str, float]]]:
    """What each round took, by rows, the sizes in turn."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in options.rows}
    for size in options.rows * options.rounds:
        argv = [sys.executable, "-m", "benchmarks.scale_filters", "--one", policy, str(size), str(folder)]
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found[size].append(json.loads(done.stdout))
    return found


def judge(policy: str, options: argparse.Namespace, folder: Path) -> int:
    """Print a line a size, and how cost and memory grow from the smallest to the largest; 1 where it is too much."""
    medians = {}
    for size, runs in measured_runs(policy, options, folder).items():
        seconds = statistics.median(run["seconds" if options.clock == "wall" else "cpu_s"] for run in runs)
        medians[size] = seconds, statistics.median(run["own_mb"] for run in runs)
        print(f"{policy:<20} {size:>10,} rows {seconds:8.2f} s {medians[size][1]:8.0f} MB of its own", flush=True)
    small, large = min(medians), max(medians)
    if small == large:
        return 0
    exponent = math.log(medians[large][0] / medians[small][0]) / math.log(large / small)
    memory = medians[large][1] / medians[small][1]
    print(
        f"{policy:<20} grows as n^{exponent:.2f} (asked: at most {MAX_EXPONENT}), memory {memory:.2f} x ({MAX_MEMORY})"
    )
    return int(exponent > MAX_EXPONENT or memory > MAX_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
