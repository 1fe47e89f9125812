"""Rows as codes in inverted lists: each part encoded by itself, all merged into one file that is mapped, not loaded.

`index-DIGEST.ivfdata` holds list after list: the codes of its rows, then their ids, both in the order of the table. So
parts encoded in any order, at any time, make the file that one pass over the table would. Its name is of its content,
and `index.faiss` says it: replacing that one file changes both. N rows, L lists, B bytes a code.
"""

import json
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from unclip.data.digests import file_digest
from unclip.data.index_lists import BLOCK_ROWS, Lists
from unclip.data.table import Floats, unit, vectors_of

DATA = ".ivfdata"
ID_BYTES = 8
Spread = tuple[int, float]  # rows, and 1 - cosine to their centroids added up


def encode_part(index: Any, lists: Lists, part: Path, out: Path) -> None:
    """Write `lists.npy` and `codes.npy` of a part's rows, and `spread.json`: how far they are from their centroids."""
    ivf, rows = faiss.extract_index_ivf(index), vectors_of(part, "image_embedding")
    places = np.empty(len(rows), np.int32)
    codes, apart = np.empty((len(rows), ivf.code_size), np.uint8), 0.0
    for start in range(0, len(rows), BLOCK_ROWS):
        block = unit(rows[start : start + BLOCK_ROWS])
        place, cosine = lists.place(block)
        turned, here = rotated(index, block), codes[start : start + len(block)]
        ivf.encode_vectors(len(block), faiss.swig_ptr(turned), faiss.swig_ptr(place), faiss.swig_ptr(here))
        places[start : start + len(block)] = place
        apart += spread_of(cosine)[1]
    np.save(out / "lists.npy", places)
    np.save(out / "codes.npy", codes)
    write_spread((len(rows), apart), out)


def rotated(index: Any, vectors: Any) -> Any:
    """The vectors as the lists hold them: turned where the index turns them."""
    return index.chain.at(0).apply(vectors) if isinstance(index, faiss.IndexPreTransform) else vectors


def spread_of(cosines: Floats) -> Spread:
    """The rows with these cosines to their centroids, and how far they are from them, all together."""
    return len(cosines), float((1 - cosines.astype(np.float64)).sum())


def write_spread(spread: Spread, folder: Path) -> None:
    """Write `spread.json`."""
    (folder / "spread.json").write_text(json.dumps({"rows": spread[0], "apart": spread[1]}) + "\n")


def read_spread(folder: Path) -> Spread:
    """What `write_spread` wrote."""
    found = json.loads((folder / "spread.json").read_text())
    return found["rows"], found["apart"]


def drift(known: Spread, others: Sequence[Spread]) -> float | None:
    """How much farther from their centroids other rows are than those known, which were not learned from either.

    1 is as far; infinite where the known have no distance at all and the others do. None where there are no others.
    """
    rows, apart = (sum(values) for values in zip(*others, strict=True)) if others else (0, 0.0)
    if not rows:
        return None
    if not known[1]:
        return math.inf if apart else 1.0
    return float(apart / rows / (known[1] / known[0]))


def merge_codes(index: Any, encoded: Sequence[Path], out: Path) -> None:
    """Fill an empty index with the codes of all parts, in order, and write both files into a new folder."""
    ivf = faiss.extract_index_ivf(index)
    sizes = np.zeros(ivf.nlist, np.int64)
    for folder in encoded:
        sizes += np.bincount(np.load(folder / "lists.npy"), minlength=ivf.nlist)
    starts = np.concatenate([[0], np.cumsum(sizes * (ivf.code_size + ID_BYTES))])
    path, first, filled = out / DATA, 0, np.zeros(ivf.nlist, np.int64)
    with path.open("wb") as file:
        file.truncate(max(int(starts[-1]), 1))
    data = np.memmap(path, np.uint8, "r+")
    for folder in encoded:
        place, codes = np.load(folder / "lists.npy"), np.load(folder / "codes.npy", mmap_mode="r")
        for start in range(0, len(place), BLOCK_ROWS):
            here = place[start : start + BLOCK_ROWS]
            order = np.argsort(here, kind="stable")
            rank = np.empty(len(here), np.int64)
            rank[order] = np.arange(len(here)) - np.searchsorted(here[order], here[order])
            rank += filled[here]
            ids = (first + start + np.arange(len(here))).astype("<i8")
            at = starts[here] + rank * ivf.code_size
            data[at[:, None] + np.arange(ivf.code_size)] = codes[start : start + len(here)]
            at = starts[here] + sizes[here] * ivf.code_size + rank * ID_BYTES
            data[at[:, None] + np.arange(ID_BYTES)] = ids.view(np.uint8).reshape(-1, ID_BYTES)
            filled += np.bincount(here, minlength=ivf.nlist)
        first += len(place)
        data._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    data.flush()
    name = f"index-{file_digest(path)[:16]}{DATA}"
    os.replace(path, out / name)
    attach(index, sizes.astype(np.uint64), name, first)
    faiss.write_index(index, str(out / "index.faiss"))


def attach(index: Any, sizes: Any, name: str, num_rows: int) -> None:
    """Make lists of these sizes in the file `name` those of the index."""
    ivf = faiss.extract_index_ivf(index)
    lists = faiss.OnDiskInvertedLists()
    lists.nlist, lists.code_size, lists.filename, lists.read_only = ivf.nlist, ivf.code_size, name, True
    lists.lists.resize(ivf.nlist)
    lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
    lists.totsize = int(sizes.sum()) * (ivf.code_size + ID_BYTES)
    ivf.replace_invlists(lists, True)
    lists.this.disown()
    ivf.ntotal = index.ntotal = num_rows


def write_probes(index: Any, folder: Path) -> None:
    """Write an opened index again, with the probes it has now; its lists stay where they are."""
    lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
    path, lists.filename = lists.filename, Path(lists.filename).name
    faiss.write_index(index, str(folder / "index.new"))  # the file that is there is mapped
    os.replace(folder / "index.new", folder / "index.faiss")
    lists.filename = path


def open_index(folder: Path) -> Any:
    """The index in a folder, its vectors mapped, its lists from the file beside it that it names.

    Raises: ValueError when the folder holds no index, or only half of one.
    """
    path, last = folder / "index.faiss", ""
    if not path.is_file():
        raise ValueError(f"{folder} holds no index.faiss")
    while True:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{path} is damaged: faiss cannot read it; what made it makes it again") from error
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is None or map_lists(faiss.downcast_InvertedLists(ivf.invlists), folder):
            return index
        name = Path(faiss.downcast_InvertedLists(ivf.invlists).filename).name
        if name == last:  # else it was replaced since it was read: it names others by now
            raise ValueError(f"{folder}: {name} is missing or cut short")
        last = name


def map_lists(lists: Any, folder: Path) -> bool:
    """Map the file of an index's lists, which lies in a folder; whether it is there and whole."""
    data = folder / Path(lists.filename).name
    try:
        if data.stat().st_size < lists.totsize:
            return False
        lists.filename = str(data)
        lists.do_mmap()
    except (OSError, RuntimeError):  # gone, or gone since it was looked at
        return False
    return True
