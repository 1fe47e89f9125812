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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from unclip.data.config import IndexConfig
from unclip.data.digests import known_digest
from unclip.data.index_codes import merge_codes, open_index, write_probes
from unclip.data.index_files import STAMP, publish, write_flat, write_keys
from unclip.data.index_growth import Growth, Inputs, Keep
from unclip.data.index_lists import FROM_ROWS, load_empty
from unclip.data.index_recall import (
    NUM_QUERIES,
    NUM_RIVALS,
    Nearest,
    choose_probes,
    exact_nearest,
    merged_nearest,
    nearest_in,
    recalls,
    sampled,
)
from unclip.data.table import Floats, check_agree, read_info, vectors_in, vectors_of
from unclip.recipe import code_digest, digest_of

MAX_EXACT_ROWS = FROM_ROWS["ivf_hnsw"]  # 6 GB of 768 dimensions, all read in every search
ASIDE = ".index-"  # a folder where an index is made


class LowRecall(ValueError):
    """An index that does not find what it should."""


def write_index(
    config: IndexConfig, parts: Sequence[Path], digests: Sequence[str], out: Path, seed: int, keep: Keep | None = None
) -> dict[str, Any]:
    """Write `index.faiss`, the file of its lists if it has any, `keys.parquet`, `index.json`; what is in the last.

    Ids count the rows of all parts in order. digests: of each part's bytes. keep: where what is learned and each part's
    codes and neighbours are found again; without it they are made and thrown away. Queries for the recall are texts of
    the table. An index that is there already stays in use until the new one is whole.

    Raises: ValueError for an empty table; LowRecall when recall@10 stays below `min_recall`.
    """
    counts = [info.num_rows for info in check_agree(parts)]
    if sum(counts) == 0:
        raise ValueError("the embedding table has no rows: nothing to index")
    for left in out.glob(f"{ASIDE}*"):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix=ASIDE) as name:
        aside = Path(name)
        builder = Builder(Growth(config, parts, counts, digests, seed, keep or kept_in(aside / "pieces")))
        figures = builder.write(aside)
        stamp = digest_of(list(digests))
        figures |= measured(config, builder, figures, aside) | {"rows": sum(counts), STAMP: stamp}
        write_keys(parts, aside / "keys.parquet", stamp)
        (aside / "index.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
        publish(aside, out)
    return figures


def measured(config: IndexConfig, builder: "Builder", figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recall of the index in a folder, and the number of probes that it was given. Raises: LowRecall."""
    queries, exact = builder.asked(is_small=figures["kind"] == "flat")
    index, probes = open_index(folder), {}
    if figures["kind"] == "flat":
        recall = recalls(index.search(queries, min(10, index.ntotal))[1], exact)
    else:
        recall = choose_probes(config, index, builder.parts, queries, exact)
        write_probes(index, folder)
        probes = {"num_probes": faiss.extract_index_ivf(index).nprobe}
    if recall[10] < config.min_recall:
        found = f"recall@10 is {recall[10]:.4f}, below min_recall {config.min_recall}"
        mend = "num_probes must be more" if config.num_probes else "all lists were searched: kind 'flat' is exact"
        raise LowRecall(f"{found}: {mend}")
    return probes | {"recall_at_1": recall[1], "recall_at_10": recall[10]}


class Builder:
    """An index in the making over the parts of one table."""

    def __init__(self, growth: Growth) -> None:
        self.growth, self.parts, self.seed, self.keep = growth, growth.parts, growth.seed, growth.keep

    def write(self, out: Path) -> dict[str, Any]:
        """Write the index without probes chosen; its kind and why, and what it was learned from and why."""
        if (kind := self.growth.kind(len(self.parts))).name == "flat":
            dimension = read_info(self.parts[0]).dimension
            write_flat(dimension, vectors_in(self.parts, "image_embedding", ahead=1), out / "index.faiss")
            return {"kind": kind.name, "factory": kind.factory, "reason": kind.reason}
        first, why = self.growth.learned_from
        kind, coded = self.growth.kind(first), self.growth.encoded(first, len(self.parts))
        merge_codes(load_empty(coded.learned), coded.codes, out)
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

        Of a table that is not small the queries are texts of the first parts, so that what is nearest is kept a part,
        and one part's is in memory at a time.
        """
        if is_small:
            queries = sampled(self.parts, "text_embedding", self.growth.counts, NUM_QUERIES, self.seed)
            return queries, exact_nearest(self.parts, self.growth.counts, queries, NUM_RIVALS)
        first: Inputs = {"embed": tuple(self.growth.digests[: self.growth.learned_from[0]])}
        queries = np.load(self.keep("index_queries", first, {"seed": self.seed}, self.draw) / "queries.npy")
        made: Inputs = {"queries": (digest_of([first, self.seed]),)}
        return queries, merged_nearest(self.nearest(queries, made), self.growth.counts, NUM_RIVALS)

    def nearest(self, queries: Floats, made: Inputs) -> Iterator[Nearest]:
        """What is nearest to the queries, made from what `made` says, in each part."""
        for part, digest in zip(self.parts, self.growth.digests, strict=True):
            fill = partial(write_nearest, queries, part)
            folder = self.keep("index_nearest", made | {"embed": (digest,)}, {}, fill)
            yield np.load(folder / "cosines.npy"), np.load(folder / "places.npy")

    def draw(self, folder: Path) -> None:
        """Write the queries (Q, D): texts of the first parts."""
        first = slice(self.growth.learned_from[0])
        queries = sampled(self.parts[first], "text_embedding", self.growth.counts[first], NUM_QUERIES, self.seed)
        np.save(folder / "queries.npy", queries)


def write_nearest(queries: Floats, part: Path, folder: Path) -> None:
    """Write the cosines and places of the rows of a part that are nearest to the queries."""
    cosines, places = nearest_in(vectors_of(part, "image_embedding"), queries, NUM_RIVALS)
    np.save(folder / "cosines.npy", cosines)
    np.save(folder / "places.npy", places)


def grow_index(config: IndexConfig, parts: Sequence[Path], out: Path, seed: int) -> dict[str, Any]:
    """`write_index` where the codes of parts that `out` had before cost nothing: `out/index_pieces` keeps them.

    Pieces of parts that are gone, or of lists learned anew, are removed. Where no lists reach the recall it is exact.

    Raises: ValueError for an empty table, or where no lists reach the recall and rows are too many for an exact search.
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
        rows = sum(info.num_rows for info in check_agree(parts))
        if rows > MAX_EXACT_ROWS:
            raise ValueError(
                f"{error}; of {rows:,} rows, more than {MAX_EXACT_ROWS:,}, it is not made unasked: "
                "give a lower min_recall, or kind flat"
            ) from error
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
