"""What `pca` keeps of a part's kept rows in the store: only parts that are new, or kept otherwise, are read.

It is decided by the part's bytes, the numbers of its rows that are kept, and the seed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from models.pca import Moments
from tasks.context import Context
from unclip.artifact import Artifact
from unclip.data.table import TableInfo, read_info, unit, vectors_of
from unclip.recipe import digest_of

CHUNK_ROWS = 8192
SAMPLE_ROWS = 4096  # at most: 6 MB of 768 dimensions, beside 5 MB of moments
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """What is kept of a part: the moments of its kept rows, a sample of them, what the part says of itself."""

    moments: Moments
    sample: NDArray[np.float16]  # (at most SAMPLE_ROWS, D) in the order of a draw: its first rows are one too
    info: TableInfo


def kept_of(ctx: Context, part: Artifact, rows: Rows) -> Kept:
    """What is kept of some rows of a part, found in the store or computed and kept there."""
    inputs: dict[str, tuple[str, ...]] = {
        "embed": (part.digest,),
        "rows": (hashlib.sha256(rows.tobytes()).hexdigest(),),
    }
    seed = int(digest_of([ctx.seed, inputs])[:16], 16)  # parts of one size do not give the same places
    write = partial(write_moments, part.path / "part.parquet", rows, seed=seed)
    folder = ctx.piece("moments", inputs, {}, write)
    info = TableInfo(**json.loads((folder / "part.json").read_text()))
    return Kept(read_moments(folder), np.load(folder / "sample.npy", mmap_mode="r"), info)


def read_moments(folder: Path) -> Moments:
    """The moments that `write_moments` wrote."""
    found = load_file(folder / "moments.safetensors")
    return Moments(int(found["count"]), found["mean"], found["scatter"])


def write_moments(path: Path, rows: Rows, out: Path, seed: int = 0) -> None:
    """Write `moments.safetensors`: count, mean (D,) and scatter (D, D) in float64; `sample.npy`; `part.json`."""
    vectors = vectors_of(path, "image_embedding")
    moments = Moments.of(torch.empty(0, vectors.shape[1]))
    for start in range(0, len(rows), CHUNK_ROWS):
        moments = moments.merge(Moments.of(torch.from_numpy(unit(vectors[rows[start : start + CHUNK_ROWS]]))))
    tensors = {"count": torch.tensor(moments.count), "mean": moments.mean, "scatter": moments.scatter}
    save_file(tensors, out / "moments.safetensors")
    np.save(out / "sample.npy", vectors[np.random.default_rng(seed).permutation(rows)[:SAMPLE_ROWS]])
    (out / "part.json").write_text(json.dumps(asdict(read_info(path)), sort_keys=True) + "\n")
