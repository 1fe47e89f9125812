"""URLs to bytes: img2dataset in its own environment, watched, and judged by its statistics files alone."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data import fetcher
from unclip.data.config import DownloadConfig
from unclip.data.opt_outs import blocked_domains, blocked_urls
from unclip.launch import Command, run

TOOL_VARIABLE = "UNCLIP_IMG2DATASET"  # the Python of another tool environment
ROWS_PER_PART = 500  # of img2dataset's own shards: what a killed run goes on from
MARKS = "marks"  # a file with a line for every request that begins, and one for every request that ended
POLL_S = 1.0
# Until the first request: imports that take seconds here take minutes beside other work, and a cluster starts machines.
START_S = 600.0
Target = tuple[str, bytes]  # URL, sample_id


@dataclass(frozen=True)
class Answer:
    """What became of one URL: where its bytes lie in a tar, or the error as img2dataset told it."""

    tar: Path | None = None
    offset: int = 0
    size: int = 0
    error: str = ""

    def read(self) -> bytes:
        """The bytes that came."""
        assert self.tar is not None
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Overdue(Exception):
    """Fetching was ended: deadline reached, or stalled."""


class NotStarted(RuntimeError):
    """Not one request was made: no fault of any host."""


def tool_python() -> Path:
    """The Python that has img2dataset.

    Raises: ValueError when it is not there.
    """
    default = Path(sys.prefix).parent / ".tools" / "img2dataset" / "bin" / "python"
    python = Path(os.environ.get(TOOL_VARIABLE) or default)
    if not python.is_file():
        raise ValueError(f"no img2dataset: {python} does not exist; run `make setup` or set {TOOL_VARIABLE}")
    return python


def require_distributor(config: DownloadConfig) -> None:
    """Looks for what `download.distributor` needs in img2dataset's environment.

    Raises: ValueError when it is not there.
    """
    module, python = config.distributor, tool_python()
    if module == "multiprocessing":
        return
    program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python, "-I", "-c", program]).returncode:
        raise ValueError(
            f"download.distributor {module!r} needs {module} in img2dataset's environment: {python} -m pip install "
            f"{module}; on a cluster, that environment and the store at the same paths on every machine"
        )
    if module == "pyspark" and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise ValueError("download.distributor 'pyspark' needs Java: there is no `java`, and JAVA_HOME is not set")


def fetch(
    targets: list[Target],
    config: DownloadConfig,
    folder: Path,
    left_s: float,
    watch: Callable[[int, Iterable[str]], None],
) -> tuple[dict[bytes, Answer], float]:
    """The answer for each sample_id, whatever happened to it, and the seconds since the first request.

    `folder` may hold what a killed run fetched of the same.

    left_s: from the first request on, for all of them. watch: told now and then how many requests are done, and the
    errors of those that failed; what it raises ends the fetching.

    Raises: RuntimeError when img2dataset itself fails; NotStarted, one of them, when it makes no request.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs, settings, marks = folder / "pairs.parquet", folder / "arguments", folder / MARKS
    pq.write_table(pa.table({"url": [url for url, _ in targets], "sample_id": [i.hex() for _, i in targets]}), pairs)
    settings.write_text(json.dumps(arguments(pairs, folder / "parts", config)))
    marks.write_bytes(b"")
    missing = "img2dataset ended without a word of this row"
    num_parts, parts = -(-len(targets) // ROWS_PER_PART), folder / "parts"
    command = Command(
        argv=(str(tool_python()), "-I", fetcher.__file__, str(settings)),
        log=folder / "log",
        env=environment(config, marks, write_blocked(config, folder)),
    )
    watching = Watch(marks, config.stall_s, left_s, watch)
    try:
        run(command, poll=watching)
        if (made := len(list(parts.glob("*_stats.json")))) < num_parts:
            raise RuntimeError(f"img2dataset finished {made} of {num_parts} parts (log: {command.log})")
    except Overdue as error:
        missing = str(error)
    except NotStarted as error:
        raise NotStarted(f"{error} (log: {command.log})") from None
    answers = dict(read_answers(parts))
    return {identity: answers.get(identity, Answer(error=missing)) for _, identity in targets}, watching.asked_s()


def write_blocked(config: DownloadConfig, folder: Path) -> dict[str, str]:
    """The files that say to img2dataset's processes which domains and URLs no redirect may lead to, if there are."""
    files = {}
    if config.blocked_domains is not None:
        files["domains"] = str(folder / "blocked_domains")
        (folder / "blocked_domains").write_text("\n".join(blocked_domains(config.blocked_domains)))
    if config.blocked_urls is not None:
        files["urls"] = str(folder / "blocked_urls")
        (folder / "blocked_urls").write_bytes(blocked_urls(config.blocked_urls))
    return files


def environment(config: DownloadConfig, marks: Path, blocked: dict[str, str]) -> dict[str, str]:
    """What img2dataset's processes are told beside their arguments."""
    limits = {name: getattr(config, name) for name in ("schemes", "allow_private", "timeout_s", "max_bytes")}
    files = {"marks": str(marks), "blocked": blocked}
    told = {fetcher.LIMITS: json.dumps(limits | files), "NO_ALBUMENTATIONS_UPDATE": "1"}
    python = str(tool_python())
    return told | {"RAY_USAGE_STATS_ENABLED": "0", "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python}


def arguments(pairs: Path, out: Path, config: DownloadConfig) -> dict[str, Any]:
    """What img2dataset is called with: bytes as they came, nothing decoded; repeats are ours."""
    by_distributor = {} if config.subjob_size is None else {"subjob_size": config.subjob_size}
    return by_distributor | {
        "url_list": str(pairs),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["sample_id"],
        "output_folder": str(out),
        "output_format": "webdataset",
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "extract_exif": False,
        "compute_hash": None,
        "number_sample_per_shard": ROWS_PER_PART,
        "processes_count": config.num_processes,
        "thread_count": config.num_threads,
        "timeout": config.timeout_s,
        "retries": 0,
        "incremental_mode": "incremental",
        "distributor": config.distributor,
        "user_agent_token": config.user_agent_token,
        "disallowed_header_directives": list(config.disallowed_directives),
    }


class Watch:
    """Reads the marks that requests leave, and raises Overdue when they stop or time is up.

    `left_s` counts from the first request, `stall_s` while one is under way: the time that img2dataset takes to start,
    itself or a further process of its own, is no host's fault.
    """

    def __init__(self, marks: Path, stall_s: float, left_s: float, tell: Callable[[int, Iterable[str]], None]) -> None:
        self.marks, self.stall_s, self.left_s, self.tell = marks, stall_s, left_s, tell
        self.moved, self.looked, self.read = time.monotonic(), 0.0, 0
        self.first: float | None = None  # when the first request was seen
        self.begun, self.done, self.errors = 0, 0, dict[str, str]()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.looked < POLL_S:
            return
        self.looked = now
        if self._look():
            self.moved = now
            self.first = self.first or now
            self.tell(self.done, self.errors.values())
        if self.asked_s() >= self.left_s:
            raise Overdue("download.deadline_s was reached first")
        limit_s = self.stall_s if self.begun > self.done else max(self.stall_s, START_S)
        if now - self.moved < limit_s:
            return
        if self.first is None:
            raise NotStarted(
                f"img2dataset did not start within {limit_s:g} s: not one request was made, and no row is "
                "refused for it; run again when this machine has less to do"
            )
        raise Overdue(f"no request ended for download.stall_s = {self.stall_s:g} s")

    def asked_s(self) -> float:
        """The seconds since the first request."""
        return 0.0 if self.first is None else time.monotonic() - self.first

    def _look(self) -> bool:
        """Whether there are further marks; takes them in. A URL's last word counts: a part may be fetched again."""
        with self.marks.open("rb") as file:
            file.seek(self.read)
            lines, end, _ = file.read().rpartition(b"\n")
        if not end:
            return False
        self.read += len(lines) + 1
        for line in lines.decode(errors="replace").split("\n"):
            if line == fetcher.BEGUN:
                self.begun += 1
                continue
            url, _, error = line.partition(" ")
            self.errors[url] = error
            self.done += 1
        return True


def requests_so_far(staging: Path) -> list[str]:
    """The errors ("" of a success) of the requests that the pass under way, or interrupted, has finished."""
    marks = sorted(staging.glob(f"*/{MARKS}"))
    lines = marks[-1].read_text(errors="replace").splitlines() if marks else []
    ended = (line.partition(" ") for line in lines if line != fetcher.BEGUN)
    return list({url: error for url, _, error in ended}.values())


def read_answers(folder: Path) -> Iterator[tuple[bytes, Answer]]:
    """sample_id and answer of every row of the finished parts: those with statistics, which are written last.

    Raises: RuntimeError when a part does not hold what its statistics say.
    """
    for path in sorted(folder.glob("*_stats.json")):
        tar = folder / f"{path.name.removesuffix('_stats.json')}.tar"
        count = json.loads(path.read_text())
        pictures = dict(_read_tar(tar))
        rows = pq.read_table(tar.with_suffix(".parquet"), columns=["sample_id", "error_message"]).to_pylist()
        if len(pictures) != count["successes"] or len(rows) > count["count"]:
            raise RuntimeError(f"{tar} holds {len(pictures)} pictures, its statistics say {count['successes']}")
        for row in rows:
            identity = bytes.fromhex(row["sample_id"])
            yield identity, pictures.get(identity) or Answer(error=row["error_message"] or "no reason given")


def _read_tar(path: Path) -> Iterator[tuple[bytes, Answer]]:
    """sample_id and place of every picture in a tar of img2dataset's."""
    with tarfile.open(path, "r:") as tar:
        picture: tarfile.TarInfo | None = None
        for member in tar:
            if not member.name.endswith(".json"):
                picture = member
                continue
            file = tar.extractfile(member)
            assert file is not None and picture is not None
            assert picture.name.partition(".")[0] == member.name.partition(".")[0]
            identity = bytes.fromhex(json.load(file)["sample_id"])
            yield identity, Answer(tar=path, offset=picture.offset_data, size=picture.size)
