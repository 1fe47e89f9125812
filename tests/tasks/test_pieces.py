"""Facts about what stages keep of each part: only what is new costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.config import PcaConfig
from models.pca import Moments
from tasks import index, pca
from tasks.context import Context
from tasks.moments import kept_of
from tests.unclip.data.data_fixtures import part
from unclip.artifact import Artifact
from unclip.data.config import IndexConfig
from unclip.data.table import read_part, vectors_of
from unclip.store import Store, sha256_of

ROWS = 300


@pytest.fixture
def ctx(tmp_path):
    """A table of three parts in a store, all rows kept."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    parts = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        path = part(tmp_path / str(number) / "part.parquet", rng.normal(size=(ROWS, 16)), number)
        parts.append(Artifact("embed", f"embed{number}", path.parent, sha256_of(path)))
    (tmp_path / "out").mkdir()
    inputs = {"embed": tuple(parts), "select": (Artifact("select", "s", tmp_path, "d"),)}
    store = Store(tmp_path / "store")
    made = Context(stage="pca", config=PcaConfig(), inputs=inputs, out=tmp_path / "out", seed=0, store=store)
    return keep(made, [range(ROWS)] * 3)


def keep(ctx, rows):
    """The context with these rows of each part kept."""
    places = [(shard, row) for shard, kept in enumerate(rows) for row in kept]
    shard, row = (pa.array(column, pa.int32()) for column in zip(*places, strict=True))
    table = pa.table({"shard": shard, "row": row, "split": ["train"] * len(places)})
    pq.write_table(table, ctx.one("select").path / "kept.parquet")
    return replace(ctx, pieces={})


def of(ctx, count):
    """The context with the first parts only."""
    return replace(ctx, inputs=ctx.inputs | {"embed": ctx.inputs["embed"][:count]}, pieces={})


def kept_keys(ctx, kind):
    return {a.key for a in ctx.store.artifacts() if a.kind == kind}


def test_one_more_part_costs_its_own_moments(ctx):
    pca.build(of(keep(ctx, [range(ROWS)] * 2), 2))
    before = kept_keys(ctx, "moments")
    pca.build(keep(ctx, [range(ROWS)] * 3))
    after = kept_keys(ctx, "moments")
    assert len(before) == 2 and before < after and len(after) == 3


def test_rows_kept_otherwise_cost_their_part_only(ctx):
    pca.build(ctx)
    before = kept_keys(ctx, "moments")
    pca.build(keep(ctx, [range(ROWS), range(1, ROWS), range(ROWS)]))
    assert len(kept_keys(ctx, "moments") - before) == 1


def test_parts_known_before_are_not_opened_again(ctx, tmp_path):
    anew = replace(ctx, out=tmp_path / "anew", store=None, pieces={})
    anew.out.mkdir()
    pca.build(anew)
    pca.build(of(keep(ctx, [range(ROWS)] * 2), 2))
    for old in ctx.inputs["embed"][:2]:
        (old.path / "part.parquet").unlink()
    pca.build(keep(ctx, [range(ROWS)] * 3))
    assert (ctx.out / "pca.safetensors").read_bytes() == (anew.out / "pca.safetensors").read_bytes()


def test_kept_moments_are_those_of_the_rows(ctx):
    rows = np.arange(5, 90)
    first, again = (kept_of(ctx, ctx.inputs["embed"][1], rows).moments for _ in "12")
    truth = Moments.of(torch.from_numpy(read_part(ctx.inputs["embed"][1].path / "part.parquet").image[rows]))
    for found in (first, again):
        assert found.count == 85 and torch.equal(found.scatter, truth.scatter) and torch.equal(found.mean, truth.mean)


def test_a_sample_is_a_draw_of_the_kept_rows_of_its_part(ctx):
    rows = np.arange(5, 90)
    found = [kept_of(ctx, part, rows).sample for part in ctx.inputs["embed"][:2]]
    places = []
    for artifact, sample in zip(ctx.inputs["embed"], found, strict=False):
        vectors = vectors_of(artifact.path / "part.parquet", "image_embedding")
        places.append([int((vectors == row).all(axis=1).argmax()) for row in sample])
    assert places[0] != places[1] and not np.array_equal(places[0], rows)
    assert sorted(places[0]) == sorted(places[1]) == rows.tolist()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([300, 0, 20], [300, 0, 20]),  # all there are
        ([8192, 4096, 2], [4096, 2048, 1]),  # the largest says which fraction
        ([4000] * 32, [2048] * 32),  # of the whole, at most 65,536
        ([], []),
    ],
)
def test_a_sample_takes_the_same_fraction_of_every_part(counts, expected):
    assert pca.shares(counts) == expected


def test_parts_of_different_tables_are_refused(ctx):
    path = ctx.inputs["embed"][1].path / "part.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"model": b"other"}), path)
    with pytest.raises(ValueError, match=r"has model other, but .*/0/part\.parquet has tiny: parts of diff"):
        pca.build(ctx)


def test_kept_pieces_change_no_byte(ctx, tmp_path):
    pca.build(of(ctx, 2))
    grown, alone = replace(ctx, out=tmp_path / "grown"), replace(ctx, out=tmp_path / "alone", store=None, pieces={})
    for context in (grown, alone):
        context.out.mkdir()
        pca.build(context)
    for name in ("pca.safetensors", "pca.json"):
        assert (grown.out / name).read_bytes() == (alone.out / name).read_bytes()


def test_one_more_part_costs_its_own_codes(ctx, tmp_path):
    config = IndexConfig(kind="ivf", num_lists=4, min_recall=0.5)
    for count in (2, 3):
        made = replace(of(ctx, count), config=config, out=tmp_path / f"index{count}")
        made.out.mkdir()
        figures = index.build(made)
    assert figures["learned_from_parts"] == 1 and len(kept_keys(ctx, "index_lists")) == 1
    assert len(kept_keys(ctx, "index_codes")) == 3 and len(made.pieces["index_codes"]) == 3


def test_a_piece_names_the_artifact_it_was_made_from(ctx):
    kept_of(ctx, ctx.inputs["embed"][2], np.arange(9))
    (made,) = [a for a in ctx.store.artifacts() if a.kind == "moments"]
    assert made.manifest()["parents"] == {"embed": ["embed2"]} and Path(made.path, "moments.safetensors").is_file()
