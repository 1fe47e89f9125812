"""Questions to a dump: the rows nearest to a text or a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from unclip.data.dump import part_paths, refuse_other_clip, rows_path
from unclip.data.embed import Encoder
from unclip.data.images import crop_square, open_rgb
from unclip.data.index import search
from unclip.data.table import Floats, unit


def search_dump(dump: Path, encoder: Encoder, text: str | None, image: Path | None, k: int) -> list[dict[str, Any]]:
    """The k rows whose images are nearest to a text or a picture: key, caption, file or address, shard, row, cosine.

    Raises: ValueError when not exactly one of text and image is given, or the CLIP is not the table's.
    """
    if (text is None) == (image is None):
        raise ValueError("search needs a text or an image, one of them")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    part_paths(dump)
    refuse_other_clip(dump, encoder)
    keys, ids, cosines = search(dump, embed_query(encoder, text, image), k)
    hits = [
        keys.slice(int(i), 1).to_pylist()[0] | {"cosine": round(float(cosine), 6)}
        for i, cosine in zip(ids[0], cosines[0], strict=True)
        if i >= 0
    ]
    return [hit | {"url": url} for hit, url in zip(hits, urls_of(dump, hits), strict=True)]


def urls_of(dump: Path, hits: list[dict[str, Any]]) -> list[str | None]:
    """The file or address that each hit came from; None where the dump is being written and holds other rows now."""
    found: dict[tuple[str, str], str] = {}
    for shard in {hit["shard"] for hit in hits}:
        path = rows_path(dump / "parts" / f"{shard:06d}.parquet")
        if path.is_file():
            wanted = [("key", "in", [hit["key"] for hit in hits if hit["shard"] == shard])]
            rows = pq.read_table(path, columns=["key", "caption", "url"], filters=wanted).to_pylist()
            found |= {(row["key"], row["caption"]): row["url"] for row in rows}
    return [found.get((hit["key"], hit["caption"])) for hit in hits]


def embed_query(encoder: Encoder, text: str | None, image: Path | None) -> Floats:
    """The unit embedding (1, D) of a text or of a picture in a file."""
    if text is not None:
        return unit(encoder.encode_text(encoder.tokenize([text])))
    assert image is not None
    if not image.is_file():
        raise ValueError(f"image must be an existing file, got {str(image)!r}")
    try:
        picture = open_rgb(image.read_bytes())
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from None
    pixels = np.array(crop_square(picture, encoder.image_px, encoder.interpolation))
    return unit(encoder.encode_image(pixels[None]))
