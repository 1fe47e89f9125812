"""A part's files: its rows, what was rejected, and the proof that what was written is what was embedded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.decoding import Decoder, decode_rows
from unclip.data.digests import file_digest
from unclip.data.embed import MIN_CHECK_COSINE, UNEMBEDDABLE, Encoder, Made, embed_listings, info_of
from unclip.data.images import Pixels
from unclip.data.listings import shard_listing
from unclip.data.table import Floats, Part, TableInfo, read_part, write_part

NUM_CHECKED = 4  # rows embedded again after writing
REJECTS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "reason", "detail")])


def embed_shard(
    path: Path, encoder: Encoder, out: Path, batch_size: int, progress: Callable[..., None], num_workers: int = 0
) -> dict[str, Any]:
    """Write `part.parquet` and `rejects.parquet` of the shard at `path` into `out`; counts of rows.

    Raises: ValueError when rows are unaccounted for, or a row embedded again differs from what was written.
    """
    with Decoder(encoder.crop, batch_size, num_workers) as decoder:
        ((_, made),) = embed_listings([(path, shard_listing(path))], encoder, decoder, progress)
    write_part_of(out / "part.parquet", made, info_of(encoder, file_digest(path), len(made.places)))
    write_rejects(out / "rejects.parquet", made, with_refused=True)
    check_part(out / "part.parquet", made, encoder)
    counts = {"rows": len(made.rows), "kept": len(made.places)}
    return {**counts, "refused": made.refused, "context_filled": made.context_filled}


def write_part_of(path: Path, made: Made, info: TableInfo) -> None:
    """Write the embedded rows of a shard. Raises: ValueError when rows are unaccounted for."""
    refused = sum(row.key is None for row in made.rows)
    if len(made.places) + len(made.unembeddable) + refused != len(made.listing):
        counts = f"{len(made.places)} embedded, {len(made.unembeddable)} unembeddable and {refused} refused rows"
        raise ValueError(f"{made.listing.path}: {counts} are not its {len(made.listing)}")
    write_part(path, made.embedded, info)


def write_rejects(path: Path, made: Made, with_refused: bool) -> None:
    """Write the rows that could not be embedded, sorted by key; with those that the source refused, or without."""
    rejected = [(i, UNEMBEDDABLE, "") for i in made.unembeddable]
    if with_refused:
        rejected += [(i, row.status, row.detail) for i, row in enumerate(made.rows) if row.key is None]
    rows = [{"key": made.listing.keys[i], "reason": reason, "detail": detail} for i, reason, detail in sorted(rejected)]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA), path, compression="zstd")


def check_part(path: Path, made: Made, encoder: Encoder) -> None:
    """Embed a few rows again, a small batch by themselves, and compare them with what was written.

    Raises: ValueError that names the row that differs.
    """
    written = read_part(path)
    if written.keys != made.embedded.keys or written.image_sha256 != made.embedded.image_sha256:
        raise ValueError(f"{path}: its keys and digests are not those that were written")
    if not written.keys:
        return
    chosen = np.unique(np.linspace(0, len(written) - 1, NUM_CHECKED).astype(int)).tolist()
    listing = made.listing.rows([made.places[n] for n in chosen])
    px = encoder.crop.px
    pixels: Pixels = np.zeros((len(chosen), px, px, 3), np.uint8)
    rows = decode_rows(listing, encoder.crop, pixels)
    for n, row in zip(chosen, rows, strict=True):
        if row.image_sha256 != written.image_sha256[n]:
            raise ValueError(f"{path}: {listing.path} changed while it was read: {written.keys[n]} is another picture")
    tokens = np.asarray(encoder.tokenize([row.caption for row in rows]), np.int32)
    compare(path, "image", written, chosen, encoder.encode_image(pixels), written.image)
    compare(path, "text", written, chosen, encoder.encode_text(tokens), written.text)


def compare(path: Path, kind: str, written: Part, chosen: Sequence[int], again: Floats, stored: Floats) -> None:
    """Raises: ValueError when a row embedded again points elsewhere than the stored one, which has norm one."""
    for n, vector in zip(chosen, again, strict=True):
        cosine = float(vector @ stored[n] / np.linalg.norm(vector))
        if not cosine >= MIN_CHECK_COSINE:
            raise ValueError(f"{path}: the {kind} of {written.keys[n]} embedded again has cosine {cosine:.5f}")
