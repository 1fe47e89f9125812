"""Stage `pca`: principal components of the kept training rows' image embeddings, and their buckets (§2.2)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.pca import Moments, Pca, fit_pca, reconstruction_error
from tasks.context import Context
from tasks.files import save_weights, write_json
from tasks.moments import SAMPLE_ROWS, Rows, kept_of
from unclip.artifact import Artifact
from unclip.data.table import TableInfo, check_alike, unit

BUCKET_ROWS = 65_536  # at most, of all parts together, that buckets are fitted on


def build(ctx: Context) -> dict[str, Any]:
    """Fits components by each part's moments, buckets on a seeded sample of the table, and writes both.

    Raises: ValueError when too few rows are left, or more components are asked for than there are dimensions.
    """
    moments, sample = gather(ctx)
    config = ctx.config
    pca = fit_pca(moments, config.num_components, config.keep_fraction, config.num_buckets)
    pca.fit_buckets(sample)
    save_weights(ctx.out / "pca.safetensors", pca)
    figures = measure(pca, sample)
    lost = reconstruction_error(pca.eigenvalues)
    sizes = {"embed_dim": len(lost), "num_components": pca.num_components, "num_buckets": pca.num_buckets}
    record = {**sizes, **figures, "num_rows": moments.count, "buckets": "quantile", "lost_variance": lost}
    write_json(ctx.out / "pca.json", record)
    return {**sizes, **figures, "lost_fraction": lost[pca.num_components - 1]}


def gather(ctx: Context) -> tuple[Moments, Tensor]:
    """The moments of all kept training rows, and a seeded sample (N, D) of them; parts known before stay unread.

    Raises: ValueError when there is no such row, or parts are of different tables.
    """
    parts = kept_rows(ctx)
    moments: Moments | None = None
    first: TableInfo | None = None
    sample = []
    for number, ((part, rows), share) in enumerate(zip(parts, shares([len(rows) for _, rows in parts]), strict=True)):
        ctx.progress(number, len(parts))
        kept = kept_of(ctx, part, rows)
        first = first or kept.info
        check_alike(part.path / "part.parquet", kept.info, parts[0][0].path / "part.parquet", first)
        moments = kept.moments if moments is None else moments.merge(kept.moments)
        sample.append(np.array(kept.sample[:share]))
    if moments is None:
        raise ValueError("pca has no training row: every row was dropped or held out")
    ctx.progress(len(parts), len(parts))
    return moments, torch.from_numpy(unit(np.concatenate(sample)))


def kept_rows(ctx: Context) -> list[tuple[Artifact, Rows]]:
    """Each part of the table that has kept training rows, with their numbers."""
    parts = ctx.inputs["embed"]
    kept = pq.read_table(ctx.one("select").path / "kept.parquet", columns=["shard", "row", "split"])
    kept = kept.filter(pc.equal(kept["split"], "train"))
    shard, row = kept["shard"].to_numpy(), kept["row"].to_numpy().astype(np.int64)
    order = np.argsort(shard, kind="stable")
    by_part = np.split(row[order], np.searchsorted(shard[order], np.arange(1, len(parts))))
    return [(part, rows) for part, rows in zip(parts, by_part, strict=True) if len(rows)]


def shares(counts: Sequence[int]) -> list[int]:
    """How many rows of each part go into the sample: the same fraction of each, to a row, from what is kept of it.

    counts: the kept rows of each part. The largest part says the fraction where all that is kept of it is used.
    """
    total = sum(counts)
    wanted = min(total, BUCKET_ROWS, SAMPLE_ROWS * total // max(counts, default=1))
    return [int(n) for n in np.diff([0, *(end * wanted // max(total, 1) for end in accumulate(counts))])]


def measure(pca: Pca, rows: Tensor) -> dict[str, float]:
    """Mean squared error of embeddings (N, D) rebuilt from their components, and from their buckets."""
    coefficients = pca.encode(rows)
    rebuilt, bucketed = pca.decode(coefficients), pca.decode(pca.dequantise(pca.quantise(coefficients)))
    return {"mse": float((rebuilt - rows).square().mean()), "bucket_mse": float((bucketed - rows).square().mean())}
