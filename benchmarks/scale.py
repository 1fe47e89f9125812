"""What the data stages cost on tables of 10,000 to a million embeddings of 768: speed, growth with the rows, memory.

`python -m benchmarks.scale [--rows 10000 100000 1000000] [--threads 2] [--clock wall] [--folder DIR]`: makes synthetic
tables in a folder that is removed at the end (10 GB of disk), then runs each stage on each in a process of its own.
Asked:

- table read >= 0.8 M rows/s, random gather >= 2 M rows/s, PCA moments >= 25k rows/s, near duplicates of a million rows
  within 10 minutes, on two cores; 0.95 of the pairs of near duplicates and 0.9 of the ten nearest found;
- cost grows at most as n^1.1, fitted over the tables; `grow`, one part more in an index, costs less than the index;
- memory of the process's own (files that it maps are the system's to take back) grows by at most a tenth, the bytes a
  row told where it is more.

On a machine that others use too, `--clock cpu` counts seconds of processors, all threads together, and `--threads 1`
keeps threads from waiting for each other. Exit code 1 where a target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("write", "read", "gather", "moments", "index", "grow", "duplicates")
LEAST_RATE = {"read": 0.8e6, "gather": 2e6, "moments": 25e3}  # rows a second
MOST_S = {"duplicates": 600.0}
MOST_EXPONENT, MOST_MEMORY = 1.1, 1.1
FIXED_WORK = ("gather",)  # costs the same whatever the table's size
LEAST_RECALL = {"duplicates": ("pair_recall", 0.95), "index": ("recall_at_10", 0.9)}
Run = dict[str, Any]


def main() -> int:
    """Measure, print, judge."""
    options = arguments()
    print(f"{len(os.sched_getaffinity(0))} cores, {options.threads} threads, clock: {options.clock}", flush=True)
    found: dict[str, list[Run]] = {stage: [] for stage in options.stages}
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as name:
        for rows in options.rows:
            measure(Path(name), rows, options, found)
    return judged(found, options)


def arguments() -> argparse.Namespace:
    """What to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def measure(folder: Path, rows: int, options: argparse.Namespace, found: dict[str, list[Run]]) -> None:
    """Make a table of so many rows, run every stage on it, and remove it."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        table = Path(name) / "table"
        for stage in dict.fromkeys(["write", *options.stages]):
            with tempfile.TemporaryDirectory(dir=name) as work:
                run = run_once(stage, table, str(rows) if stage == "write" else work, options.threads)
            run["clock"] = run["seconds" if options.clock == "wall" else "cpu_s"]
            if stage in found:
                found[stage].append(run | {"table_rows": rows})
            print(f"{stage:<11}{rows:>9,} rows {run['clock']:8.2f} s  {run['own_mb']:6.0f} MB  {told(run)}", flush=True)


def run_once(stage: str, table: Path, work: str, threads: int) -> Run:
    """What a stage took in a process of its own."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    argv = [sys.executable, "-m", "benchmarks.scale_stages", stage, str(table), work]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **numbers}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def told(run: Run) -> str:
    """The rate, and what the stage says of its result."""
    names = ("factory", "num_probes", "recall_at_1", "recall_at_10", "drift", "search", "pair_recall", "joined_rows")
    figures = {name: run["figures"][name] for name in names if run["figures"].get(name) is not None}
    words = [
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    ]
    return ", ".join([f"{rate(run):,.0f} rows/s", f"{run['seconds']:.1f} s wall, {run['cpu_s']:.1f} cpu", *words])


def rate(run: Run) -> float:
    """Rows a second."""
    return float(run["figures"]["rows"]) / float(run["clock"])


def exponent(runs: list[Run]) -> float:
    """The power of the rows that the cost grows with, by least squares of the logarithms."""
    rows, seconds = np.log([run["table_rows"] for run in runs]), np.log([run["clock"] for run in runs])
    return float(np.polyfit(rows, seconds, 1)[0])


def judged(found: dict[str, list[Run]], options: argparse.Namespace) -> int:
    """The table of all targets; 0 where they are met."""
    met = True
    for stage, runs in found.items():
        for what, value, asked, holds in targets(stage, runs):
            met &= holds
            print(f"{stage:<11}{what:<42}{value:>14}  {asked:<14}{'met' if holds else 'MISSED'}")
    return 0 if met else 1


def targets(stage: str, runs: list[Run]) -> list[tuple[str, str, str, bool]]:
    """What is asked of a stage: what, the value, the target, whether it is met."""
    last, rows = runs[-1], []
    if least := LEAST_RATE.get(stage):
        rows.append(("rows a second", f"{rate(last):,.0f}", f">= {least:,.0f}", rate(last) >= least))
    if most := MOST_S.get(stage):
        rows.append(("seconds", f"{last['clock']:.0f}", f"<= {most:.0f}", last["clock"] <= most))
    if stage in LEAST_RECALL:
        name, share = LEAST_RECALL[stage]
        rows.append((name, f"{last['figures'][name]:.4f}", f">= {share}", last["figures"][name] >= share))
    if len(runs) > 1:
        if stage not in FIXED_WORK:
            power = exponent(runs)
            rows.append(("cost grows as n to the", f"{power:.3f}", f"<= {MOST_EXPONENT}", power <= MOST_EXPONENT))
        growth = last["own_mb"] / runs[0]["own_mb"]
        more = (last["own_mb"] - runs[0]["own_mb"]) * 2**20 / (last["table_rows"] - runs[0]["table_rows"])
        what = f"memory, {more:.0f} bytes a row more"
        rows.append((what, f"{growth:.2f} x", f"<= {MOST_MEMORY} x", growth <= MOST_MEMORY))
    return rows


if __name__ == "__main__":
    sys.exit(main())
