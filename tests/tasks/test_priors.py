"""Facts about the stages `pca`, `prior_linear`, `prior_diffusion` and `prior_ar`, and about loading what they made."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from models.config import ArPriorConfig, CaptionEncoderConfig, DiffusionPriorConfig, LinearPriorConfig, PcaConfig
from tasks import pca, prior_linear, train
from tasks.assemble_config import AssembleConfig
from tasks.config import PriorArStage, PriorDiffusionStage
from tasks.context import Context
from tasks.loading import load_prior, save_stack, stack_parts
from tasks.pca_files import load_pca
from tasks.prior_rows import prior_figures, rows_of
from unclip.artifact import Artifact
from unclip.data.table import Embedded, TableInfo, write_part
from unclip.data.tokens import OwnTokens
from unclip.training.config import TrainConfig

torch.set_num_threads(1)
DIM, CONTEXT, ROWS = 8, 6, 40
CAPTION = CaptionEncoderConfig(width=8, depth=1, heads=2)
TRAIN = TrainConfig(num_steps=3, batch_size=8, learning_rate=1e-3, precision="fp32")
INFO = TableInfo(
    model="m", weights_digest="w", preprocessing_digest="p", tokenizer="t", context=CONTEXT, dimension=DIM,
    compute_type="fp32", versions="{}", shard_digest="s", num_rows=ROWS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def part(folder, shard):
    rng = np.random.default_rng(shard)
    text = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    tokens = np.zeros((ROWS, CONTEXT), np.int32)
    tokens[:, :4] = [8, 1, 2, 9]
    keys = [f"{shard:06d}{row:05d}" for row in range(ROWS)]
    rows = Embedded(
        keys=keys, sample_ids=[bytes(16)] * ROWS, image_sha256=[bytes(32)] * ROWS, image=text[:, ::-1] + 0.5,
        text=text, tokens=tokens, captions=["a b"] * ROWS,
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_part(folder / "part.parquet", rows, INFO)
    return Artifact("embed", str(shard), folder, "d"), keys


OWN = OwnTokens(vocab_size=300, pad_id=0, most=CONTEXT).said("a" * 64)


@pytest.fixture
def ctx(tmp_path):
    (one, keys_one), (two, keys_two) = part(tmp_path / "0", 0), part(tmp_path / "1", 1)
    count = 2 * ROWS
    row = [row for _ in range(2) for row in range(ROWS)]
    table = {"key": keys_one + keys_two, "shard": pa.array([0] * ROWS + [1] * ROWS, pa.int32())}
    table |= {"row": pa.array(row, pa.int32()), "split": ["validation" if i % 4 == 0 else "train" for i in row]}
    pq.write_table(pa.table(table), tmp_path / "kept.parquet")
    assert len(row) == count
    inputs = {"embed": (one, two), "select": (Artifact("select", "s", tmp_path, "d"),)}
    (tmp_path / "out").mkdir()
    return Context(stage="pca", config=PcaConfig(num_buckets=8), inputs=inputs, out=tmp_path / "out", seed=0)


def stage(ctx, name, config, **inputs):
    out = ctx.out.parent / name
    out.mkdir()
    return replace(ctx, stage=name, config=config, out=out, inputs=ctx.inputs | inputs)


def stage_of_prior(ctx, name):
    """The stage after a `pca`, its network tiny."""
    pca.build(ctx)
    diffusion = DiffusionPriorConfig(width=8, depth=1, heads=2, caption=CAPTION)
    ar = ArPriorConfig(width=8, depth=1, heads=2, caption=CAPTION, num_dot_buckets=4)
    config = {
        "prior_diffusion": PriorDiffusionStage(network=diffusion, train=TRAIN),
        "prior_ar": PriorArStage(network=ar, train=TRAIN),
        "prior_linear": LinearPriorConfig(),
    }[name]
    return stage(ctx, name, config, pca=(Artifact("pca", "p", ctx.out, "d"),))


def test_components_of_two_parts_are_those_of_the_rows_together(ctx):
    metrics = pca.build(ctx)
    loaded = load_pca(Artifact("pca", "p", ctx.out, "d"))
    zi = rows_of(stage(ctx, "other", None), "train").table.zi.copy()
    assert torch.allclose(loaded.mean, torch.from_numpy(zi.mean(0)), atol=1e-6)
    assert torch.allclose(loaded.eigenvalues.sum(), torch.from_numpy(zi).var(0, correction=0).sum(), atol=1e-5)
    record = json.loads((ctx.out / "pca.json").read_text())
    assert len(record["lost_variance"]) == DIM and metrics["lost_fraction"] <= 0.01


def test_the_errors_of_a_round_trip_are_told_and_written(ctx):
    metrics = pca.build(replace(ctx, config=PcaConfig(num_components=4, num_buckets=8)))
    loaded, zi = load_pca(Artifact("pca", "p", ctx.out, "d")), rows_of(stage(ctx, "other", None), "train").table.zi
    rows = torch.from_numpy(zi.copy())
    coefficients = loaded.encode(rows)
    for name, given in (("mse", coefficients), ("bucket_mse", loaded.dequantise(loaded.quantise(coefficients)))):
        assert metrics[name] == pytest.approx(float((loaded.decode(given) - rows).square().mean()), rel=1e-3)
    record = json.loads((ctx.out / "pca.json").read_text())
    assert 0 < record["mse"] == metrics["mse"] < record["bucket_mse"] == metrics["bucket_mse"]


def test_a_second_build_gives_the_same_bytes(ctx):
    pca.build(ctx)
    again = stage(ctx, "again", ctx.config)
    pca.build(again)
    for name in ("pca.safetensors", "pca.json"):
        assert (ctx.out / name).read_bytes() == (again.out / name).read_bytes()


def test_a_linear_prior_finds_a_linear_pairing_and_is_loaded_as_it_was(ctx):
    made = stage(ctx, "prior_linear", LinearPriorConfig())
    metrics = prior_linear.build(made)
    prior = load_prior(Artifact("prior_linear", "k", made.out, "d"))
    held = rows_of(stage(ctx, "other", None), "validation").table
    predicted = prior.sample(torch.from_numpy(held.zt.copy()), torch.from_numpy(held.tokens.copy()))
    figures = prior_figures(predicted, torch.from_numpy(held.zi.copy()))
    assert metrics["cosine"] > 0.95 and figures["cosine"] == pytest.approx(metrics["cosine"], abs=1e-6)
    assert json.loads((made.out / "curve.jsonl").read_text())["val_ema_cosine"] == metrics["cosine"]


def test_a_cosine_is_told_with_what_it_hides():
    """One answer to everything has the better cosine: it is its distance and its diversity that are bad."""
    zi = F.normalize(torch.randn(40, DIM, generator=torch.Generator().manual_seed(0)) + 0.5, dim=-1)
    same = F.normalize(zi.mean(0, keepdim=True), dim=-1).expand(40, -1)
    right, wrong, collapsed = (prior_figures(predicted, zi) for predicted in (zi, zi.roll(1, 0), same))
    assert collapsed["cosine"] > wrong["cosine"] and right["cosine"] == pytest.approx(1)
    assert max(right["frechet"], wrong["frechet"]) < 1e-6 < 0.1 < collapsed["frechet"]
    assert min(right["diversity"], wrong["diversity"]) > 0.5 and collapsed["diversity"] < 1e-6
    assert set(prior_figures(zi[:1], zi[:1])) == {"cosine", "median_rank", "recall_at_1", "recall_at_5"}


@pytest.mark.parametrize("name", ["prior_diffusion", "prior_ar"])
def test_a_trained_prior_is_scored_online_and_averaged_and_loaded(ctx, name):
    made = stage_of_prior(ctx, name)
    train.work(made)
    last = json.loads((made.out / "curve.jsonl").read_text().splitlines()[-1])
    expected = ("loss", "cosine", "frechet", "diversity", "median_rank")
    assert {f"{kind}_{figure}" for kind in ("val", "val_ema") for figure in expected} <= set(last)
    batch = rows_of(made, "validation").batch(np.arange(3))
    draws = []
    for weights in ("ema", "ema", "online"):
        prior = load_prior(Artifact(name, "k", made.out, "d"), weights=weights)
        draws.append(prior.loss(**batch, generator=torch.Generator().manual_seed(0))[0])
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("name", ["prior_diffusion", "prior_ar", "prior_linear"])
def test_embeddings_of_the_test_split_never_validate(ctx, name):
    path = ctx.one("select").path / "kept.parquet"
    kept = pq.read_table(path)
    split = pc.replace_substring(kept["split"], "validation", "test")
    pq.write_table(kept.set_column(kept.column_names.index("split"), "split", split), path)
    made = stage_of_prior(ctx, name)
    if name == "prior_linear":
        assert set(prior_linear.build(made)) == {"num_rows"}
    else:
        assert import_module(f"tasks.{name}").job(made).validate is None


def test_a_network_knows_the_vocabulary_from_the_end_token(ctx):
    assert rows_of(ctx, "train").sizes() == {"embed_dim": DIM, "vocab_size": 10, "context": CONTEXT}


def test_a_stack_refuses_a_part_that_is_not_the_assembled_one(tmp_path):
    folder = tmp_path / "artifacts"
    for kind in ("assemble", "clip"):
        (folder / kind / "k").mkdir(parents=True)
    save_stack(
        folder / "assemble" / "k", {"clip": Artifact("clip", "k", folder / "clip" / "k", "digest")}, AssembleConfig()
    )
    stack = Artifact("assemble", "k", folder / "assemble" / "k", "d")
    with pytest.raises(ValueError, match="the stack's clip is gone"):
        stack_parts(stack)
    manifest = folder / "clip" / "k" / "manifest.json"
    manifest.write_text('{"digest": "digest"}')
    assert stack_parts(stack)["clip"].path == (folder / "clip" / "k").resolve()
    manifest.write_text('{"digest": "other"}')
    with pytest.raises(ValueError, match="is not the one that was assembled"):
        stack_parts(stack)


@pytest.mark.parametrize("name", ["prior_diffusion", "prior_ar"])
def test_a_prior_of_another_tokenizer_knows_its_padding_and_words_it_never_saw(ctx, name):
    for artifact in ctx.inputs["embed"]:
        table = pq.read_table(artifact.path / "part.parquet")
        said = table.schema.metadata | {b"tokenizer": OWN.encode()}
        pq.write_table(table.replace_schema_metadata(said), artifact.path / "part.parquet")
    made = stage_of_prior(ctx, name)
    train.work(made)
    prior = load_prior(Artifact(name, "k", made.out, "d"))
    tokens = torch.tensor([[299, 5, 4, 0, 0, 0]])
    assert prior.caption.pad_id == 0 and prior.caption(tokens)[1].sum() == 3
    assert prior.sample(F.normalize(torch.ones(1, DIM), dim=1), tokens).shape == (1, DIM)
