"""One stage of `benchmarks.scale` on one table, in a process of its own: seconds, memory and what was found, as JSON.

`python -m benchmarks.scale_stages STAGE TABLE WORK`; the work folder is the caller's to remove.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

GATHERS, GATHER_ROWS = 200, 4096
MIN_COSINE = 0.96

took: dict[str, float] = {}


def watch_memory() -> None:
    """Notes the most memory that was the process's own: mapped files, which the system takes back, apart."""
    while True:
        status = Path("/proc/self/status").read_text()
        own_mb = int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1024
        took["own_mb"] = max(took.get("own_mb", 0), own_mb)
        time.sleep(0.002)


@contextmanager
def timed() -> Iterator[None]:
    """Notes seconds of the clock and of the processors, all threads together, that the block took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    took["seconds"], took["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu


def read(parts: list[Path], work: Path) -> dict[str, Any]:
    """Reads the image embeddings of a table, in order."""
    from unclip.data.table import vectors_in, vectors_of

    vectors_of(parts[0], "image_embedding")  # what only the first read costs
    with timed():
        rows = sum(len(vectors) for vectors in vectors_in(parts, "image_embedding"))
    return {"rows": rows}


def gather(parts: list[Path], work: Path) -> dict[str, Any]:
    """Gathers rows at random from the memory map that a trainer reads."""
    from unclip.data.dense import take_rows

    rows = dense_map(parts, work / "zi.npy")
    rng = np.random.default_rng(0)
    places = [rng.integers(len(rows), size=GATHER_ROWS) for _ in range(GATHERS)]
    take_rows(rows, places[0])
    with timed():
        for place in places:
            take_rows(rows, place)
    return {"rows": GATHERS * GATHER_ROWS}


def dense_map(parts: list[Path], path: Path) -> Any:
    """The unit image embeddings as the derived cache holds them."""
    import pyarrow.parquet as pq

    from unclip.data.table import unit, vectors_in

    size, start = sum(pq.read_metadata(part).num_rows for part in parts), 0
    for vectors in vectors_in(parts, "image_embedding"):
        if not start:
            out = np.lib.format.open_memmap(path, "w+", np.float32, (size, vectors.shape[1]))
        out[start : start + len(vectors)] = unit(vectors)
        start += len(vectors)
    out.flush()
    return np.load(path, mmap_mode="r")


def moments(parts: list[Path], work: Path) -> dict[str, Any]:
    """Computes and merges the moments of all parts, each kept in a file as the stage does."""
    from models.pca import Moments
    from tasks.moments import read_moments, write_moments

    merged = None
    with timed():
        for part in parts:
            write_moments(part, rows_of(part), work)
            found = read_moments(work)
            merged = found if merged is None else Moments.merge(merged, found)
    assert merged is not None
    return {"rows": merged.count}


def rows_of(part: Path) -> Any:
    """All rows of a part."""
    import pyarrow.parquet as pq

    return np.arange(pq.read_metadata(part).num_rows)


def index(parts: list[Path], work: Path) -> dict[str, Any]:
    """Builds the index and measures its recall."""
    from unclip.data.config import IndexConfig
    from unclip.data.index import write_index

    with timed():
        found = write_index(IndexConfig(), parts, [str(part) for part in parts], work, 0)
    return found


def grow(parts: list[Path], work: Path) -> dict[str, Any]:
    """Adds the last part to an index of the others."""
    from unclip.data.config import IndexConfig
    from unclip.data.index import grow_index

    grow_index(IndexConfig(), parts[:-1], work, 0)
    with timed():
        found = grow_index(IndexConfig(), parts, work, 0)
    return found


def duplicates(parts: list[Path], work: Path) -> dict[str, Any]:
    """Finds near duplicates."""
    from unclip.data.near_duplicates import near_groups
    from unclip.data.raw_rows import raw_rows
    from unclip.data.scratch import Column

    shard, row = Column(np.int32, work), Column(np.int32, work)
    with timed():
        for number, part in enumerate(parts):
            row.append(rows_of(part))
            shard.append(np.full(len(rows_of(part)), number))
        with raw_rows(parts, shard.array(), row.array(), work) as rows:
            found = near_groups(rows, MIN_COSINE, 0, work=work)
    return {"rows": len(row.array())} | found.figures


STAGES: dict[str, Callable[[list[Path], Path], dict[str, Any]]] = {
    stage.__name__: stage for stage in (read, gather, moments, index, grow, duplicates)
}


def main() -> None:
    """Run the stage and print what it took."""
    name, table, work = sys.argv[1:4]
    threading.Thread(target=watch_memory, daemon=True).start()
    if name == "write":
        from benchmarks.scale_table import write_table

        with timed():
            write_table(Path(table), int(work))
        figures = {"rows": int(work)}
    else:
        figures = STAGES[name](sorted(Path(table).glob("*.parquet")), Path(work))
    print(json.dumps({**took, "figures": figures}))


if __name__ == "__main__":
    main()
