"""Stage `pca`: principal components of the kept training rows' image embeddings, and their buckets (§2.2)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.pca import Moments, Pca, fit_pca, reconstruction_error
from tasks.context import Context
from tasks.files import save_weights, write_json
from tasks.moments import Rows, moments_of
from unclip.artifact import Artifact
from unclip.data.table import check_agree, unit, vectors_of

BUCKET_ROWS = 65_536  # at most, of all parts together, from which buckets are fitted


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
    """The moments of all kept training rows, and a seeded sample (N, D) of them, a part's share by its size."""
    moments: Moments | None = None
    sample: list[Tensor] = []
    most = max(1, BUCKET_ROWS // len(ctx.inputs["embed"]))
    generator = torch.Generator().manual_seed(ctx.seed)
    for part, rows in kept_rows(ctx):
        found = moments_of(ctx, part, rows)
        moments = found if moments is None else moments.merge(found)
        chosen = rows[torch.randperm(len(rows), generator=generator)[:most].numpy()]
        images = vectors_of(part.path / "part.parquet", "image_embedding")
        sample.append(torch.from_numpy(unit(images[chosen])))
    if moments is None:
        raise ValueError("pca has no training row: every row was dropped or held out")
    return moments, torch.cat(sample)


def kept_rows(ctx: Context) -> Iterator[tuple[Artifact, Rows]]:
    """Each part of the table that has kept training rows, with their numbers."""
    parts = ctx.inputs["embed"]
    check_agree([part.path / "part.parquet" for part in parts])
    kept = pq.read_table(ctx.one("select").path / "kept.parquet", columns=["shard", "row", "split"])
    kept = kept.filter(pc.equal(kept["split"], "train"))
    shard, row = kept["shard"].to_numpy(), kept["row"].to_numpy().astype(np.int64)
    for number, part in enumerate(parts):
        ctx.progress(number, len(parts))
        if (shard == number).any():
            yield part, row[shard == number]
    ctx.progress(len(parts), len(parts))


def measure(pca: Pca, rows: Tensor) -> dict[str, float]:
    """Mean squared error of embeddings (N, D) rebuilt from their components, and from their buckets."""
    coefficients = pca.encode(rows)
    rebuilt, bucketed = pca.decode(coefficients), pca.decode(pca.dequantise(pca.quantise(coefficients)))
    return {"mse": float((rebuilt - rows).square().mean()), "bucket_mse": float((bucketed - rows).square().mean())}
