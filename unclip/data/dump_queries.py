"""Questions to a table: the rows nearest to a text or a picture, and a sheet of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from unclip.data.contact_sheet import Tile, contact_sheet
from unclip.data.dump import part_paths, rows_path
from unclip.data.dump_pictures import DumpPictures, ReadPicture
from unclip.data.embed import Encoder
from unclip.data.images import open_rgb
from unclip.data.index_files import search
from unclip.data.more_columns import read_more
from unclip.data.rows import MORE
from unclip.data.table import Floats, unit


@dataclass(frozen=True, kw_only=True)
class Searchable:
    """An embedding table as it is searched: a dump's, or a pipeline's."""

    index: Path  # the folder of index.faiss and keys.parquet
    rows: Sequence[Path]  # the fate of each part's rows, in the order of the parts
    read: ReadPicture


def searchable_dump(dump: Path, source: Path | None = None) -> Searchable:
    """A dump to be searched; source: where its pictures lie now. Raises: ValueError when the folder is no dump."""
    return Searchable(index=dump, rows=[rows_path(part) for part in part_paths(dump)], read=DumpPictures(dump, source))


def one_query(text: str | None, image: Path | None, k: int) -> str | Path:
    """The text or picture to look for. Raises: ValueError when it is not exactly one of them, or k is below 1."""
    query = text if image is None else image
    if query is None or (text is not None and image is not None):
        raise ValueError("search needs a text or an image, one of them")
    if k < 1:
        raise ValueError(f"-k must be >= 1, got {k}")
    return query


def search_table(table: Searchable, encoder: Encoder, query: str | Path, k: int) -> list[dict[str, Any]]:
    """The k rows nearest to a text or the picture in a file: key, caption, file or address, shard, row, cosine, more.

    more: what a dump's source says of the row besides.
    """
    keys, ids, cosines = search(table.index, embed_query(encoder, query), k)
    found = ids[0] >= 0
    near = np.round(cosines[0][found].astype(np.float64), 6).tolist()
    hits = [row | {"cosine": cosine} for row, cosine in zip(keys.rows(ids[0][found]), near, strict=True)]
    return [hit | said for hit, said in zip(hits, said_of(table, hits), strict=True)]


def said_of(table: Searchable, hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """url, the file or address that each hit came from, and more, what its source says besides.

    None and nothing where it was drawn, or the dump is being written just now.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for shard in {hit["shard"] for hit in hits}:
        if shard < len(table.rows) and table.rows[shard].is_file():
            wanted = [("key", "in", [hit["key"] for hit in hits if hit["shard"] == shard])]
            there = pq.read_schema(table.rows[shard]).names
            columns = ["key", "caption", "url", *([MORE.name] if MORE.name in there else [])]
            for row in pq.read_table(table.rows[shard], columns=columns, filters=wanted).to_pylist():
                said = {"url": row["url"], "more": read_more(row.get(MORE.name))}
                found[row["key"], row["caption"]] = said
    return [found.get((hit["key"], hit["caption"]), {"url": None, "more": {}}) for hit in hits]


def embed_query(encoder: Encoder, query: str | Path) -> Floats:
    """The unit embedding (1, D) of a text or of a picture in a file."""
    if isinstance(query, str):
        return unit(encoder.encode_text(encoder.tokenize([query])))
    if not query.is_file():
        raise ValueError(f"--image must be an existing file, got {str(query)!r}")
    try:
        picture = open_rgb(query.read_bytes())
    except ValueError as error:
        raise ValueError(f"{query}: {error}") from None
    return unit(encoder.encode_image(encoder.crop(picture)[None]))


def sheet_of(table: Searchable, hits: Sequence[dict[str, Any]], heading: str) -> Image.Image:
    """The pictures of the hits with rank, cosine and caption; a picture that is gone says why."""
    return contact_sheet([tile_of(table, rank, hit) for rank, hit in enumerate(hits, start=1)], heading)


def tile_of(table: Searchable, rank: int, hit: dict[str, Any]) -> Tile:
    """A hit as a tile of a sheet."""
    title = f"{rank}   {hit['cosine']:.3f}"
    try:
        picture = open_rgb(table.read(hit["shard"], hit["key"]))
    except (ValueError, OSError) as error:
        return Tile(title=title, caption=hit["caption"], why=str(error))
    return Tile(title=title, caption=hit["caption"], picture=picture)
