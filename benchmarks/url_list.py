"""What a plan of a URL list costs: seconds, peak memory and disk, by rows and by format.

python -m benchmarks.url_list [--rows 10000 100000 1000000] [--formats csv jsonl parquet]

Asked: memory that does not grow with the list (+-10 % from the smallest to the largest), and a shard from the middle
read without reading the list again. Each size is planned in a process of its own, with an empty memory of earlier
plans; then again, as the next command would; then a shard of the middle is read. A tenth of the rows repeat others.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.overhead import machine

WORDS = ("a photograph of", "some old stone bridge", "over the quiet river", "with two boats", "at dawn")


def rows_of(num_rows: int) -> Iterator[tuple[str, str]]:
    """URLs and captions as long as those of the web; every tenth row repeats one from the first half."""
    for row in range(num_rows):
        n = row // 2 if row % 10 == 9 else row
        host = f"https://img{n % 997}.example-{n % 13}.com"
        yield f"{host}/media/{n // 7:08x}/{n * 2654435761 % 2**32:08x}.jpg?w=1024", f"{' '.join(WORDS[n % 4 :])} {n}"


def write_list(path: Path, num_rows: int) -> None:
    """A list of that many rows, written as it is drawn."""
    if path.suffix == ".parquet":
        schema = pa.schema({"url": pa.string(), "caption": pa.string()})
        with pq.ParquetWriter(path, schema) as writer:
            chunk: list[tuple[str, str]] = []
            for row in rows_of(num_rows):
                chunk.append(row)
                if len(chunk) == 1_000_000:
                    writer.write_table(pa.table(list(map(list, zip(*chunk, strict=True))), schema=schema))
                    chunk = []
            if chunk:
                writer.write_table(pa.table(list(map(list, zip(*chunk, strict=True))), schema=schema))
        return
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([("url", "caption")])
            csv.writer(file).writerows(rows_of(num_rows))
        else:
            file.writelines(json.dumps({"url": url, "caption": text}) + "\n" for url, text in rows_of(num_rows))


def measure(path: Path) -> dict[str, float]:
    """One process: a plan, and a shard from the middle."""
    from unclip.data.config import UrlsConfig
    from unclip.data.urls import pair_recipes, read_shard

    config = UrlsConfig(path=str(path))
    start = time.perf_counter()
    recipes = pair_recipes(config)
    planned = time.perf_counter()
    table = read_shard(config, len(recipes) // 2)
    done = time.perf_counter()
    assert table.num_rows
    return {"plan_s": planned - start, "shard_s": done - planned, "peak_bytes": peak_bytes(), "shards": len(recipes)}


def peak_bytes() -> int:
    """The most memory this process had; `ru_maxrss` would count what its parent had when it was forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measured(path: Path, cache: Path) -> dict[str, float]:
    """The figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.url_list", "--one", str(path)]
    done = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Measures and prints; 1 when memory grew by more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet"])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    print(machine())
    print("format       rows  list MB  plan s  rows/s  again s  middle shard s  peak MB", flush=True)
    grown = 0.0
    for suffix in options.formats:
        peaks = []
        for num_rows in options.rows:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"list.{suffix}"
                write_list(path, num_rows)
                os.utime(path, (1e9, 1e9))  # settled: a plan remembers what it saw
                first, again = measured(path, Path(folder)), measured(path, Path(folder))
                peaks.append(first["peak_bytes"])
                print(
                    f"{suffix:7} {num_rows:9,} {path.stat().st_size / 1e6:8.1f} {first['plan_s']:7.2f}"
                    f" {num_rows / first['plan_s']:7,.0f} {again['plan_s']:8.3f} {first['shard_s']:15.3f}"
                    f" {first['peak_bytes'] / 1e6:8.1f}",
                    flush=True,
                )
        grown = max(grown, peaks[-1] / peaks[0] - 1)
    print(f"memory grew by at most {grown:.1%} from {options.rows[0]:,} to {options.rows[-1]:,} rows")
    return int(grown > 0.1)


if __name__ == "__main__":
    sys.exit(main())
