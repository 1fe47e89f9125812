"""`pairs.parquet` to a shard: every pair fetched, decoded and stored, or refused with its reason."""

import hashlib
import json
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from unclip.data.config import DownloadConfig
from unclip.data.fates import UNFINISHED, may_pass, status_of
from unclip.data.fetch import Answer, NotStarted, fetch, require_distributor
from unclip.data.fetcher import is_private_host
from unclip.data.gate import Gate, TooFewSuccesses
from unclip.data.more_columns import read_more
from unclip.data.originals import Refused, take_picture
from unclip.data.rows import Row, refusals, write_rows
from unclip.data.shards import Sample, row_of, sample_key, write_in_order
from unclip.data.urls import refused_before
from unclip.launch import Stopped
from unclip.store import WORK, write_atomically

FAILED = "failed.json"  # in the work folder: the counts of a shard that too few rows of came
Progress = Callable[..., None]
Pair = dict[str, Any]  # a row of pairs.parquet


def download(pairs: Path, shard: int, config: DownloadConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Writes `shard.tar` and `rows.parquet` into `out`; rows, those kept, the refused by reason, and the speed.

    What was fetched stays in `out/work/staging`, so that a killed run goes on from it, as one that img2dataset did not
    start for; a failed one starts afresh, and leaves in `out/work` the counts that it failed for.

    Raises: ValueError when too few rows succeed or can still do so, or img2dataset is not installed; NotStarted.
    """
    failed = out / WORK / FAILED
    failed.unlink(missing_ok=True)
    try:
        return _download(pairs, shard, config, out, progress)
    except (Stopped, NotStarted):  # on request, or by this machine: the next run goes on from what came
        raise
    except Exception as error:  # raised again: else its failures would be the next run's too
        shutil.rmtree(out / WORK / "staging", ignore_errors=True)
        if isinstance(error, TooFewSuccesses):
            write_atomically(failed, json.dumps(error.counts))
        raise


def _download(pairs: Path, shard: int, config: DownloadConfig, out: Path, progress: Progress) -> dict[str, Any]:
    table: list[Pair] = pq.read_table(pairs).to_pylist()
    start = time.monotonic()
    refused = {row: fate for row, pair in enumerate(table) if (fate := refuse(pair, config))}
    targets = [pair for row, pair in enumerate(table) if row not in refused]
    gate = Gate(config, len(table), (status for status, _ in refused.values()), shard)
    answers = fetch_in_passes(targets, config, out / WORK / "staging", gate, progress)
    fetch_s = time.monotonic() - start
    rows: list[Row] = []

    def samples() -> Iterator[Sample]:
        for row, sample in read_rows_of(table, refused, answers, shard, config):
            rows.append(row)
            progress(len(rows), len(table))
            if sample:
                yield sample

    with warnings.catch_warnings():  # here, not where pictures are decoded: filters belong to no thread
        warnings.simplefilter("ignore")  # Pillow's, of doubtful files; the limits are ours
        kept = write_in_order(out / "shard.tar", samples())
    gate.judge(row.status for row in rows)
    write_rows(out / "rows.parquet", rows)
    counts = {"rows": len(rows), "kept": kept, "refused": refusals(row.status for row in rows)}
    speed = {"fetch_s": fetch_s, "rows_per_s": len(targets) / max(fetch_s, 1e-9)}
    return {**counts, "asked_again": refused_before(pairs), **speed}


def refuse(pair: Pair, config: DownloadConfig) -> tuple[str, str] | None:
    """Status and detail of a pair that is not to be fetched at all; None for one that is."""
    if pair["refused"]:
        return pair["refused"], pair["detail"]
    parts = urlsplit(pair["url"])
    if parts.scheme not in config.schemes:
        return "scheme", f"scheme {parts.scheme!r} is not one of {', '.join(config.schemes)}"
    if not config.allow_private and is_private_host(parts.hostname or ""):
        return "private_address", f"private address: {parts.hostname}"
    return None


def fetch_in_passes(
    targets: list[Pair], config: DownloadConfig, staging: Path, gate: Gate, progress: Progress
) -> dict[bytes, Answer]:
    """The answer for each sample_id; rows that failed for a passing reason are tried again in further passes.

    Raises: TooFewSuccesses as soon as the gate cannot be passed any more.
    """
    answers: dict[bytes, Answer] = {}
    left_s = config.deadline_s
    left = [(pair["url"], pair["sample_id"]) for pair in targets]
    gate.check()
    if left:
        require_distributor(config)
    for attempt in range(config.retries + 1):
        if not left or left_s <= 0:
            break
        done, is_last = len(targets) - len(left), attempt == config.retries

        def watch(requests: int, errors: Iterable[str], done: int = done, is_last: bool = is_last) -> None:
            progress(min(done + requests, len(targets)), len(targets))
            gate.check(errors, is_last)

        digest = hashlib.sha256(b"".join(identity for _, identity in left)).hexdigest()[:16]
        found, asked_s = fetch(left, config, staging / f"{attempt}-{digest}", left_s, watch)
        left_s -= asked_s
        answers = last_answers(answers, found)
        gate.keep(answers[identity].error for _, identity in left)
        left = [target for target in left if may_pass(status_of(answers[target[1]].error))]
        gate.check()
    return answers


def last_answers(before: dict[bytes, Answer], now: dict[bytes, Answer]) -> dict[bytes, Answer]:
    """The answers after a further pass: of a row that it did not come to, the one of before."""
    asked = {i: answer for i, answer in now.items() if i not in before or status_of(answer.error) != UNFINISHED}
    return before | asked


def read_rows_of(
    table: list[Pair],
    refused: dict[int, tuple[str, str]],
    answers: dict[bytes, Answer],
    shard: int,
    config: DownloadConfig,
) -> Iterator[tuple[Row, Sample | None]]:
    """The fate of every pair in the list's order, with the sample to store where there is one."""

    def fate(row: int) -> tuple[Row, Sample | None]:
        pair = table[row]
        if row in refused:
            return _refused_row(pair, *refused[row]), None
        answer = answers[pair["sample_id"]]
        if answer.tar is None:
            return _refused_row(pair, status_of(answer.error), answer.error), None
        try:
            picture = take_picture(answer.read(), config)
        except Refused as error:
            return _refused_row(pair, error.status, str(error)), None
        sample = Sample(
            key=sample_key(shard, row),
            image=picture.data,
            extension=picture.extension,
            caption=pair["caption"],
            sample_id=pair["sample_id"],
            meta=read_more(pair.get("more")),
        )
        return row_of(sample, picture.width, picture.height, pair["url"]), sample

    with ThreadPoolExecutor(config.num_processes) as pool:
        ahead: deque[Future[tuple[Row, Sample | None]]] = deque()
        for row in range(len(table)):
            ahead.append(pool.submit(fate, row))
            if len(ahead) > 4 * config.num_processes:  # pictures in memory
                yield ahead.popleft().result()
        yield from (one.result() for one in ahead)


def _refused_row(pair: Pair, status: str, detail: str) -> Row:
    return Row(
        sample_id=pair["sample_id"], caption=pair["caption"], url=pair["url"] or None, status=status, detail=detail
    )
