"""The data stages one after the other on drawn shards, with a tiny real CLIP."""

import pyarrow.parquet as pq
import pytest
import torch

from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from tasks import embed, filter, index, score, select, source
from tasks.clip_files import save_clip
from tasks.config import ScoreStage
from tasks.context import Context
from unclip.artifact import Artifact
from unclip.data.config import (
    EmbedConfig,
    FilterConfig,
    IndexConfig,
    SelectConfig,
    ShapesConfig,
    ShardsConfig,
    UrlsConfig,
)
from unclip.data.source_plan import shard_recipes


def stage(root, module, config, shard=None, name=None, **inputs):
    out = root / (name or f"{module.__name__}{shard}")
    out.mkdir()
    ctx = Context(stage=module.__name__, config=config, inputs=inputs, out=out, seed=0, shard=shard)
    return Artifact("stage", "key", out, "digest"), module.build(ctx)


@pytest.fixture
def clip(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vision, text = (
        VisionConfig(image_px=16, patch_px=8, width=16, layers=1, head_width=8),
        TextConfig(width=16, layers=1),
    )
    (tmp_path / "clip").mkdir()
    save_clip(
        tmp_path / "clip", Clip(ClipSpec.from_config(ClipConfig(embed_dim=8, vision=vision, text=text), [320, 736]))
    )
    return Artifact("clip", "key", tmp_path / "clip", "digest")


def test_every_drawn_row_reaches_the_index_or_has_a_reason(tmp_path, clip):
    shapes = ShapesConfig(num_samples=90, shard_size=60)
    shards = tuple(stage(tmp_path, source, shapes, shard)[0] for shard in (0, 1))
    scores = tuple(stage(tmp_path, score, ScoreStage(), n, shards=(shards[n],))[0] for n in (0, 1))
    filtered, counts = stage(tmp_path, filter, FilterConfig(), shards=shards, score=scores)
    parts = tuple(
        stage(tmp_path, embed, EmbedConfig(batch_size=32), n, shards=(shards[n],), clip=(clip,))[0] for n in (0, 1)
    )
    selected, figures = stage(tmp_path, select, SelectConfig(), embed=parts, filter=(filtered,))
    _, indexed = stage(tmp_path, index, IndexConfig(), embed=parts)
    dropped = sum(len(pq.read_table(a.path / "dropped.parquet")) for a in (filtered, selected))
    assert (
        counts["rows"] == indexed["rows"] == 90
        and figures["train"] + figures["validation"] + figures["test"] + dropped == 90
    )


@pytest.mark.parametrize("kind", ["tar", "list"])
def test_a_source_that_changed_since_the_plan_is_refused(tmp_path, kind):
    config, path = ShardsConfig(pattern=str(tmp_path / "*.tar")), tmp_path / "0.tar"
    drawn, _ = stage(tmp_path, source, ShapesConfig(num_samples=4), 0)
    if kind == "list":
        config, path = UrlsConfig(path=str(tmp_path / "list.csv")), tmp_path / "list.csv"
    contents = [(drawn.path / "shard.tar").read_bytes(), bytes(10_240)]
    contents = contents if kind == "tar" else [b"url,caption\nhttp://a/1,one\n", b"url,caption\nhttp://a/1,two\n"]
    path.write_bytes(contents[0])
    (planned,) = shard_recipes(config)
    ctx = Context(stage="source", config=config, inputs={}, out=tmp_path, seed=0, shard=0, planned=planned)
    assert source.build(ctx)["rows"]
    path.write_bytes(contents[1])
    with pytest.raises(ValueError, match="shard 0 changed while it was being read: run again"):
        source.build(ctx)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_shard_embedded_twice_gives_the_same_bytes(tmp_path, clip, precision):
    shard, _ = stage(tmp_path, source, ShapesConfig(num_samples=40), 0)
    config = EmbedConfig(batch_size=32, precision=precision)
    twice = [stage(tmp_path, embed, config, 0, name, shards=(shard,), clip=(clip,))[0] for name in ("one", "two")]
    first, second = ((part.path / "part.parquet").read_bytes() for part in twice)
    assert first == second
