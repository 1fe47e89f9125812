"""What using a dump costs as it grows: seconds, and whether peak memory stays flat.

`python -m benchmarks.dump_use [--rows 10000,40000,160000]`: dumps of drawn vectors (768 dimensions, parts of 10,000
rows) are inspected, verified (every row, none embedded again), exported and imported again, each in its process.
Prints rows a second, peak memory, the exponent of the growth of time between the ends, and of memory.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.digests import file_digest
from unclip.data.dump import files_of, rejects_path, rows_path
from unclip.data.embed import info_of
from unclip.data.part_files import REJECTS_SCHEMA
from unclip.data.rows import Row, write_rows
from unclip.data.shards import sample_key
from unclip.data.table import Embedded, write_part

ROOT = Path(__file__).resolve().parent.parent
DIMENSION, CONTEXT, PART_ROWS = 768, 77, 10_000
STEPS = {
    "inspect": "from unclip.data.dump_figures import inspect_dump; inspect_dump(dump)",
    "verify": "from unclip.data.verification import verify_dump; assert not verify_dump(dump, None, None, 0).problems",
    "export": "from unclip.data.exports import export_dump; export_dump(dump, out, 'clip-retrieval')",
    "import": "from unclip.data import imports; imports.finish = finish; imports.import_dump(out, back)",
}
PROGRAM = """
import sys
from pathlib import Path
dump, out, back = map(Path, sys.argv[1:4])
def finish(folder): (folder / "manifest.json").write_text("{}")  # the index has a benchmark of its own
%s
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # since exec
"""


class Facts:
    """What parts of a drawn table say of their CLIP."""

    name, weights_digest, preprocessing_digest, tokenizer = "drawn", "w" * 64, "p" * 64, "none"
    context, dimension, compute_type, versions = CONTEXT, DIMENSION, "fp32", {}


def write_drawn_part(dump: Path, shard: int) -> None:
    """Write a part of drawn rows with everything that stands beside it."""
    rng, part = np.random.default_rng(shard), dump / "parts" / f"{shard:06d}.parquet"
    keys = [sample_key(shard, row) for row in range(PART_ROWS)]
    identities, digests = ([rng.bytes(size) for _ in keys] for size in (16, 32))
    captions = [f"a drawn caption of row {row} in shard {shard}" for row in range(PART_ROWS)]
    image, text = (rng.normal(size=(PART_ROWS, DIMENSION)).astype(np.float32) for _ in range(2))
    tokens = rng.integers(1, 49_408, (PART_ROWS, CONTEXT)).astype(np.int32)
    rows = Embedded(
        keys=keys, sample_ids=identities, image_sha256=digests, image=image, text=text, tokens=tokens, captions=captions
    )
    write_part(part, rows, info_of(Facts(), "s" * 64, PART_ROWS))
    fates = zip(keys, identities, captions, digests, strict=True)
    write_rows(rows_path(part), [Row(key=k, sample_id=i, caption=c, image_sha256=d) for k, i, c, d in fates])
    pq.write_table(REJECTS_SCHEMA.empty_table(), rejects_path(part))
    record = {"recipe": {"source": "drawn"}, "origin": "rows of nothing", "source": {"rows": PART_ROWS}}
    part.with_suffix(".json").write_text(json.dumps(record))


def finish_drawn(dump: Path) -> None:
    """Write key map, an index of as many rows (of one dimension: its size is not what is asked here) and manifest."""
    parts = [record.with_suffix(".parquet") for record in sorted((dump / "parts").glob("*.json"))]
    index = faiss.IndexFlatIP(1)
    index.add(np.ones((len(parts) * PART_ROWS, 1), np.float32))
    faiss.write_index(index, str(dump / "index.faiss"))
    columns = [("key", pa.string()), ("shard", pa.int32()), ("row", pa.int32()), ("caption", pa.string())]
    with pq.ParquetWriter(dump / "keys.parquet", pa.schema(columns)) as writer:
        for shard, part in enumerate(parts):
            table = pq.read_table(part, columns=["key", "caption"])
            places = (np.full(PART_ROWS, shard, np.int32), np.arange(PART_ROWS, dtype=np.int32))
            writer.write_table(pa.table([table["key"], *places, table["caption"]], schema=pa.schema(columns)))
    files = [*(path for part in parts for path in files_of(part)), dump / "keys.parquet", dump / "index.faiss"]
    digests = {path.relative_to(dump).as_posix(): file_digest(path) for path in files}
    manifest = {"rows": len(parts) * PART_ROWS, "index": {"kind": "flat"}, "files": digests}
    (dump / "manifest.json").write_text(json.dumps(manifest))


def measured(step: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one step in a process of its own."""
    argv = [sys.executable, "-c", PROGRAM % STEPS[step], *(str(folder / name) for name in ("dump", "out", "back"))]
    start = time.perf_counter()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,40000,160000", help=f"multiples of {PART_ROWS}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = [int(rows) for rows in options.rows.split(",")]
    found: dict[str, dict[int, list[tuple[float, float]]]] = {step: {} for step in STEPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dump" / "parts").mkdir(parents=True)
        for size in sizes:
            for shard in range(size // PART_ROWS):
                if not (folder / "dump" / "parts" / f"{shard:06d}.json").is_file():
                    write_drawn_part(folder / "dump", shard)
            finish_drawn(folder / "dump")
            for _ in range(options.rounds):
                for step in STEPS:
                    if step in ("export", "import"):
                        shutil.rmtree(folder / {"export": "out", "import": "back"}[step], ignore_errors=True)
                    found[step].setdefault(size, []).append(measured(step, folder))
    print(f"{'step':<8} {'rows':>8} {'seconds':>8} {'k rows/s':>9} {'peak MB':>8}")
    for step, by_size in found.items():
        medians = {
            size: [statistics.median(column) for column in zip(*runs, strict=True)] for size, runs in by_size.items()
        }
        for size, (seconds, peak) in medians.items():
            print(f"{step:<8} {size:>8} {seconds:8.2f} {size / seconds / 1000:9.1f} {peak:8.0f}")
        (low, first), (high, last) = min(medians.items()), max(medians.items())
        exponents = [math.log(b / a) / math.log(high / low) for a, b in zip(first, last, strict=True)]
        print(
            f"{step:<8} grows as rows to the {exponents[0]:.2f} (start of Python included), memory {exponents[1]:.2f}"
        )


if __name__ == "__main__":
    main()
