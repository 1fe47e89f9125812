"""One shard through a CLIP: a part of the embedding table, row i of which is proved to be image i.

B rows a batch, P the CLIP's image side, D dimension, L context. Decoding runs in threads ahead of the encoder.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.digests import file_digest
from unclip.data.images import Pixels, crop_square, open_rgb
from unclip.data.rows import image_digest, refusals
from unclip.data.shards import ShardReader
from unclip.data.table import Embedded, Floats, TableInfo, Tokens, read_part, storable, versions_json, write_part

NUM_CHECKED = 4  # rows embedded again after writing
MIN_CHECK_COSINE = 0.999  # float16 storage costs 3e-8, bf16 in another place of a batch about 1e-4
REJECTS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("key", "reason", "detail")])


class Encoder(Protocol):
    """A frozen CLIP as the table needs it."""

    name: str
    weights_digest: str  # SHA-256 of the weights
    preprocessing_digest: str
    tokenizer: str
    context: int
    dimension: int
    image_px: int
    interpolation: str  # of unclip.data.images.INTERPOLATIONS
    compute_type: str  # "fp32", "bf16"
    versions: dict[str, str]

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids (B, L); 0 is padding."""
        ...

    def encode_image(self, pixels: Pixels) -> Floats:
        """Raw embeddings (B, D) of uint8 (B, P, P, 3)."""
        ...

    def encode_text(self, tokens: Tokens) -> Floats:
        """Raw embeddings (B, D) of tokens (B, L)."""
        ...


@dataclass
class Batch:
    """Rows that decoded, and the reasons of those that did not."""

    rows: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)  # (P, P, 3) each
    rejected: list[tuple[int, str, str]] = field(default_factory=list)  # row, reason, detail


def decode_batch(shard: ShardReader, rows: Sequence[int], px: int, interpolation: str) -> Batch:
    """The centre squares of some rows, with the digests of the very bytes they were decoded from."""
    batch = Batch()
    for row in rows:
        data = shard.image_bytes(row)
        try:
            pixels = np.asarray(crop_square(open_rgb(data), px, interpolation))
        except ValueError as error:
            batch.rejected.append((row, "undecodable", str(error)))
            continue
        batch.rows.append(row)
        batch.digests.append(image_digest(data))
        batch.pixels.append(pixels)
    return batch


def decoded(shard: ShardReader, encoder: Encoder, batch_size: int) -> Iterator[Batch]:
    """The batches of a shard in order, decoded by threads a few batches ahead."""
    ahead = min(8, os.cpu_count() or 1)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        for start in range(0, len(shard), batch_size):
            rows = range(start, min(start + batch_size, len(shard)))
            waiting.append(pool.submit(decode_batch, shard, rows, encoder.image_px, encoder.interpolation))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def padded(rows: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Rows followed by zeros up to `size`: every batch has one shape, so its figures don't depend on what is left."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def encode_batch(
    encoder: Encoder, pixels: Sequence[Pixels], captions: Sequence[str], size: int
) -> tuple[Floats, Floats, Tokens]:
    """Image and text embeddings (B, D), raw, and tokens (B, L)."""
    tokens = np.asarray(encoder.tokenize(captions), np.int32)
    image = encoder.encode_image(padded(np.stack(pixels), size))[: len(pixels)]
    text = encoder.encode_text(padded(tokens, size))[: len(pixels)]
    return image, text, tokens


def embed_shard(
    path: Path, encoder: Encoder, out: Path, batch_size: int, progress: Callable[..., None]
) -> dict[str, Any]:
    """Write `part.parquet` and `rejects.parquet` of the shard at `path` into `out`; counts of rows.

    Raises: ValueError when rows are unaccounted for, or a row embedded again differs from what was written.
    """
    shard = ShardReader(path)
    rows: list[int] = []
    digests: list[bytes] = []
    arrays: list[tuple[Floats, Floats, Tokens]] = []
    rejected: list[tuple[int, str, str]] = []
    for batch in decoded(shard, encoder, batch_size):
        rejected += batch.rejected
        if batch.rows:
            image, text, tokens = encode_batch(
                encoder, batch.pixels, [shard.caption(i) for i in batch.rows], batch_size
            )
            good = storable(image) & storable(text)
            rejected += [(row, "embedding_not_finite", "") for row, ok in zip(batch.rows, good, strict=True) if not ok]
            rows += [row for row, ok in zip(batch.rows, good, strict=True) if ok]
            digests += [digest for digest, ok in zip(batch.digests, good, strict=True) if ok]
            arrays.append((image[good], text[good], tokens[good]))
        progress(len(rows) + len(rejected), len(shard))
    if sorted(rows + [row for row, _, _ in rejected]) != list(range(len(shard))):
        raise ValueError(f"{path}: {len(rows)} embedded and {len(rejected)} rejected rows are not its {len(shard)}")
    write_rows_of(shard, encoder, out, rows, digests, arrays)
    write_rejects(out / "rejects.parquet", shard, rejected)
    check_written(shard, encoder, out / "part.parquet", rows)
    refused = refusals(reason for _, reason, _ in rejected)
    filled = sum(int((tokens[:, -1] != 0).sum()) for _, _, tokens in arrays)  # captions as long as the context, or cut
    return {"rows": len(shard), "kept": len(rows), "refused": refused, "context_filled": filled}


def write_rows_of(
    shard: ShardReader,
    encoder: Encoder,
    out: Path,
    rows: Sequence[int],
    digests: list[bytes],
    arrays: Sequence[tuple[Floats, Floats, Tokens]],
) -> None:
    """Write the embedded rows of a shard as `part.parquet`."""
    empty = (np.empty((0, encoder.dimension), np.float32),) * 2 + (np.empty((0, encoder.context), np.int32),)
    image, text, tokens = (np.concatenate(columns) for columns in zip(empty, *arrays, strict=True))
    embedded = Embedded(
        keys=[shard.keys[i] for i in rows],
        sample_ids=[bytes.fromhex(shard.meta(i)["sample_id"]) for i in rows],
        image_sha256=digests,
        image=image,
        text=text,
        tokens=tokens,
        captions=[shard.caption(i) for i in rows],
    )
    write_part(out / "part.parquet", embedded, info_of(encoder, file_digest(shard.path), len(rows)))


def info_of(encoder: Encoder, shard_digest: str, num_rows: int) -> TableInfo:
    """What a part made by an encoder says of itself."""
    versions = {"numpy": np.__version__, "pillow": PIL.__version__, "pyarrow": pa.__version__, **encoder.versions}
    return TableInfo(
        model=encoder.name,
        weights_digest=encoder.weights_digest,
        preprocessing_digest=encoder.preprocessing_digest,
        tokenizer=encoder.tokenizer,
        context=encoder.context,
        dimension=encoder.dimension,
        compute_type=encoder.compute_type,
        versions=versions_json(**versions),
        shard_digest=shard_digest,
        num_rows=num_rows,
    )


def write_rejects(path: Path, shard: ShardReader, rejected: Sequence[tuple[int, str, str]]) -> None:
    """Write the rows that could not be embedded, sorted by key."""
    rows = [{"key": shard.keys[row], "reason": reason, "detail": detail} for row, reason, detail in sorted(rejected)]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA), path, compression="zstd")


def check_written(shard: ShardReader, encoder: Encoder, part: Path, rows: Sequence[int]) -> None:
    """Embed a few rows again, a small batch by themselves, and compare them with what was written.

    Raises: ValueError that names the row that differs.
    """
    written = read_part(part)
    if not rows:
        return
    places = np.unique(np.linspace(0, len(rows) - 1, NUM_CHECKED).astype(int)).tolist()
    batch = decode_batch(shard, [rows[place] for place in places], encoder.image_px, encoder.interpolation)
    captions = [shard.caption(row) for row in batch.rows]
    image, text, _ = encode_batch(encoder, batch.pixels, captions, len(captions))
    for name, again, stored in (("image", image, written.image), ("text", text, written.text)):
        for n, place in enumerate(places):
            cosine = float(again[n] @ stored[place] / np.linalg.norm(again[n]))
            if not cosine >= MIN_CHECK_COSINE or batch.digests[n] != written.image_sha256[place]:
                raise ValueError(f"{part}: the {name} of {written.keys[place]} embedded again has cosine {cosine:.5f}")


def text_digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
