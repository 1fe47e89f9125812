"""What Prefect and MLflow cost: a pipeline through them against the same stages called directly.

`python benchmarks/overhead.py [NAME] [--file FILE] [--rounds N]`: the two in turn over fresh stores, each in a process
of its own, so that both pay for their imports. Prints a table with medians; exit code 1 where the target is missed.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARE, EXTRA_S = 0.05, 10.0  # the target: at most so much more
DIRECT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from flows.execute import MAX_BESIDE, Execution
from flows.graph import open_graph
graph = open_graph(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
execution = Execution(graph, [])
with ThreadPoolExecutor(MAX_BESIDE) as pool:
    for group in graph.groups():
        list(pool.map(execution.build, group, [len(group)] * len(group)))
"""
THROUGH = """
import sys
from pathlib import Path
from flows.graph import open_graph
from flows.running import run_flow
run_flow(open_graph(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])), (), None, Path(sys.argv[1]))
"""


def main() -> int:
    """Measure, print, judge."""
    options = arguments()
    print(f"{machine()}; pipeline {options.name} of {options.file.name}, {options.rounds} rounds", flush=True)
    seconds: dict[str, list[float]] = {"direct": [], "through Prefect and MLflow": []}
    for number in range(options.rounds):
        pair = list(zip(seconds, (DIRECT, THROUGH), strict=True))
        for how, program in pair[:: 1 if number % 2 == 0 else -1]:  # neither always runs on the warmer disk
            seconds[how].append(run_once(program, options))
            print(f"{number + 1}  {how:<27} {seconds[how][-1]:8.1f} s", flush=True)
    return judged(*(statistics.median(taken) for taken in seconds.values()))


def arguments() -> argparse.Namespace:
    """What to run and how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="shrunken")
    parser.add_argument("--file", type=Path, default=ROOT / "tests" / "shrunken.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def machine() -> str:
    """Cores, processor and memory, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, {names[0] if names else platform.machine()}, {memory:.0f} GB, Python {sys.version.split()[0]}"
    )


def run_once(program: str, options: argparse.Namespace) -> float:
    """Seconds of the program over a fresh store, from start to end of its process."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as aside:
        argv = [sys.executable, "-c", program, str(options.file.resolve()), options.name, str(Path(aside) / "store")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("PREFECT_API_URL", None)
        began = time.perf_counter()
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
        taken = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stderr)
        time.sleep(5)  # the Prefect server ends meanwhile
    return taken


def judged(direct: float, through: float) -> int:
    """The table of both medians; 0 where the target is met."""
    more, allowed = through - direct, SHARE * direct + EXTRA_S
    print(f"{'median, direct':<30} {direct:8.1f} s\n{'median, through both':<30} {through:8.1f} s")
    print(f"{'difference':<30} {more:8.1f} s  {more / direct:.1%}")
    print(f"{'allowed (5 % + 10 s)':<30} {allowed:8.1f} s  {'met' if more <= allowed else 'missed'}")
    return 0 if more <= allowed else 1


if __name__ == "__main__":
    sys.exit(main())
