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

from unclip.data.config import IndexConfig, require
from unclip.data.digests import file_digest, known_digest
from unclip.data.index_codes import drift, encode_part, merge_codes, open_index, write_probes
from unclip.data.index_files import publish, write_keys
from unclip.data.index_lists import FROM_ROWS, Kind, empty_index, kind_of, learn_lists, load_lists, save_lists
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
from unclip.data.near_duplicates import raw_rows
from unclip.data.table import Floats, check_agree, unit, vectors_in, vectors_of
from unclip.recipe import code_digest, digest_of

MAX_DRIFT = 1.2  # of the distance to the centroids, new parts over those learned from: alike, up to 1.06
CODE_ROWS = 16_384  # that codes are learned on
CODE_VALUES = 256  # of a byte: no fewer rows can teach them
MAX_EXACT_ROWS = FROM_ROWS["ivf_hnsw"]  # 6 GB of 768 dimensions, all read in every search
ASIDE = ".index-"  # a folder where an index is made

Inputs = dict[str, tuple[str, ...]]  # digests by what they are of
Keep = Callable[[str, Inputs, dict[str, Any], Callable[[Path], None]], Path]
"""The folder of a kind made from these inputs with these settings: found, or filled by the function and kept."""


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
        builder = Builder(config, parts, counts, digests, seed, keep or kept_in(aside / "pieces"))
        figures = builder.write(aside)
        figures |= measured(config, builder, figures, aside) | {"rows": sum(counts)}
        write_keys(parts, aside / "keys.parquet")
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
        """The index's kind if it is learned from the first parts. Raises: ValueError where codes cannot be learned."""
        rows, dimension = sum(self.counts[:first]), check_agree(self.parts[:1])[0].dimension
        kind = kind_of(self.config, sum(self.counts), rows)
        if kind.code_bytes is not None:
            require(
                dimension % kind.code_bytes == 0, "code_bytes", f"a divisor of {dimension} dimensions", kind.code_bytes
            )
            require(rows >= CODE_VALUES, "kind", f"another for {rows} rows: codes need {CODE_VALUES}", kind.name)
        return kind

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
                "give a lower --min-recall, or --index-kind flat"
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
