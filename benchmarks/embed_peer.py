"""`unclip embed` beside clip-retrieval, same shards, same weights: `python -m benchmarks.embed_peer --python PYTHON`.

PYTHON is that of an environment of its own, made by

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -r benchmarks/peers_embed.txt

ViT-B/32 with random weights, images and captions, each side a command from its start to its end, in turn. Asked: 1.3 x
its images a second, a lower peak of memory (resident, of the process tree), and rows in the order of the tars where its
are not. Exit code 1 where one is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.overhead import ROOT, machine
from benchmarks.photos import write_photos
from models.clip import Clip, ClipSpec
from tasks.files import save_weights
from unclip.data.dump import part_paths
from unclip.data.table import read_part

SHARDS, POLL_S, ASKED = 4, 0.2, 1.3
PAGE = os.sysconf("SC_PAGE_SIZE")
OURS = "from flows.cli import main; main()"
THEIRS = """
import json, sys
from clip_retrieval.clip_inference.main import main
main(**json.loads(sys.argv[1]))
"""


def main() -> int:
    """Measure, print, judge."""
    options = arguments()
    print(f"{machine()}; {options.images} images in {SHARDS} tars, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="embed-peer-") as name:
        aside = Path(name)
        write_photos(aside / "tars", SHARDS, options.images // SHARDS)
        network = Clip(ClipSpec.from_name("ViT-B-32")).network
        save_weights(aside / "weights.safetensors", network)
        torch.save(network.state_dict(), aside / "weights.pt")
        took: dict[str, list[tuple[float, float]]] = {"unclip": [], "clip-retrieval": []}
        for number in range(options.rounds):
            for side in list(took)[:: 1 if number % 2 else -1]:
                command = ours(aside, number, options) if side == "unclip" else theirs(aside, number, options)
                took[side].append(run(command, aside / "log"))
                seconds, peak = took[side][-1]
                print(f"{side:<15} {options.images / seconds:6.2f} images/s, peak {peak / 1e6:,.0f} MB", flush=True)
        return judged(aside, took)


def arguments() -> argparse.Namespace:
    """How much to measure, and where the peer is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the peer's environment")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="fp32", help="ours; theirs is fp32 on a CPU")
    return parser.parse_args()


def ours(aside: Path, number: int, options: argparse.Namespace) -> list[str]:
    """Our command."""
    pattern, weights = str(aside / "tars" / "*.tar"), f"ViT-B-32:{aside / 'weights.safetensors'}"
    sets = (f"embed.batch_size={options.batch_size}", f"embed.precision={options.precision}")
    settings = ["--device", "cpu", *(word for text in sets for word in ("--set", text))]
    return [
        sys.executable,
        "-c",
        OURS,
        "embed",
        pattern,
        "--out",
        str(aside / f"o{number}"),
        "--clip",
        weights,
        *settings,
    ]


def theirs(aside: Path, number: int, options: argparse.Namespace) -> list[str]:
    """The peer's command."""
    settings = {
        "input_dataset": str(aside / "tars" / f"{{00000..{SHARDS - 1:05d}}}.tar"),
        "output_folder": str(aside / f"t{number}"),
        "input_format": "webdataset",
        "clip_model": f"open_clip:ViT-B-32/{aside / 'weights.pt'}",
        "batch_size": options.batch_size,
        "num_prepro_workers": len(os.sched_getaffinity(0)),
        "enable_wandb": False,
    }
    return [str(options.python), "-c", THEIRS, json.dumps(settings)]


def run(command: list[str], log: Path) -> tuple[float, float]:
    """Seconds of a command, and the most bytes that its processes held together."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if command[0] == sys.executable else ""}
    began = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)
        with watched(process.pid) as peak:
            code = process.wait()
    if code:
        sys.exit(log.read_text()[-3000:])
    return time.perf_counter() - began, peak[0]


@contextmanager
def watched(session: int) -> Iterator[list[float]]:
    """The most bytes resident in the processes of a session, kept up to date."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_S):
            peak[0] = max(peak[0], resident(session))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def resident(session: int) -> float:
    """Bytes resident in the processes of a session."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        total += int(fields[21]) * PAGE if int(fields[3]) == session else 0
    return total


def judged(aside: Path, took: dict[str, list[tuple[float, float]]]) -> int:
    """Speeds, memory and rows beside each other; 0 where all is as asked."""
    seconds = {side: [taken for taken, _ in runs] for side, runs in took.items()}
    peaks = {side: max(peak for _, peak in runs) for side, runs in took.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["unclip"], seconds["clip-retrieval"], strict=True))
    keys, images = our_rows(aside / "o0")
    their_keys, their_images = their_rows(aside / "t0")
    in_order = sum(a == b for a, b in zip(keys, their_keys, strict=False))
    places = {key: place for place, key in enumerate(keys)}
    near = np.array([images[places[key]] @ row for key, row in zip(their_keys, their_images, strict=True)])
    print(
        f"{ratio:.2f} x as fast, {ASKED} asked; peak memory {peaks['unclip'] / peaks['clip-retrieval']:.2f} of theirs"
    )
    print(f"rows: ours {len(keys)}, in the order of the tars: {keys == sorted(keys)}")
    print(f"rows: theirs {len(their_keys)}, {in_order} in that order; cosine with ours, by key, least {near.min():.4f}")
    return int(ratio < ASKED or peaks["unclip"] >= peaks["clip-retrieval"] or keys != sorted(keys))


def our_rows(dump: Path) -> tuple[list[str], np.ndarray]:
    """Keys and unit image embeddings of our dump, as it holds them."""
    parts = [read_part(path) for path in part_paths(dump)]
    return [key for part in parts for key in part.keys], np.concatenate([part.image for part in parts])


def their_rows(folder: Path) -> tuple[list[str], np.ndarray]:
    """Keys and image embeddings of the peer's folder, as it holds them."""
    tables = sorted((folder / "metadata").glob("*.parquet"))
    keys = [str(key) for path in tables for key in pq.read_table(path)["image_path"].to_pylist()]
    arrays = [np.load(path) for path in sorted((folder / "img_emb").glob("*.npy"))]
    return keys, np.concatenate(arrays).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
