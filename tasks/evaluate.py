"""Stage `evaluate`: pictures for held-out captions under every conditioning, and what they are worth.

N captions, P pixels a side, D embedding dimension.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.stack import Stack
from tasks.assemble_config import PRIORS
from tasks.context import Context
from tasks.evaluate_config import MIN_ROWS, EvaluateConfig
from tasks.held_out import HeldOut, held_out, split_rows, training_metas
from tasks.loading import load_sampling, load_stack
from tasks.recognition import accuracies, chance
from tasks.sampling import Floats, Pixels, Sampler, image_features
from unclip.data.aesthetic import Head, load_head
from unclip.metrics.clip_score import clip_score
from unclip.metrics.diversity import diversity_within
from unclip.metrics.embeddings import embedding_figures
from unclip.metrics.fid import frechet_distance
from unclip.metrics.precision_recall import precision_recall
from unclip.report.grid import sample_grid

Figures = dict[str, float]
GIVEN = ("true_embedding", *PRIORS, "text_embedding", "caption_only")  # what the decoder is given, in order
NUM_REDRAWN = 32  # captions whose embeddings are drawn several times
TRAINING_ROWS = 2_000  # whose attributes' frequencies chance is reckoned from


def build(ctx: Context) -> dict[str, Any]:
    """Writes `metrics.json`, `samples.json`, `samples.png` and the pictures it shows; every figure by its path."""
    config: EvaluateConfig = ctx.config
    stack = load_stack(ctx.one("assemble"), device=ctx.device)
    sampler = Sampler(
        stack=stack,
        sampling=load_sampling(ctx.one("assemble")),
        batch_size=config.batch_size,
        precision=config.precision,
        seed=ctx.seed,
    )
    rows, reference = held_out_rows(ctx, stack.top.config.high_px)
    embeddings = embeddings_of(sampler, rows)
    made = {"real": rows.pictures} | make_pictures(ctx, sampler, rows, embeddings)
    record = {
        "prior": sampler.sampling.prior,
        "embedding": stack.decoder.config.embedding,
        "num_captions": len(rows),
        "num_reference": len(reference),
        "targets": dict(config.targets or {}),
        "conditionings": conditioning_figures(stack, rows, reference, made, config, head_of(ctx))
        | {"chance": chance_figures(ctx, rows)},
        "priors": prior_figures(sampler, rows, reference, embeddings, config.num_draws),
    }
    (ctx.out / "metrics.json").write_text(json.dumps(record, indent=1))
    write_samples(ctx.out, rows, made, config.num_shown)
    return flat({"conditionings": record["conditionings"], "priors": record["priors"]})


def held_out_rows(ctx: Context, px: int) -> tuple[HeldOut, HeldOut]:
    """The rows to caption and the rows to compare with, pictures at the stack's side."""
    config: EvaluateConfig = ctx.config
    shards = [artifact.path / "shard.tar" for artifact in ctx.inputs["shards"]]
    parts = [artifact.path / "part.parquet" for artifact in ctx.inputs["embed"]]
    kept = ctx.one("select").path / "kept.parquet"
    rows = held_out(shards, parts, kept, config.num_captions + config.num_reference, px, ctx.seed)
    return split_rows(rows, config.num_captions, MIN_ROWS)


def embeddings_of(sampler: Sampler, rows: HeldOut) -> dict[str, Floats]:
    """The unit embeddings (N, D) that stand for an image embedding, by conditioning."""
    drawn = {name: sampler.embeddings(name, rows.zt, rows.tokens) for name in PRIORS}
    return {"true_embedding": rows.zi, **drawn, "text_embedding": rows.zt}


def make_pictures(ctx: Context, sampler: Sampler, rows: HeldOut, embeddings: dict[str, Floats]) -> dict[str, Pixels]:
    """Pictures (N, P, P, 3) of every conditioning, all from the same noise; `caption_only` has no embedding.

    On a CPU each is made by one thread, as many at a time as there are cores: small networks leave a second one idle.
    """
    done, total, telling = 0, len(GIVEN) * len(rows), Lock()

    def tell(num_rows: int) -> None:
        nonlocal done
        with telling:
            done += num_rows
            ctx.progress(done, total)

    def make(name: str) -> Pixels:
        return sampler.pictures(embeddings.get(name), rows.tokens, tell)

    with one_thread_each(ctx.device), ThreadPoolExecutor(ctx.threads if ctx.device == "cpu" else 1) as pool:
        return dict(zip(GIVEN, pool.map(make, GIVEN), strict=True))


@contextmanager
def one_thread_each(device: str) -> Iterator[None]:
    """While inside, a network on a CPU computes in the thread that calls it alone."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def head_of(ctx: Context) -> Head | None:
    """The aesthetic head, where the pipeline has one: it was fitted on embeddings of this CLIP, or rated nothing."""
    rated = ctx.inputs.get("aesthetic", ())
    return load_head(rated[0].path) if rated else None


def conditioning_figures(
    stack: Stack,
    rows: HeldOut,
    reference: HeldOut,
    made: dict[str, Pixels],
    config: EvaluateConfig,
    head: Head | None = None,
) -> dict[str, Figures]:
    """Every figure of every conditioning but chance; a mean rating by the aesthetic head where there is one."""
    truth = image_features(stack.clip, reference.pictures, config.batch_size)
    found: dict[str, Figures] = {}
    for name, pixels in made.items():
        features = image_features(stack.clip, pixels, config.batch_size)
        found[name] = accuracies(pixels, rows.metas) | picture_figures(features, rows.zt, truth)
        if head is not None:
            found[name]["aesthetic"] = float(head.rate(features).mean())
    return found


def chance_figures(ctx: Context, rows: HeldOut) -> Figures:
    """What guesses reach: attributes by their frequency in training, and true embeddings under other captions."""
    shards = [artifact.path / "shard.tar" for artifact in ctx.inputs["shards"]]
    training = training_metas(shards, ctx.one("select").path / "kept.parquet", TRAINING_ROWS)
    return chance(rows.metas, training) | {"clip_score": clip_score(np.roll(rows.zi, 1, axis=0), rows.zt)}


def picture_figures(features: Floats, zt: Floats, truth: Floats) -> Figures:
    """CLIP score against captions (N, D), and distance and overlap of picture features with the real ones (M, D)."""
    overlap = precision_recall(truth, features)
    return {
        "clip_score": clip_score(features, zt),
        "frechet_clip": frechet_distance(truth, features),
        "precision": overlap.precision,
        "recall": overlap.recall,
    }


def prior_figures(
    sampler: Sampler, rows: HeldOut, reference: HeldOut, embeddings: dict[str, Floats], num_draws: int
) -> dict[str, Figures]:
    """How near each prior's embeddings, and the text embeddings, come to the true ones; the truth itself first."""
    found = {}
    for name, predicted in embeddings.items():
        found[name] = embedding_figures(predicted, rows.zi, reference.zi)
        if name in PRIORS:
            found[name]["diversity_within"] = diversity_within(redrawn(sampler, name, rows, num_draws))
    return found


def redrawn(sampler: Sampler, name: str, rows: HeldOut, num_draws: int) -> Floats:
    """Embeddings (N, K, D) of a prior: K = num_draws for each of the first NUM_REDRAWN captions."""
    few = rows.rows(0, NUM_REDRAWN)
    draws = range(1, num_draws + 1)  # 0 is what the pictures are made from
    return np.stack([sampler.embeddings(name, few.zt, few.tokens, n) for n in draws], axis=1)


def write_samples(out: Path, rows: HeldOut, made: dict[str, Pixels], num_shown: int) -> None:
    """The first rows as one grid, as single pictures, and as a list of both."""
    num_shown = min(num_shown, len(rows))
    (out / "samples").mkdir(exist_ok=True)
    listed = []
    for row in range(num_shown):
        names = {name: f"samples/{row:02d}_{name}.png" for name in made}
        for name, path in names.items():
            Image.fromarray(made[name][row]).save(out / path)
        listed.append({"key": rows.keys[row], "caption": rows.captions[row], "images": names})
    (out / "samples.json").write_text(json.dumps(listed, indent=1, ensure_ascii=False))
    shown = {name: pixels[:num_shown] for name, pixels in made.items()}
    sample_grid(shown, rows.captions[:num_shown]).save(out / "samples.png")


def flat(tree: dict[str, Any], path: str = "") -> Figures:
    """Numbers in nested maps, by their path with slashes."""
    found: Figures = {}
    for name, value in tree.items():
        found |= flat(value, f"{path}{name}/") if isinstance(value, dict) else {path + name: float(value)}
    return found
