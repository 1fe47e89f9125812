"""Facts about embedding a shard."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.unclip.data.data_fixtures import TinyEncoder, sample, write_source
from unclip.data.crops import Crop
from unclip.data.decoding import Decoder
from unclip.data.listings import FolderListing
from unclip.data.part_files import embed_shard
from unclip.data.shards import ShardReader, write_shard
from unclip.data.source_plan import FolderRow
from unclip.data.table import read_part


def quiet(*args, **figures):
    pass


def embed(tmp_path, samples, encoder=None, batch_size=4, name="out"):
    out = tmp_path / name
    out.mkdir()
    write_shard(tmp_path / "shard.tar", samples)
    counts = embed_shard(tmp_path / "shard.tar", encoder or TinyEncoder(), out, batch_size, quiet)
    return counts, out


def test_row_i_is_image_i(tmp_path):
    _, out = embed(tmp_path, [sample(i) for i in range(11)])
    shard, part, encoder = ShardReader(tmp_path / "shard.tar"), read_part(out / "part.parquet"), TinyEncoder()
    assert part.keys == shard.keys and part.captions[5] == shard.caption(5)
    assert part.image_sha256 == [hashlib.sha256(shard.image_bytes(i)).digest() for i in range(11)]
    alone = encoder.encode_image(shard.decode(9, 16)[None])[0]
    assert part.image[9] @ alone / np.linalg.norm(alone) > 0.9999


def test_a_picture_that_does_not_decode_is_rejected_and_the_rest_stay_in_step(tmp_path):
    samples = [sample(i) for i in range(9)]
    object.__setattr__(samples[4], "image", samples[4].image[:-50])
    counts, out = embed(tmp_path, samples)
    assert counts == {"rows": 9, "kept": 8, "refused": {"undecodable": 1}, "context_filled": 0}
    assert pq.read_table(out / "rejects.parquet")["key"].to_pylist() == [samples[4].key]
    assert read_part(out / "part.parquet").keys == [s.key for s in samples if s is not samples[4]]


def test_repetition_and_a_killed_attempt_give_the_same_bytes(tmp_path):
    _, first = embed(tmp_path, [sample(i) for i in range(10)], name="first")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "part.parquet").write_bytes(b"half")
    embed_shard(tmp_path / "shard.tar", TinyEncoder(), tmp_path / "again", 4, quiet)
    assert (first / "part.parquet").read_bytes() == (tmp_path / "again" / "part.parquet").read_bytes()


class Drifting(TinyEncoder):
    """An encoder whose answers depend on how often it was asked: what the check after writing is for."""

    calls = 0

    def encode_image(self, pixels):
        self.calls += 1
        return np.roll(super().encode_image(pixels), self.calls, axis=1)


def test_an_encoder_that_does_not_repeat_itself_is_found_out(tmp_path):
    with pytest.raises(ValueError, match="embedded again has cosine"):
        embed(tmp_path, [sample(i) for i in range(6)], Drifting())


class Blind(TinyEncoder):
    """Gives nothing for dark pictures."""

    def encode_image(self, pixels):
        return super().encode_image(pixels) * (pixels.mean((1, 2, 3)) > 127)[:, None]


def test_an_embedding_of_zero_is_a_rejected_row(tmp_path):
    counts, out = embed(tmp_path, [sample(i) for i in range(12)], Blind())
    reasons = pq.read_table(out / "rejects.parquet")["reason"].to_pylist()
    assert reasons == ["embedding_not_finite"] * counts["refused"]["embedding_not_finite"] and 0 < len(reasons) < 12


def test_processes_write_the_bytes_that_threads_do(tmp_path):
    samples = [sample(i) for i in range(37)]
    object.__setattr__(samples[20], "image", b"no picture")
    _, out = embed(tmp_path, samples, batch_size=20)
    for workers in (1, 3):
        (tmp_path / str(workers)).mkdir()
        embed_shard(tmp_path / "shard.tar", TinyEncoder(), tmp_path / str(workers), 20, quiet, workers)
        for name in ("part.parquet", "rejects.parquet"):
            assert (tmp_path / str(workers) / name).read_bytes() == (out / name).read_bytes()


def test_a_picture_refused_leaves_no_trace_of_the_batch_before():
    with Decoder(Crop(px=16), 2, 0) as decoder:
        listing = FolderListing(
            path=Path("nowhere"), keys=list("abcdefghi"), entries=[FolderRow("no.png", "a caption")] * 9
        )
        decoder._slots[:] = 255
        batches = [(batch.start, batch.pixels.max()) for _, _, batch in decoder.batches([(0, listing)])]
    assert batches == [(0, 0), (2, 0), (4, 0), (6, 0), (8, 0)]


def test_an_empty_shard_gives_an_empty_part(tmp_path):
    counts, out = embed(tmp_path, [])
    assert counts["rows"] == 0 and len(read_part(out / "part.parquet")) == 0


def test_sources_and_embeddings_agree_on_digests(tmp_path):
    folder = write_source(tmp_path / "s", [sample(i) for i in range(3)])
    (tmp_path / "o").mkdir()
    embed_shard(folder / "shard.tar", TinyEncoder(), tmp_path / "o", 2, quiet)
    rows = pq.read_table(folder / "rows.parquet")["image_sha256"].to_pylist()
    assert read_part(tmp_path / "o" / "part.parquet").image_sha256 == rows
