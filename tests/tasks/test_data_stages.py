"""The data stages one after the other on drawn shards, with a tiny real CLIP."""

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from tasks import aesthetic, embed, filter, index, score, select, source
from tasks.clip_files import save_clip
from tasks.config import ScoreStage
from tasks.context import Context
from tests.unclip.data.data_fixtures import picture
from unclip.artifact import Artifact
from unclip.data.aesthetic import fit_head, save_head
from unclip.data.config import (
    AestheticConfig,
    EmbedConfig,
    FilterConfig,
    FolderConfig,
    IndexConfig,
    SelectConfig,
    ShapesConfig,
    ShardsConfig,
    UrlsConfig,
)
from unclip.data.funnel import read_funnel
from unclip.data.images import png_bytes
from unclip.data.source_plan import shard_recipes
from unclip.data.table import read_info, unit


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


def folder_of_pictures(folder, size=60):
    """Pictures of which every sixth is twice there, with a row that names no file and one without a caption."""
    folder.mkdir()
    rows = [(f"{i}.png", f"picture {i} of many") for i in range(size)]
    for i in range(size):
        (folder / f"{i}.png").write_bytes(png_bytes(picture(i - 1 if i % 6 == 5 else i)))
    (folder / "captions.csv").write_text(
        "file,caption\n" + "".join(f"{f},{c}\n" for f, c in [*rows, ("no.png", "x y"), ("3.png", "")])
    )
    return FolderConfig(folder=str(folder), captions=str(folder / "captions.csv"), shard_size=40)


def test_rows_of_the_source_are_those_refused_dropped_and_kept(tmp_path, clip):
    config = folder_of_pictures(tmp_path / "pictures")
    shards = tuple(stage(tmp_path, source, config, shard)[0] for shard in (0, 1))
    scores = tuple(stage(tmp_path, score, ScoreStage(), n, shards=(shards[n],))[0] for n in (0, 1))
    filtered, counts = stage(tmp_path, filter, FilterConfig(test_fraction=0.2), shards=shards, score=scores)
    parts = tuple(stage(tmp_path, embed, EmbedConfig(), n, shards=(shards[n],), clip=(clip,))[0] for n in (0, 1))
    selected, figures = stage(tmp_path, select, SelectConfig(keep_fraction=0.5), embed=parts, filter=(filtered,))
    steps = read_funnel(selected.path / "funnel.json")
    assert steps[: len(read_funnel(filtered.path / "funnel.json"))] == read_funnel(filtered.path / "funnel.json")
    assert all(one.rows_out == two.rows_in for one, two in pairwise(steps))
    dropped = sum(len(pq.read_table(a.path / "dropped.parquet")) for a in (filtered, selected))
    assert (steps[0].rows_in, steps[0].dropped + steps[1].dropped, counts["refused"]) == (62, 2, {"duplicate": 10})
    assert 2 + dropped + figures["kept"] == 62 and figures["kept"] == steps[-1].rows_out < counts["kept"]


def head_for(part, path, size=40):
    """A head fitted to chance on as many embeddings as there are."""
    info = read_info(part)
    rows = np.random.default_rng(0).normal(size=(size, info.dimension)).astype(np.float32)
    save_head(fit_head(unit(rows), rows[:, 0].astype(float), info), path)
    return AestheticConfig(head=str(path))


def test_an_aesthetic_score_is_a_column_that_select_reads(tmp_path, clip):
    shard, _ = stage(tmp_path, source, ShapesConfig(num_samples=40), 0)
    scores, _ = stage(tmp_path, score, ScoreStage(), 0, shards=(shard,))
    filtered, _ = stage(tmp_path, filter, FilterConfig(), shards=(shard,), score=(scores,))
    part, _ = stage(tmp_path, embed, EmbedConfig(), 0, shards=(shard,), clip=(clip,))
    config = head_for(part.path / "part.parquet", tmp_path / "head")
    rated, _ = stage(tmp_path, aesthetic, config, 0, embed=(part,))
    ratings = pq.read_table(rated.path / "aesthetic.parquet")["aesthetic"].to_numpy()
    least = float(np.median(ratings))
    inputs = {"embed": (part,), "filter": (filtered,), "aesthetic": (rated,)}
    _, figures = stage(tmp_path, select, SelectConfig(min_aesthetic=least), **inputs)
    assert figures["refused"] == {"low_aesthetic": int((ratings < least).sum())} and 0 < (ratings < least).sum() < 40


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
