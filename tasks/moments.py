"""The moments of a part's kept rows, kept in the store: only parts that are new, or kept otherwise, cost."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from models.pca import Moments
from tasks.context import Context
from unclip.artifact import Artifact
from unclip.data.table import unit, vectors_of

CHUNK_ROWS = 8192
Rows = NDArray[np.int64]


def moments_of(ctx: Context, part: Artifact, rows: Rows) -> Moments:
    """The moments of the unit image embeddings of some rows of a part, found in the store or computed and kept."""
    inputs: dict[str, tuple[str, ...]] = {
        "embed": (part.digest,),
        "rows": (hashlib.sha256(rows.tobytes()).hexdigest(),),
    }
    write = partial(write_moments, part.path / "part.parquet", rows)
    return read_moments(ctx.piece("moments", inputs, {}, write))


def read_moments(folder: Path) -> Moments:
    """What `write_moments` wrote."""
    found = load_file(folder / "moments.safetensors")
    return Moments(int(found["count"]), found["mean"], found["scatter"])


def write_moments(path: Path, rows: Rows, out: Path) -> None:
    """Write `moments.safetensors`: count, mean (D,) and scatter (D, D) in float64."""
    vectors = vectors_of(path, "image_embedding")
    moments = Moments.of(torch.empty(0, vectors.shape[1]))
    for start in range(0, len(rows), CHUNK_ROWS):
        moments = moments.merge(Moments.of(torch.from_numpy(unit(vectors[rows[start : start + CHUNK_ROWS]]))))
    tensors = {"count": torch.tensor(moments.count), "mean": moments.mean, "scatter": moments.scatter}
    save_file(tensors, out / "moments.safetensors")
