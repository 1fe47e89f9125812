"""Facts about the stage `clip`."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from tasks import clip as stage
from tasks import train
from tasks.clip_batches import GROUP, HardBatches
from tasks.clip_files import load_clip
from tasks.config import ClipStage
from tasks.context import Context
from unclip.artifact import Artifact
from unclip.data.config import ShapesConfig
from unclip.data.shapes import draw_picture
from unclip.data.shards import Sample, sample_key, write_shard
from unclip.training.config import TrainConfig

torch.set_num_threads(1)
NETWORK = ClipConfig(
    embed_dim=8,
    vision=VisionConfig(image_px=16, patch_px=8, width=16, layers=1, head_width=8),
    text=TextConfig(context=24, width=16, heads=2, layers=1),
)
TRAIN = TrainConfig(num_steps=4, batch_size=16, learning_rate=1e-3, precision="fp32")
ROWS = 60


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    drawn = [draw_picture(ShapesConfig(num_samples=ROWS), 0, row) for row in range(ROWS)]
    keys = [sample_key(0, row) for row in range(ROWS)]
    samples = [
        Sample(key=key, image=png(one.pixels), extension="png", caption=one.caption, sample_id=bytes(16), meta=one.meta)
        for key, one in zip(keys, drawn, strict=True)
    ]
    write_shard(folder / "shard.tar", samples)
    splits = ["validation" if row % 3 == 0 else "train" for row in range(ROWS)]
    table = pa.table({"key": keys, "shard": pa.array([0] * ROWS, pa.int32()), "split": splits})
    pq.write_table(table, folder / "kept.parquet")
    artifact = Artifact("any", "k", folder, "d")
    return {"shards": (artifact,), "filter": (artifact,)}


def context(inputs, out, config):
    out.mkdir(exist_ok=True)
    return Context(stage="clip", config=config, inputs=inputs, out=out, seed=0)


def test_a_trained_clip_is_loaded_as_it_was_scored(inputs, tmp_path):
    config = ClipStage(network=NETWORK, train=TRAIN, min_zero_shot=0.0)
    metrics = train.work(context(inputs, tmp_path / "out", config))
    clip = load_clip(Artifact("clip", "k", tmp_path / "out", "d"))
    assert {"zero_shot_shape", "zero_shot_color", "recall_at_1", "vocab_size"} <= set(metrics)
    assert clip.vocab_size == metrics["vocab_size"] < 60 and not clip.training
    held = stage.Rows(context(inputs, tmp_path / "again", config), "validation", 16)
    assert stage.validate(clip, held)["loss"] == pytest.approx(metrics["loss"])


def test_a_clip_that_sees_nothing_is_refused(inputs, tmp_path):
    config = ClipStage(network=NETWORK, train=TRAIN, min_zero_shot=0.999)
    with pytest.raises(ValueError, match=r"zero-shot accuracy on \w+ is 0\.\d+, clip\.min_zero_shot is 0\.999"):
        train.work(context(inputs, tmp_path / "out", config))


def test_pairs_of_the_test_split_never_validate_nor_are_asked_about(inputs, tmp_path):
    kept = pq.read_table(inputs["filter"][0].path / "kept.parquet")
    split = pc.replace_substring(kept["split"], "validation", "test")
    pq.write_table(kept.set_column(kept.column_names.index("split"), "split", split), tmp_path / "kept.parquet")
    tested = inputs | {"filter": (Artifact("filter", "k", tmp_path, "d"),)}
    ctx = context(tested, tmp_path / "out", ClipStage(network=NETWORK, train=TRAIN, min_zero_shot=0.0))
    assert stage.job(ctx).validate is None
    metrics = train.work(ctx)
    assert metrics["num_questions"] == 0 and "zero_shot_unseen_color" in metrics and "loss" not in metrics


@pytest.fixture
def tiny_model(monkeypatch, tmp_path):
    """A model of open_clip's, tiny, and a weights file of it."""
    import open_clip

    cfg = ClipSpec.from_config(NETWORK, range(300)).model_cfg
    cfg["text_cfg"]["vocab_size"] = 49408
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.json").write_text(json.dumps(cfg))
    before = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(tmp_path / "models")
    clip = Clip(ClipSpec.from_name("tiny"))
    save_file({name: value.contiguous().clone() for name, value in clip.network.state_dict().items()},
              tmp_path / "tiny.safetensors")  # fmt: skip
    yield clip, tmp_path / "tiny.safetensors"
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


def test_named_weights_are_loaded_and_written_again(inputs, tmp_path, tiny_model):
    clip, weights = tiny_model
    out = tmp_path / "out"
    stage.build(context(inputs, out, ClipStage(pretrained=f"tiny:{weights}", min_zero_shot=0.0)))
    loaded = load_clip(Artifact("clip", "k", out, "d"))
    images = torch.randint(0, 256, (2, 20, 20, 3), dtype=torch.uint8)
    assert torch.allclose(loaded.encode_image(images), clip.eval().encode_image(images), atol=1e-5)
    assert sorted(path.name for path in out.iterdir()) == ["clip.json", "weights.safetensors"]


def test_weights_that_are_not_there_or_pickled_are_refused(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="neither a file nor weights of 'tiny', which has: none"):
        stage.load_pretrained("tiny:nowhere")
    (tmp_path / "tiny.pt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="must be safetensors"):
        stage.load_pretrained(f"tiny:{tmp_path / 'tiny.pt'}")


HARD_ROWS = 40  # of a batch of 64: whole groups up to the hard fraction


def test_some_pictures_lose_their_colours_and_nothing_else():
    images = torch.randint(256, (400, 4, 4, 3), generator=torch.Generator().manual_seed(0)).byte()
    shown = stage.without_colors(images, 0.25, torch.Generator().manual_seed(1))
    is_gray = (shown == shown[..., :1]).flatten(1).all(1)
    luma = images.float() @ torch.tensor([0.299, 0.587, 0.114])
    assert 70 <= is_gray.sum() <= 130
    assert (shown[is_gray][..., 0].float() - luma[is_gray]).abs().max() < 1.1  # cut off, not rounded
    assert shown[~is_gray].equal(images[~is_gray])


def test_no_picture_loses_its_colours_unasked():
    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    assert stage.without_colors(images, 0.0, torch.Generator()) is images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gray_prob": 1.5}, "clip.gray_prob must be between 0 and 1, got 1.5"),
        (
            {"gray_prob": 0.2, "network": None, "train": None, "pretrained": "ViT-B-32:openai"},
            "clip.gray_prob has no effect",
        ),
    ],
)
def test_an_impossible_share_of_gray_pictures_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClipStage(**{"network": ClipConfig(), "train": TRAIN, **changes})


def test_part_of_a_batch_is_groups_of_one_colour_and_the_rest_is_left_alone():
    metas = [{"objects": [{"color": "red" if row % 2 else "blue", "shape": "circle"}]} for row in range(200)]
    indices = np.random.default_rng(0).permutation(200)[:64]
    order = HardBatches(metas)
    rows = order.rows(indices)
    assert (rows[HARD_ROWS:] == indices[HARD_ROWS:]).all() and (rows == order.rows(indices)).all()
    for start in range(0, HARD_ROWS, GROUP):
        group = rows[start : start + GROUP]
        assert len(set(group % 2)) == 1 and len(set(group)) == GROUP


def test_every_other_group_of_pairs_has_its_shapes_too_whichever_has_which_colour():
    def pair(row):
        shapes = ("circle", "square") if row % 4 < 2 else ("circle", "cross")
        colors = ("red", "blue") if row % 2 else ("blue", "red")
        return {"objects": [{"color": c, "shape": s} for c, s in zip(colors, shapes, strict=True)]}

    rows = HardBatches([pair(row) for row in range(400)]).rows(np.arange(64))
    kinds = [set(rows[start : start + GROUP] % 4) for start in range(0, HARD_ROWS, GROUP)]
    assert all(kind <= {0, 1} or kind <= {2, 3} for kind in kinds[1::2])  # bindings mixed, shapes not
    assert any(len(kind) > 1 for kind in kinds[1::2])
    assert all(kind & {0, 1} and kind & {2, 3} for kind in kinds[::2])


def test_pictures_without_objects_are_taken_as_they_come():
    indices = np.arange(40)
    assert (HardBatches([{}] * 40).rows(indices) == indices).all()
