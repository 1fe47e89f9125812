"""Score columns from pixels and captions, written once; a policy over them that says which rows are kept, and why not.

The policy reads scores only, so thresholds change without decoding anything again.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from unclip.data.config import FilterConfig
from unclip.data.dedup import assign_splits, keeper, perceptual_hash, same_picture
from unclip.data.rows import OK, refusals
from unclip.data.shards import ShardReader

SCORES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # "ok" or "undecodable"
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("std", pa.float32(), nullable=False),  # of all pixel values, 0..255
        pa.field("pixel_digest", pa.binary(32), nullable=False),  # of the decoded pixels and their sides
        pa.field("perceptual_hash", pa.uint64(), nullable=False),
        pa.field("words", pa.int32(), nullable=False),
        pa.field("chars", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("group", pa.string()),  # the source's duplicate group
        pa.field("split", pa.string()),  # the source's split
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
Mask = NDArray[np.bool_]


def score_shard(shard: ShardReader) -> pa.Table:
    """The scores of every sample of a shard, in its order; each picture is decoded to its end."""
    return pa.Table.from_pylist([score_sample(shard, i) for i in range(len(shard))], schema=SCORES_SCHEMA)


def score_sample(shard: ShardReader, i: int) -> dict[str, Any]:
    """The scores of one sample. A picture that does not decode has status "undecodable" and no size."""
    caption, meta = shard.caption(i), shard.meta(i)
    words = {"words": len(caption.split()), "chars": len(caption.strip()), "caption": caption}
    group = meta.get("group")
    source = {"group": None if group is None else str(group), "split": meta.get("split")}
    try:
        scores = {"status": OK, **score_picture(shard.image(i))}
    except ValueError:
        nothing = {"width": 0, "height": 0, "std": 0.0, "pixel_digest": bytes(32), "perceptual_hash": 0}
        scores = {"status": "undecodable", **nothing}
    return {"key": shard.keys[i], **scores, **words, **source}


def score_picture(image: Image.Image) -> dict[str, Any]:
    """Sides, spread, digest and perceptual hash of an RGB picture."""
    data = image.tobytes()
    return {
        "width": image.width,
        "height": image.height,
        "std": spread(data),
        "pixel_digest": hashlib.sha256(f"{image.width}x{image.height}:".encode() + data).digest(),
        "perceptual_hash": perceptual_hash(image),
    }


def spread(data: bytes) -> float:
    """The standard deviation of bytes, from exact sums of whole numbers: BLAS threads cost more than they save here."""
    values = np.frombuffer(data, np.uint8).astype(np.int64)
    total, squares = int(values.sum()), int(values @ values)
    return math.sqrt(len(data) * squares - total**2) / len(data)


@dataclass
class Selection:
    """Rows on their way through a policy: which are still in, and of each that is not, the reason."""

    keys: list[str]
    shard: NDArray[np.int32]
    kept: Mask
    funnel: list[dict[str, Any]]
    dropped: list[dict[str, Any]]

    @classmethod
    def of(cls, keys: list[str], shard: NDArray[np.int32]) -> "Selection":
        """All rows, none dropped."""
        return cls(keys=keys, shard=shard, kept=np.ones(len(keys), bool), funnel=[], dropped=[])

    def drop(self, reason: str, bad: Mask, detail: Callable[[int], str]) -> None:
        """Drop the rows marked bad that are still in; `detail` says of a row what was found."""
        before, rows = int(self.kept.sum()), np.flatnonzero(self.kept & bad)
        self.dropped += [
            {"key": self.keys[i], "shard": int(self.shard[i]), "reason": reason, "detail": detail(int(i))} for i in rows
        ]
        self.kept[rows] = False
        self.funnel.append({"step": reason, "rows_in": before, "dropped": len(rows), "rows_out": before - len(rows)})

    def refused(self) -> dict[str, int]:
        """How many rows were dropped, by reason."""
        return refusals(row["reason"] for row in self.dropped)

    def write_dropped(self, path: Path) -> None:
        """Write the dropped rows, sorted by key."""
        rows = sorted(self.dropped, key=lambda row: str(row["key"]))
        pq.write_table(pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA), path, compression="zstd")


def read_scores(paths: Iterable[Path]) -> tuple[pa.Table, NDArray[np.int32]]:
    """The scores of all shards as one table, and the number of the shard of each row.

    Raises: ValueError when a file has other columns.
    """
    tables = []
    for path in paths:
        table = pq.read_table(path)
        if table.schema.names != SCORES_SCHEMA.names:
            raise ValueError(f"{path} must have the columns {', '.join(SCORES_SCHEMA.names)}, has {table.schema.names}")
        tables.append(table)
    shard = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    return pa.concat_tables(tables), shard


def apply_policy(config: FilterConfig, scores: pa.Table, selection: Selection) -> None:
    """Drop what the policy refuses of a row by itself, cheapest reason first; duplicates come after."""
    column = {name: scores[name].to_numpy() for name in ("status", "width", "height", "std", "words", "chars")}
    short = np.minimum(column["width"], column["height"])
    aspect = np.maximum(column["width"], column["height"]) / np.maximum(short, 1)
    selection.drop("undecodable", column["status"] != OK, lambda i: "")
    selection.drop("small", short < config.min_side_px, lambda i: f"{column['width'][i]}x{column['height'][i]}")
    if config.max_aspect is not None:
        selection.drop("aspect", aspect > config.max_aspect, lambda i: f"{aspect[i]:.2f}")
    selection.drop("flat", column["std"] < config.min_std, lambda i: f"{column['std'][i]:.2f}")
    selection.drop("few_words", column["words"] < config.min_words, lambda i: str(column["words"][i]))
    selection.drop("short_caption", column["chars"] < config.min_chars, lambda i: str(column["chars"][i]))


def cap_captions(config: FilterConfig, captions: list[str], selection: Selection) -> None:
    """Of the rows still in with the same caption, drop all but the first `max_per_caption`."""
    if config.max_per_caption is None:
        return
    seen: dict[str, int] = {}
    bad = np.zeros(len(captions), bool)
    for i in np.flatnonzero(selection.kept):
        seen[captions[i]] = seen.get(captions[i], 0) + 1
        bad[i] = seen[captions[i]] > config.max_per_caption
    selection.drop("frequent_caption", bad, lambda i: captions[i])


def filter_rows(config: FilterConfig, scores: pa.Table, selection: Selection) -> pa.Table:
    """The rows kept by the whole policy: key, shard, split, in the order of the scores.

    Raises: ValueError when none is left.
    """
    apply_policy(config, scores, selection)
    captions, digests = scores["caption"].to_pylist(), scores["pixel_digest"].to_pylist()
    named = scores["split"].to_pylist()
    pictures = same_picture(digests, scores["perceptual_hash"].to_numpy(), config.max_hamming)
    if config.drop_duplicates:
        drop_duplicates(pictures, np.array([name == "test" for name in named]), selection)
    cap_captions(config, captions, selection)
    if not selection.kept.any():
        steps = ", ".join(f"{step['step']} {step['dropped']}" for step in selection.funnel if step["dropped"])
        raise ValueError(f"the filter keeps no row; dropped: {steps or 'nothing, there are no rows'}")
    splits = assign_splits(config, pictures, digests, scores["group"].to_pylist(), named)
    rows = np.flatnonzero(selection.kept)
    return pa.table(
        {
            "key": pa.array([selection.keys[i] for i in rows], pa.string()),
            "shard": pa.array(selection.shard[rows], pa.int32()),
            "split": pa.array([splits[i] for i in rows], pa.string()),
        }
    )


def drop_duplicates(pictures: NDArray[np.int64], named_test: Mask, selection: Selection) -> None:
    """Of the rows still in that show one picture, drop all but one."""
    rows = np.flatnonzero(selection.kept)
    best = np.arange(len(pictures))
    best[rows] = rows[keeper(np.unique(pictures[rows], return_inverse=True)[1], named_test[rows])]
    selection.drop("duplicate", best != np.arange(len(pictures)), lambda i: f"of {selection.keys[best[i]]}")
