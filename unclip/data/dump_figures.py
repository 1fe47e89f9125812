"""A dump in figures, and what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from unclip.data.digests import file_digest
from unclip.data.dump import part_paths, refused
from unclip.data.near_duplicates import near_pairs
from unclip.data.table import AGREEING, Floats, check_agree, read_part

DUPLICATE_COSINE = 0.9999
PAIRS_SAMPLE = 2_000  # rows compared with each other for the histogram and duplicates


def inspect_dump(dump: Path) -> dict[str, Any]:
    """A dump in figures: rows, dimension, norms, CLIP scores, similarities, duplicates, disk; and what is wrong.

    `problems` is empty when every file has its digest and every part is what it says.
    """
    parts = part_paths(dump)
    infos = check_agree(parts)
    norms = np.concatenate([pq.read_table(path, columns=["image_norm"])["image_norm"].to_numpy() for path in parts])
    scores = np.concatenate([pq.read_table(path, columns=["clip_score"])["clip_score"].to_numpy() for path in parts])
    sample = np.concatenate([read_part(path).image for path in parts])[:PAIRS_SAMPLE]
    near = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    counts, edges = np.histogram(near, bins=20, range=(-1, 1))
    return {
        "rows": len(norms),
        "parts": len(parts),
        "refused": refused(parts),
        "clip": {name: getattr(infos[0], name) for name in AGREEING},
        "image_norm": spread(norms),
        "clip_score": spread(scores),
        "similarity": {"edges": edges.round(2).tolist(), "counts": counts.tolist(), "rows_compared": len(sample)},
        "duplicate_pairs": sum(1 for _ in near_pairs(sample, DUPLICATE_COSINE)),
        "bytes": sum(path.stat().st_size for path in dump.rglob("*") if path.is_file()),
        "problems": problems(dump),
    }


def spread(values: Floats) -> dict[str, float]:
    """Least, mean and most."""
    if not len(values):
        return {}
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def problems(dump: Path) -> list[str]:
    """Files of the manifest that are missing or changed; a missing manifest is one too."""
    path = dump / "manifest.json"
    if not path.is_file():
        return ["manifest.json is missing: the dump was not finished; run embed again"]
    found = []
    for name, digest in json.loads(path.read_text())["files"].items():
        if not (dump / name).is_file():
            found.append(f"{name} is missing")
        elif file_digest(dump / name) != digest:
            found.append(f"{name} has changed")
    return found
