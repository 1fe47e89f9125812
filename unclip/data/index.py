"""The search index over image embeddings: its kind by the size of the table, learned once, grown by parts, measured.

What is learned depends on the first parts only (`unclip.data.index_growth` says which), and a part's codes on that and
on the part: both are kept, so that one more part costs itself. Where later parts are farther from the lists than
MAX_DRIFT allows, everything is learned anew with them. The result depends on the parts alone, never on what was kept.
N rows, D dimensions.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unclip.data.config import IndexConfig
from unclip.data.digests import known_digest
from unclip.data.index_codes import merge_codes, open_index, write_probes
from unclip.data.index_growth import Growth, Inputs, Keep
from unclip.data.index_recall import (
    NUM_QUERIES,
    NUM_RIVALS,
    Nearest,
    choose_probes,
    exact_nearest,
    find,
    merged_nearest,
    nearest_in,
    recalls,
    sampled,
)
from unclip.data.table import Floats, check_agree, unit, vectors_in, vectors_of
from unclip.recipe import code_digest, digest_of

KEY_COLUMNS = ("key", "shard", "row", "caption")  # of keys.parquet


class LowRecall(ValueError):
    """An index that does not find what it should."""


def write_index(
    config: IndexConfig, parts: Sequence[Path], digests: Sequence[str], out: Path, seed: int, keep: Keep | None = None
) -> dict[str, Any]:
    """Write `index.faiss` (and `index.ivfdata` if it has lists), `keys.parquet`, `index.json`; what is in the last.

    Ids count the rows of all parts in order. digests: of each part's bytes. keep: where what is learned and each part's
    codes and neighbours are found again; without it they are made and thrown away. Queries for the recall are texts of
    the table.

    Raises: ValueError for an empty table; LowRecall when recall@10 stays below `min_recall`.
    """
    infos = check_agree(parts)
    counts = [info.num_rows for info in infos]
    if sum(counts) == 0:
        raise ValueError("the embedding table has no rows: nothing to index")
    with tempfile.TemporaryDirectory(dir=out, prefix=".index-") as aside:
        builder = Builder(Growth(config, parts, counts, digests, seed, keep or kept_in(Path(aside))))
        figures = builder.write(out)
        queries, exact = builder.asked(is_small=figures["kind"] == "flat")
    index = open_index(out)
    if figures["kind"] == "flat":
        recall = recalls(index.search(queries, min(10, index.ntotal))[1], exact)
    else:
        recall = choose_probes(config, index, parts, queries, exact)
        write_probes(index, out)
        figures["num_probes"] = faiss.extract_index_ivf(index).nprobe
    if recall[10] < config.min_recall:
        found = f"recall@10 is {recall[10]:.4f}, below min_recall {config.min_recall}"
        mend = "num_probes must be more" if config.num_probes else "all lists were searched: kind 'flat' is exact"
        raise LowRecall(f"{found}: {mend}")
    figures |= {"rows": sum(counts), "recall_at_1": recall[1], "recall_at_10": recall[10]}
    write_keys(parts, out / "keys.parquet")
    (out / "index.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures


class Builder:
    """An index in the making over the parts of one table."""

    def __init__(self, growth: Growth) -> None:
        self.growth, self.parts, self.seed, self.keep = growth, growth.parts, growth.seed, growth.keep

    def write(self, out: Path) -> dict[str, Any]:
        """Write the index without probes chosen; its kind and why, and what it was learned from and why."""
        if (kind := self.growth.kind(len(self.parts))).name == "flat":
            self.write_flat(out)
            return {"kind": kind.name, "factory": kind.factory, "reason": kind.reason}
        first, why = self.growth.learned_from
        kind, coded = self.growth.kind(first), self.growth.encoded(first, len(self.parts))
        merge_codes(faiss.read_index(str(coded.learned / "empty.faiss")), coded.codes, out)
        drifted = coded.drift(first)
        figures = {
            "kind": kind.name,
            "factory": kind.factory,
            "reason": kind.reason,
            "drift": None if drifted == math.inf else drifted,
        }
        return figures | {"num_lists": kind.num_lists, "learned_from_parts": first, "learned_from_because": why}

    def asked(self, is_small: bool) -> tuple[Floats, Nearest]:
        """Queries for the recall, and what is nearest to them in the whole table.

        Of a table that is not small the queries are texts of the first parts, so that what is nearest is kept a part.
        """
        if is_small:
            queries = sampled(self.parts, "text_embedding", self.growth.counts, NUM_QUERIES, self.seed)
            return queries, exact_nearest(self.parts, queries, NUM_RIVALS)
        first: Inputs = {"embed": tuple(self.growth.digests[: self.growth.learned_from[0]])}
        queries = np.load(self.keep("index_queries", first, {"seed": self.seed}, self.draw) / "queries.npy")
        found = []
        for part, digest in zip(self.parts, self.growth.digests, strict=True):
            made: Inputs = {"queries": (digest_of([first, self.seed]),), "embed": (digest,)}
            folder = self.keep("index_nearest", made, {}, partial(write_nearest, queries, part))
            found.append((np.load(folder / "cosines.npy"), np.load(folder / "places.npy")))
        return queries, merged_nearest(found, self.growth.counts, NUM_RIVALS)

    def draw(self, folder: Path) -> None:
        """Write the queries (Q, D): texts of the first parts."""
        first = slice(self.growth.learned_from[0])
        queries = sampled(self.parts[first], "text_embedding", self.growth.counts[first], NUM_QUERIES, self.seed)
        np.save(folder / "queries.npy", queries)

    def write_flat(self, out: Path) -> None:
        """Write an index of all vectors as they are."""
        index = faiss.IndexFlatIP(check_agree(self.parts[:1])[0].dimension)
        for vectors in vectors_in(self.parts, "image_embedding"):
            index.add(unit(vectors))
        faiss.write_index(index, str(out / "index.faiss"))


def write_nearest(queries: Floats, part: Path, folder: Path) -> None:
    """Write the cosines and places of the rows of a part that are nearest to the queries."""
    cosines, places = nearest_in(vectors_of(part, "image_embedding"), queries, NUM_RIVALS)
    np.save(folder / "cosines.npy", cosines)
    np.save(folder / "places.npy", places)


def grow_index(config: IndexConfig, parts: Sequence[Path], out: Path, seed: int) -> dict[str, Any]:
    """`write_index` where the codes of parts that `out` had before cost nothing: `out/index_pieces` keeps them.

    Pieces of parts that are gone, or of lists learned anew, are removed. Where no lists reach the recall it is exact.

    Raises: ValueError for an empty table.
    """
    root, used = out / "index_pieces", set[str]()
    kept = kept_in(root)

    def keep(kind: str, inputs: Inputs, settings: dict[str, Any], fill: Callable[[Path], None]) -> Path:
        folder = kept(kind, inputs, settings, fill)
        used.add(folder.name)
        return folder

    digests = [known_digest(part) for part in parts]
    try:
        figures = write_index(config, parts, digests, out, seed, keep)
    except LowRecall as error:
        figures = write_index(replace(config, kind="flat", num_probes=None), parts, digests, out, seed, keep)
        figures["reason"] = str(error)
    for folder in root.glob("*"):
        if folder.name not in used:
            shutil.rmtree(folder)
    return figures


def kept_in(root: Path) -> Keep:
    """Keeps folders below `root`, each named by what it is made from and by what code, complete or absent."""
    code = code_digest(("unclip.data.index",))

    def keep(kind: str, inputs: Inputs, settings: dict[str, Any], fill: Callable[[Path], None]) -> Path:
        folder = root / f"{kind}-{digest_of([code, inputs, settings])[:32]}"
        if not folder.exists():
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".making-") as name:
                whole = Path(name) / "folder"
                whole.mkdir()
                fill(whole)
                try:
                    whole.rename(folder)
                except OSError:
                    if not folder.exists():  # else another process made the same meanwhile
                        raise
        return folder

    return keep


def write_keys(parts: Sequence[Path], path: Path) -> None:
    """Write key, shard, row and caption by index id, one part in memory at a time."""
    text, number = pa.string(), pa.int32()
    schema = pa.schema([("key", text), ("shard", number), ("row", number), ("caption", text)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard, part in enumerate(parts):
            table = pq.read_table(part, columns=["key", "caption"])
            places = [np.full(len(table), shard, np.int32), np.arange(len(table), dtype=np.int32)]
            writer.write_table(pa.table([table["key"], *places, table["caption"]], schema=schema))


def search(folder: Path, queries: Floats, k: int) -> tuple[pa.Table, NDArray[np.int64], Floats]:
    """The key map, and of each unit query (Q, D) the ids (Q, k) of the nearest images and their cosines.

    Product codes are refined from `parts/*.parquet` beside the index.

    Raises: ValueError when the folder holds no index, or the key map is not the index's.
    """
    index, keys = open_index(folder), pq.read_table(folder / "keys.parquet")
    if index.ntotal != len(keys):
        raise ValueError(f"{folder}: the index has {index.ntotal} rows, keys.parquet {len(keys)}")
    if lacking := [name for name in KEY_COLUMNS if name not in keys.column_names]:
        raise ValueError(f"{folder}/keys.parquet is damaged: it has no column {', '.join(lacking)}")
    ids, cosines = find(index, sorted((folder / "parts").glob("??????.parquet")), queries, k)
    return keys, ids, cosines
