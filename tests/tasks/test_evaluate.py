import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.ar_prior import ArPrior
from models.clip import Clip, ClipSpec
from models.config import (
    ArPriorConfig,
    CaptionEncoderConfig,
    ClipConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    LinearPriorConfig,
    TextConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionConfig,
)
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.linear_prior import LinearPrior
from models.pca import Moments, fit_pca
from models.tokenizer import seen_ids
from models.upsampler import Upsampler
from tasks import assemble, decoder, evaluate, report
from tasks.assemble_config import AssembleConfig
from tasks.clip_files import load_clip, save_clip
from tasks.config import DecoderStage
from tasks.context import Context
from tasks.edit import editor
from tasks.evaluate_config import EvaluateConfig
from tasks.files import save_network, save_weights
from tasks.generate import Request, generate
from unclip.artifact import Artifact
from unclip.data.config import ShapesConfig
from unclip.data.funnel import Step
from unclip.data.rows import Row, sample_id, write_rows
from unclip.data.selection import Selection
from unclip.data.shapes import draw_picture
from unclip.data.shards import Sample, ShardReader, sample_key, write_shard
from unclip.data.table import Embedded, TableInfo, read_part, write_part
from unclip.recipe import Recipe
from unclip.store import Build, Store
from unclip.training.config import TrainConfig

DIM, CONTEXT, ROWS = 16, 40, 60
CAPTION = CaptionEncoderConfig(width=16, depth=1, heads=2)
UNET = UNetConfig(channels=8, multiples=(1,), depth=1, head_channels=8)
SAMPLING = AssembleConfig(prior_steps=2, decoder_steps=2, mid_steps=2, top_steps=2)
SMALL = {"num_captions": 12, "num_reference": 20, "num_shown": 3, "num_draws": 2}
CONFIG = EvaluateConfig(**SMALL, batch_size=5, precision="fp32", targets={"single_accuracy": 0.7})
CONDITIONINGS = ("true_embedding", "prior_diffusion", "prior_ar", "prior_linear", "text_embedding", "caption_only")
Inputs = dict[str, tuple[Artifact, ...]]


def publish(store: Store, kind: str, fill: Any, code: str = "") -> Artifact:
    recipe = Recipe(stage=kind, config={}, inputs={}, code=code, seed=0)
    return store.build(Build(kind=kind, recipe=recipe, fill=fill))[0]


def fill_shard(out: Path, with_objects: bool) -> dict[str, Any]:
    drawn = [draw_picture(ShapesConfig(num_samples=ROWS), 0, i) for i in range(ROWS)]
    samples = []
    for row, picture in enumerate(drawn):
        data = io.BytesIO()
        Image.fromarray(picture.pixels).save(data, "PNG")
        meta = picture.meta if with_objects else {}
        name = sample_id(str(row), picture.caption)
        samples.append(
            Sample(
                key=sample_key(0, row),
                image=data.getvalue(),
                extension="png",
                caption=picture.caption,
                sample_id=name,
                meta=meta,
            )
        )
    write_shard(out / "shard.tar", samples)
    kept = [Row(key=s.key, sample_id=s.sample_id, caption=s.caption) for s in samples]
    lost = [Row(sample_id=bytes(16), caption="", status="not a readable image") for _ in range(3)]
    write_rows(out / "rows.parquet", [*kept, *lost])
    return {}


def fill_clip(out: Path, captions: list[str]) -> dict[str, Any]:
    vision = VisionConfig(image_px=16, patch_px=8, width=16, layers=1, head_width=8)
    config = ClipConfig(embed_dim=DIM, vision=vision, text=TextConfig(context=CONTEXT, width=16, heads=2, layers=1))
    save_clip(out, Clip(ClipSpec.from_config(config, seen_ids(captions))))
    return {"zero_shot_color": 0.97, "zero_shot_shape": 0.5}


def fill_embed(out: Path, reader: ShardReader, clip: Clip) -> dict[str, Any]:
    captions = [reader.caption(i) for i in range(len(reader))]
    tokens = clip.tokenize(captions)
    with torch.no_grad():
        image = clip.encode_image(torch.from_numpy(np.stack([reader.decode(i) for i in range(len(reader))])))
        text = clip.encode_text(tokens)
    rows = Embedded(
        keys=list(reader.keys),
        sample_ids=[bytes(16)] * len(reader),
        image_sha256=[bytes(32)] * len(reader),
        image=image.numpy(),
        text=text.numpy(),
        tokens=tokens.numpy(),
        captions=captions,
    )
    names = ("model", "weights_digest", "preprocessing_digest", "tokenizer", "compute_type", "versions", "shard_digest")
    info = TableInfo(**dict.fromkeys(names, "x"), context=CONTEXT, dimension=DIM, num_rows=len(reader))
    write_part(out / "part.parquet", rows, info)
    return {}


def fill_select(out: Path, keys: list[str], num_test: int = 40) -> dict[str, Any]:
    splits = ["test"] * num_test + ["train"] * (len(keys) - num_test)
    kept = {"key": keys, "shard": pa.array([0] * len(keys), pa.int32()), "row": pa.array(range(len(keys)), pa.int32())}
    pq.write_table(pa.table(kept | {"split": splits}), out / "kept.parquet")
    refused = Step(stage="source", reason="not a readable image", rows_in=ROWS + 3, dropped=3)
    low = Step(stage="select", reason="low_clip_score", rows_in=ROWS, dropped=0)
    Selection.of("select", pa.array([], pa.string()), np.array([], np.int32), [refused, low]).write(out)
    return {}


def fill_network(out: Path, network: torch.nn.Module, config: Any, sizes: dict[str, int]) -> dict[str, Any]:
    save_network(out, config, **sizes)
    for parameter in network.parameters():  # heads that start at zero would draw the same picture for everything
        torch.nn.init.normal_(parameter, std=0.2)
    for name in ("ema", "online"):
        save_weights(out / f"{name}.safetensors", network)
    lines = [{"step": step, "loss": 1 / step, "val_loss": 2 / step} for step in range(1, 40)]
    (out / "curve.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return {}


def networks(vocab_size: int, rows: torch.Tensor) -> dict[str, tuple[torch.nn.Module, Any, dict[str, int]]]:
    sizes = {"embed_dim": DIM, "vocab_size": vocab_size, "context": CONTEXT}
    diffusion = DiffusionPriorConfig(width=16, depth=1, heads=2, caption=CAPTION, num_steps=10)
    ar = ArPriorConfig(width=16, depth=1, heads=2, caption=CAPTION)
    pca = fit_pca(Moments.of(rows), 4, 0.99, 8)
    pca.fit_buckets(rows)
    painter = DecoderConfig(image_px=8, unet=replace(UNET, attention_px=(8,)), caption=CAPTION, num_steps=10)
    mid = UpsamplerConfig(low_px=8, high_px=16, unet=UNET, num_steps=10)
    top = UpsamplerConfig(low_px=16, high_px=32, unet=UNET, num_steps=10)
    linear = LinearPrior(DIM)
    linear.weight.copy_(torch.eye(DIM))
    return {
        "prior_linear": (linear, LinearPriorConfig(), {"embed_dim": DIM}),
        "prior_diffusion": (DiffusionPrior(diffusion, **sizes), diffusion, sizes),
        "prior_ar": (ArPrior(ar, pca, **sizes), ar, sizes | {"num_components": 4, "num_buckets": 8}),
        "decoder": (Decoder(painter, **sizes), painter, sizes),
        "upsampler_mid": (Upsampler(mid), mid, {}),
        "upsampler_top": (Upsampler(top), top, {}),
    }


def pipeline(root: Path, with_objects: bool) -> Inputs:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    store = Store(root)
    shard = publish(store, "source", lambda out: fill_shard(out, with_objects))
    reader = ShardReader(shard.path / "shard.tar")
    clip = publish(store, "clip", lambda out: fill_clip(out, [reader.caption(i) for i in range(ROWS)]))
    embed = publish(store, "embed", lambda out: fill_embed(out, reader, load_clip(clip)))
    select = publish(store, "select", lambda out: fill_select(out, list(reader.keys)))
    made = {"shards": (shard,), "clip": (clip,), "embed": (embed,), "select": (select,)}
    rows = torch.nn.functional.normalize(torch.randn(50, DIM), dim=-1)
    for name, (network, config, sizes) in networks(load_clip(clip).vocab_size, rows).items():
        made[name] = (publish(store, name, lambda out, n=network, c=config, s=sizes: fill_network(out, n, c, s)),)
    made["pca"] = (publish(store, "pca", fill_pca),)
    return made | {"assemble": (assembled(made, root, SAMPLING),)}


def assembled(made: Inputs, root: Path, sampling: AssembleConfig) -> Artifact:
    """In the store of its parts: a stack names them by relative paths."""
    ctx = Context(stage="assemble", config=sampling, inputs=made, out=Path(), seed=0)
    recipe = Recipe(stage="assemble", config=asdict(sampling), inputs={}, code=made["decoder"][0].key, seed=0)
    build = Build(kind="assemble", recipe=recipe, fill=lambda out: assemble.build(replace(ctx, out=out)))
    return Store(root).build(build)[0]


def fill_pca(out: Path) -> dict[str, Any]:
    save_file({"none": torch.zeros(1)}, out / "pca.safetensors")
    (out / "pca.json").write_text(json.dumps({"num_components": 4, "lost_variance": [0.5, 0.2, 0.1, 0.01, 0.0]}))
    return {}


def evaluated(made: Inputs, root: Path, config: EvaluateConfig = CONFIG) -> Artifact:
    ctx = Context(stage="evaluate", config=config, inputs=made, out=Path(), seed=0)
    return publish(Store(root), "evaluate", lambda out: evaluate.build(replace(ctx, out=out)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("store")
    inputs = pipeline(root, with_objects=True)
    return inputs | {"evaluate": (evaluated(inputs, root),)}


@pytest.fixture(scope="module")
def record(made: Inputs) -> dict[str, Any]:
    return json.loads((made["evaluate"][0].path / "metrics.json").read_text())


def test_every_conditioning_is_measured_with_its_bounds(record: dict[str, Any]) -> None:
    assert list(record["conditionings"]) == ["real", *CONDITIONINGS, "chance"]
    expected = {"single_accuracy", "pair_accuracy", "relation_accuracy", "clip_score", "frechet_clip", "recall"}
    assert all(expected <= set(record["conditionings"][name]) for name in ("real", *CONDITIONINGS))


def test_real_pictures_are_recognised_and_noise_is_not(record: dict[str, Any]) -> None:
    found = record["conditionings"]
    assert found["real"]["single_accuracy"] == 1.0
    assert found["true_embedding"]["single_accuracy"] < 0.5
    assert 0 < found["chance"]["single_accuracy"] < 0.2


def test_no_cosine_of_a_prior_stands_alone(record: dict[str, Any]) -> None:
    truth, *others = record["priors"].values()
    assert list(record["priors"]) == [name for name in CONDITIONINGS if name != "caption_only"]
    assert all({"cosine", "frechet", "diversity", "median_rank"} <= set(found) for found in (truth, *others))
    assert 0 < truth["frechet"] < min(found["frechet"] for found in others)
    assert truth["diversity"] not in {found["diversity"] for found in others}


def test_the_truth_is_at_the_top_of_the_priors(record: dict[str, Any]) -> None:
    truth = record["priors"]["true_embedding"]
    assert truth["cosine"] == pytest.approx(1.0)
    assert truth["median_rank"] == 1.0
    assert all(figures["cosine"] < 1 for name, figures in record["priors"].items() if name != "true_embedding")


def test_only_priors_that_draw_vary_within_a_caption(record: dict[str, Any]) -> None:
    assert record["priors"]["prior_ar"]["diversity_within"] > 1e-3
    assert record["priors"]["prior_linear"]["diversity_within"] == pytest.approx(0.0, abs=1e-6)


def test_conditionings_differ_in_what_they_are_given_only(made: Inputs) -> None:
    folder = made["evaluate"][0].path / "samples"
    pixels = {name: np.asarray(Image.open(folder / f"00_{name}.png")) for name in CONDITIONINGS}
    assert all(image.shape == (32, 32, 3) for image in pixels.values())
    np.testing.assert_array_equal(pixels["prior_linear"], pixels["text_embedding"])  # its weight is the identity
    assert (pixels["caption_only"] != pixels["true_embedding"]).any()


def test_the_same_seed_gives_the_same_bytes_however_many_threads(made: Inputs, tmp_path: Path) -> None:
    first = made["evaluate"][0].manifest()["files"]
    ctx = Context(stage="evaluate", config=CONFIG, inputs=made, out=tmp_path, seed=0, threads=3)
    evaluate.build(ctx)
    assert (tmp_path / "metrics.json").read_text() == (made["evaluate"][0].path / "metrics.json").read_text()
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == sorted(Path(n).name for n in first if n.endswith("png"))


def test_a_stack_is_evaluated_as_it_was_assembled_to_sample(made: Inputs, tmp_path: Path) -> None:
    unguided = assembled(made, made["assemble"][0].path.parents[2], replace(SAMPLING, guidance=1.0))
    ctx = Context(stage="evaluate", config=CONFIG, inputs=made | {"assemble": (unguided,)}, out=tmp_path, seed=0)
    evaluate.build(ctx)
    name = "samples/00_true_embedding.png"
    assert (tmp_path / name).read_bytes() != (made["evaluate"][0].path / name).read_bytes()


def test_pictures_without_known_objects_are_measured_without_a_recogniser(tmp_path: Path) -> None:
    made = pipeline(tmp_path, with_objects=False)
    found = json.loads((evaluated(made, tmp_path).path / "metrics.json").read_text())["conditionings"]
    assert set(found["prior_ar"]) == {"clip_score", "frechet_clip", "precision", "recall"}
    assert set(found["chance"]) == {"clip_score"}


def test_an_empty_test_split_is_refused(made: Inputs, tmp_path: Path) -> None:
    keys = ShardReader(made["shards"][0].path / "shard.tar").keys
    select = publish(Store(tmp_path), "select", lambda out: fill_select(out, list(keys), num_test=0))
    ctx = Context(stage="evaluate", config=CONFIG, inputs=made | {"select": (select,)}, out=tmp_path, seed=0)
    with pytest.raises(ValueError, match="the test split is empty"):
        evaluate.build(ctx)


def test_figures_say_which_prior_is_the_stacks_own(made: Inputs, tmp_path: Path, record: dict[str, Any]) -> None:
    assert record["prior"] == "prior_diffusion"
    fed = assembled(made, made["assemble"][0].path.parents[2], replace(SAMPLING, prior="text_embedding"))
    other = evaluated(made | {"assemble": (fed,)}, tmp_path)
    found = json.loads((other.path / "metrics.json").read_text())
    assert found["prior"] == "text_embedding" and found["conditionings"] == record["conditionings"]


@pytest.mark.parametrize("embedding", ["image", "text"])
def test_a_decoder_learns_from_the_embeddings_that_it_is_configured_for(
    made: Inputs, tmp_path: Path, embedding: str
) -> None:
    train = TrainConfig(num_steps=1, batch_size=4, learning_rate=1e-3)
    config = DecoderStage(network=DecoderConfig(image_px=8, unet=UNET, embedding=embedding), train=train)
    rows = decoder.Rows(Context(stage="decoder", config=config, inputs=made, out=tmp_path, seed=0), "train")
    part = read_part(made["embed"][0].path / "part.parquet")
    expected = getattr(part, embedding)[[part.keys.index(key) for key in rows.keys(np.arange(4))]]
    np.testing.assert_array_equal(rows.batch(np.arange(4))["zi"], expected)


def test_a_decoder_of_text_embeddings_is_given_nothing_else(made: Inputs, tmp_path: Path) -> None:
    store = Store(made["assemble"][0].path.parents[2])
    network, config, sizes = networks(load_clip(made["clip"][0]).vocab_size, torch.randn(50, DIM))["decoder"]
    config = replace(config, embedding="text")
    blind = publish(store, "decoder", lambda out: fill_network(out, network, config, sizes), "blind")
    stack = assembled(made | {"decoder": (blind,)}, store.root, replace(SAMPLING, prior="text_embedding"))
    with pytest.raises(ValueError, match="draws from text embeddings, and a picture has none: use --pipeline"):
        editor(stack, seed=0, num_steps=2)
    with pytest.raises(ValueError, match="prior must be text_embedding: this stack's decoder draws from text"):
        generate(stack, Request(caption="a red circle", prior="prior_linear"))


def test_the_stack_names_its_parts_and_how_it_samples(made: Inputs) -> None:
    stack = json.loads((made["assemble"][0].path / "stack.json").read_text())
    assert stack["parts"]["decoder"]["digest"] == made["decoder"][0].digest
    assert stack["sampling"]["prior"] == "prior_diffusion"


def test_the_report_shows_all_of_it(made: Inputs, tmp_path: Path) -> None:
    ctx = Context(stage="report", config=AssembleConfig(), inputs=made, out=tmp_path, seed=0)
    report.build(ctx)
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * 7 + 1  # and one of the rows that were refused
    assert page.count("<svg") == 7  # six curves and the components
    caption = json.loads((made["evaluate"][0].path / "samples.json").read_text())[0]["caption"]
    assert all(text in page for text in (caption, made["decoder"][0].digest[:12], "not a readable image", "97.0 %"))
