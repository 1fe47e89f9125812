"""Small real dumps of drawn pictures, and ways to damage them."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.unclip.data.data_fixtures import TinyEncoder, sample, write_source
from unclip.data.config import FolderConfig, ShardsConfig
from unclip.data.dump import fill_dump
from unclip.data.dump_engine import Engine
from unclip.data.dump_pictures import DumpPictures
from unclip.data.dump_queries import one_query, search_table, searchable_dump
from unclip.data.imports import refuse_clip
from unclip.data.verification import verify_dump


def quiet(*args, **figures):
    pass


def clip_folder(folder):
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "clip.json").write_text("{}")
    return folder


def embed_dump(source, out, encoder, clip, batch_size, progress, **more):
    engine = Engine(encoder, (lambda: encoder,), batch_size=batch_size)
    return fill_dump(source, out, engine, clip, progress, **more)


def search_dump(dump, encoder, text, image, k):
    query, table = one_query(text, image, k), searchable_dump(dump)
    refuse_clip(dump, encoder)
    return search_table(table, encoder, query, k)


def embedded(source, out, encoder=None):
    embed_dump(source, out, encoder or TinyEncoder(), clip_folder(out.parent / "clip"), 4, quiet)
    return out


def tar_dump(tmp_path, count=2, rows=8):
    """A dump of tars named as img2dataset names them."""
    for shard in range(count):
        folder = write_source(tmp_path / f"s{shard}", [sample(i, shard=shard) for i in range(rows)])
        (tmp_path / "tars").mkdir(exist_ok=True)
        (folder / "shard.tar").rename(tmp_path / "tars" / f"{shard:05d}.tar")
    return embedded(ShardsConfig(pattern=str(tmp_path / "tars" / "*.tar")), tmp_path / "dump")


def folder_dump(tmp_path, names=("a.png", "b.png", "c.png"), more=()):
    """A dump of a folder; `more` are rows of its list whose files the caller wrote, or left out."""
    photos = tmp_path / "photos"
    photos.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (photos / name).write_bytes(sample(number).image)
    rows = [(name, f"picture of {name}") for name in names] + list(more)
    with (photos / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return embedded(FolderConfig(folder=str(photos), captions=str(photos / "captions.csv")), tmp_path / "dump")


def rewrite(path, **columns):
    """Write a Parquet file again with some columns replaced: `name=function of its list of values`."""
    table = pq.read_table(path)
    for name, change in columns.items():
        values = change(table[name].to_pylist())
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(table, path)


def put(row, value):
    """A change of one value of a column."""
    return lambda values: [*values[:row], value(values) if callable(value) else value, *values[row + 1 :]]


def verified(dump, sample=100, source=None, encoder=None):
    """The lines of a verification."""
    made = encoder or TinyEncoder()
    return verify_dump(dump, lambda precision: made, DumpPictures(dump, source), sample).lines()


def vectors(seed, size=20, dimension=12):
    return np.random.default_rng(seed).normal(size=(size, dimension)).astype(np.float32) * 7
