"""Score columns of a shard from pixels, captions and what the source says: written once, read by every policy.

Nothing here depends on a threshold, so changing one decodes and scores nothing again.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unclip.data.languages import language_of
from unclip.data.perceptual import perceptual_hash, sharpness, spread
from unclip.data.rows import OK
from unclip.data.shards import ShardReader

SCORES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # "ok" or "undecodable"
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("std", pa.float32(), nullable=False),  # of all pixel values, 0..255
        pa.field("sharpness", pa.float32(), nullable=False),  # variance of the Laplacian of the gray picture
        pa.field("pixel_digest", pa.binary(32), nullable=False),  # of the decoded pixels and their sides
        pa.field("perceptual_hash", pa.uint64(), nullable=False),
        pa.field("words", pa.int32(), nullable=False),
        pa.field("chars", pa.int32(), nullable=False),
        pa.field("language", pa.string(), nullable=False),  # ISO 639-1; "" of a caption without letters
        pa.field("language_prob", pa.float32(), nullable=False),
        pa.field("unsafe", pa.float32()),  # the source's word for it in 0..1; null where it has none
        pa.field("watermark", pa.float32()),  # likewise
        pa.field("caption", pa.string(), nullable=False),
        pa.field("group", pa.string()),  # the source's duplicate group
        pa.field("split", pa.string()),  # the source's split
    ]
)
NO_PICTURE = {"width": 0, "height": 0, "std": 0.0, "sharpness": 0.0, "pixel_digest": bytes(32), "perceptual_hash": 0}
GIVEN = {"unsafe": "punsafe", "watermark": "pwatermark"}  # scores and the fields that LAION's samples have them in


def score_shard(shard: ShardReader, given: Mapping[str, str] = GIVEN) -> pa.Table:
    """The scores of every sample of a shard, in its order; each picture is decoded to its end.

    given: scores that the source may have already, by column, and the field of a sample's JSON that each stands in.
    """
    return pa.Table.from_pylist([score_sample(shard, i, given) for i in range(len(shard))], schema=SCORES_SCHEMA)


def score_sample(shard: ShardReader, i: int, given: Mapping[str, str]) -> dict[str, Any]:
    """The scores of one sample. A picture that does not decode has status "undecodable" and no size."""
    meta = shard.meta(i)
    said = {name: meta.get(name) for name in ("group", "split")}
    source = {name: None if value is None else str(value) for name, value in said.items()}
    known = {name: number_or_none(meta.get(field)) for name, field in given.items()}
    try:
        scores = {"status": OK, **score_picture(shard.image(i))}
    except ValueError:
        scores = {"status": "undecodable", **NO_PICTURE}
    return {"key": shard.keys[i], **scores, **score_caption(shard.caption(i)), **known, **source}


def score_picture(image: Image.Image) -> dict[str, Any]:
    """Sides, spread, sharpness, digest and perceptual hash of an RGB picture."""
    data, gray = image.tobytes(), image.convert("L")
    return {
        "width": image.width,
        "height": image.height,
        "std": spread(image),
        "sharpness": sharpness(gray),
        "pixel_digest": hashlib.sha256(f"{image.width}x{image.height}:".encode() + data).digest(),
        "perceptual_hash": perceptual_hash(gray),
    }


def score_caption(caption: str) -> dict[str, Any]:
    """Words, characters and language of a caption."""
    language, prob = language_of(caption)
    words = {"words": len(caption.split()), "chars": len(caption.strip())}
    return {**words, "language": language, "language_prob": prob, "caption": caption}


def number_or_none(value: Any) -> float | None:
    """A number, or text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_scores(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The scores of each shard.

    Raises: ValueError when a file has other columns.
    """
    for path in paths:
        table = pq.read_table(path)
        if table.schema.names != SCORES_SCHEMA.names:
            raise ValueError(f"{path} must have the columns {', '.join(SCORES_SCHEMA.names)}, has {table.schema.names}")
        yield table
