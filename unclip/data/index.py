"""The search index over image embeddings: its kind by the size of the table, learned once, grown by parts, measured.

What is learned depends on the first parts only, as many as the largest power of two there is, and a part's codes on
that and on the part: both are kept, so that one more part costs itself. Where the parts after these are farther from
the lists than MAX_DRIFT allows, everything is learned anew from all parts, for each more of them until there are twice
as many. The result depends on the parts alone, never on what was kept. N rows, D dimensions.
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
from unclip.data.digests import file_digest, known_digest
from unclip.data.index_codes import drift, encode_part, merge_codes, open_index, write_probes
from unclip.data.index_lists import Kind, empty_index, kind_of, learn_lists, load_lists, save_lists
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
from unclip.data.raw_rows import raw_rows
from unclip.data.table import Floats, check_agree, unit, vectors_in, vectors_of
from unclip.recipe import code_digest, digest_of

MAX_DRIFT = 1.2  # of the distance to the centroids, new parts over those learned from: alike, up to 1.06
KEY_COLUMNS = ("key", "shard", "row", "caption")  # of keys.parquet
CODE_ROWS = 16_384  # that codes are learned on

Inputs = dict[str, tuple[str, ...]]  # digests by what they are of
Keep = Callable[[str, Inputs, dict[str, Any], Callable[[Path], None]], Path]
"""The folder of a kind made from these inputs with these settings: found, or filled by the function and kept."""


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
        builder = Builder(config, parts, counts, digests, seed, keep or kept_in(Path(aside)))
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

    def __init__(
        self,
        config: IndexConfig,
        parts: Sequence[Path],
        counts: Sequence[int],
        digests: Sequence[str],
        seed: int,
        keep: Keep,
    ) -> None:
        self.config, self.parts, self.counts, self.digests = config, parts, counts, digests
        self.seed, self.keep = seed, keep
        self.first, self.why = first_parts(counts)

    def write(self, out: Path) -> dict[str, Any]:
        """Write the index without probes chosen; its kind and why, and what it was learned from and why."""
        first = self.first
        kind = self.kind(first)
        if kind.name == "flat":
            self.write_flat(out)
            return {"kind": kind.name, "factory": kind.factory, "reason": kind.reason}
        learned, encoded = self.encoded(kind, first)
        drifted, why = drift(encoded, first), self.why
        if drifted is not None and drifted > MAX_DRIFT:
            why = f"parts after the first {first} are {drifted:.2f} times as far from its lists, above {MAX_DRIFT}"
            first = len(self.parts)
            kind = self.kind(first)
            learned, encoded = self.encoded(kind, first)
        merge_codes(faiss.read_index(str(learned / "empty.faiss")), encoded, out)
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
            queries = sampled(self.parts, "text_embedding", self.counts, NUM_QUERIES, self.seed)
            return queries, exact_nearest(self.parts, queries, NUM_RIVALS)
        first: Inputs = {"embed": tuple(self.digests[: self.first])}
        queries = np.load(self.keep("index_queries", first, {"seed": self.seed}, self.draw) / "queries.npy")
        found = []
        for part, digest in zip(self.parts, self.digests, strict=True):
            made: Inputs = {"queries": (digest_of([first, self.seed]),), "embed": (digest,)}
            folder = self.keep("index_nearest", made, {}, partial(write_nearest, queries, part))
            found.append((np.load(folder / "cosines.npy"), np.load(folder / "places.npy")))
        return queries, merged_nearest(found, self.counts, NUM_RIVALS)

    def draw(self, folder: Path) -> None:
        """Write the queries (Q, D): texts of the first parts."""
        first = slice(self.first)
        queries = sampled(self.parts[first], "text_embedding", self.counts[first], NUM_QUERIES, self.seed)
        np.save(folder / "queries.npy", queries)

    def kind(self, first: int) -> Kind:
        """The index's kind if it is learned from the first parts."""
        return kind_of(self.config, sum(self.counts), sum(self.counts[:first]))

    def write_flat(self, out: Path) -> None:
        """Write an index of all vectors as they are."""
        index = faiss.IndexFlatIP(check_agree(self.parts[:1])[0].dimension)
        for vectors in vectors_in(self.parts, "image_embedding"):
            index.add(unit(vectors))
        faiss.write_index(index, str(out / "index.faiss"))

    def encoded(self, kind: Kind, first: int) -> tuple[Path, list[Path]]:
        """The folders of what is learned from the first parts and of the codes of each part, found or made."""
        settings = {"factory": kind.factory, "train_rows": self.config.train_rows, "seed": self.seed}
        parts: Inputs = {"embed": tuple(self.digests[:first])}
        learned = self.keep("index_lists", parts, settings, lambda folder: self.learn(kind, first, folder))
        bytes_learned = {path.name: file_digest(path) for path in learned.iterdir() if path.name != "manifest.json"}
        lists, index = load_lists(learned), faiss.read_index(str(learned / "empty.faiss"))
        codes = []
        for part, digest in zip(self.parts, self.digests, strict=True):
            made: Inputs = {"lists": (digest_of(bytes_learned),), "embed": (digest,)}
            fill = partial(encode_part, index, lists, part)
            codes.append(self.keep("index_codes", made, {}, fill))
        return learned, codes

    def learn(self, kind: Kind, first: int, folder: Path) -> None:
        """Write the lists and the empty index learned from a seeded sample of the first parts."""
        counts = np.array(self.counts[:first])
        most = self.config.train_rows or max(kind.num_lists * 39, CODE_ROWS)
        rng = np.random.default_rng(self.seed)
        ids = np.sort(rng.choice(counts.sum(), min(most, counts.sum()), replace=False))
        starts = np.concatenate([[0], np.cumsum(counts)])
        shard = np.searchsorted(starts, ids, side="right") - 1
        with raw_rows(self.parts[:first], shard, ids - starts[shard], folder) as rows:
            lists = learn_lists(rows, kind.num_lists, self.seed)
            sample = rows.unit(np.sort(rng.permutation(len(rows))[:CODE_ROWS]))
        save_lists(lists, folder)
        faiss.write_index(empty_index(kind, lists, sample), str(folder / "empty.faiss"))


def first_parts(counts: Sequence[int]) -> tuple[int, str]:
    """From how many parts to learn, and why: the largest power of two of them, if these have rows enough."""
    first = 1 << (len(counts).bit_length() - 1)
    if 4 * sum(counts[:first]) < sum(counts):
        return len(counts), f"the first {first} parts hold less than a quarter of the rows"
    return first, "the largest power of two of them"


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
