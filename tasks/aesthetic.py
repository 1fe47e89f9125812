"""One shard's ratings by the aesthetic head."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.context import Context
from unclip.data.aesthetic import load_head, require_same_clip, save_head
from unclip.data.config import AestheticConfig
from unclip.data.source_plan import HEAD_FILES, require_same_folder
from unclip.data.table import read_info, unit, vectors_of


def build(ctx: Context) -> dict[str, Any]:
    """Write `aesthetic.parquet`, the ratings of a part in its order, and the head that gave them.

    Raises: ValueError when the head was fitted on another CLIP's embeddings, or changed meanwhile.
    """
    config: AestheticConfig = ctx.config
    part = ctx.one("embed").path / "part.parquet"
    head = load_head(Path(config.head))
    require_same_clip(head, read_info(part), f"aesthetic.head: {config.head}")
    ratings = head.rate(unit(vectors_of(part, "image_embedding")))
    keys = pq.read_table(part, columns=["key"])["key"]
    table = pa.table({"key": keys, "aesthetic": pa.array(ratings, pa.float32())})
    pq.write_table(table, ctx.out / "aesthetic.parquet", compression="zstd")
    save_head(head, ctx.out)
    if ctx.planned:
        require_same_folder(config.head, "aesthetic.head", HEAD_FILES, ctx.planned["head"])
    return {"rows": len(ratings), "mean_aesthetic": float(np.mean(ratings)) if len(ratings) else 0.0}
