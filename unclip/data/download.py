"""`pairs.parquet` to a shard: every pair fetched, decoded and stored, or refused with its reason."""

import hashlib
import ipaddress
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from unclip.data.config import DownloadConfig
from unclip.data.fates import may_pass, status_of
from unclip.data.fetch import Answer, fetch
from unclip.data.fetcher import is_public
from unclip.data.originals import Refused, take_picture
from unclip.data.rows import OK, Row, refusals, write_rows
from unclip.data.shards import Sample, row_of, sample_key, write_shard
from unclip.store import WORK

Progress = Callable[..., None]
Pair = dict[str, Any]  # a row of pairs.parquet


def download(pairs: Path, shard: int, config: DownloadConfig, out: Path, progress: Progress) -> dict[str, Any]:
    """Writes `shard.tar` and `rows.parquet` into `out`; rows, those kept, the refused by reason, and the speed.

    What was fetched stays in `out/work/staging`, so that a killed run goes on from it; a failed one starts afresh.

    Raises: ValueError when too few rows succeed, or img2dataset is not installed.
    """
    try:
        return _download(pairs, shard, config, out, progress)
    except Exception:  # raised again: else its failures would be the next run's too
        shutil.rmtree(out / WORK / "staging", ignore_errors=True)
        raise


def _download(pairs: Path, shard: int, config: DownloadConfig, out: Path, progress: Progress) -> dict[str, Any]:
    table: list[Pair] = pq.read_table(pairs).to_pylist()
    start = time.monotonic()
    refused = {row: fate for row, pair in enumerate(table) if (fate := refuse(pair, config))}
    targets = [pair for row, pair in enumerate(table) if row not in refused]
    answers = fetch_in_passes(targets, config, out / WORK / "staging", progress)
    fetch_s = time.monotonic() - start
    samples, rows = [], []
    for row, sample in read_rows_of(table, refused, answers, shard, config):
        rows.append(row)
        samples += [sample] if sample else []
        progress(len(rows), len(table))
    check_success(rows, config)
    write_shard(out / "shard.tar", samples)
    write_rows(out / "rows.parquet", rows)
    speed = {"fetch_s": fetch_s, "rows_per_s": len(targets) / max(fetch_s, 1e-9)}
    return {"rows": len(rows), "kept": len(samples), "refused": refusals(row.status for row in rows), **speed}


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


def is_private_host(host: str) -> bool:
    """Whether a host is known as private by its spelling; names are judged by their address when connected to."""
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return not is_public(host)


def fetch_in_passes(
    targets: list[Pair], config: DownloadConfig, staging: Path, progress: Progress
) -> dict[bytes, Answer]:
    """The answer for each sample_id; rows that failed for a passing reason are tried again in further passes."""
    answers: dict[bytes, Answer] = {}
    end = time.monotonic() + config.deadline_s
    left = [(pair["url"], pair["sample_id"]) for pair in targets]
    for attempt in range(config.retries + 1):
        if not left or time.monotonic() >= end:
            break
        done, total = len(targets) - len(left), len(targets)
        digest = hashlib.sha256(b"".join(identity for _, identity in left)).hexdigest()[:16]
        folder = staging / f"{attempt}-{digest}"
        answers |= fetch(left, config, folder, end, partial(_tell, progress, done, total))
        left = [target for target in left if may_pass(status_of(answers[target[1]].error))]
    return answers


def _tell(progress: Progress, before: int, total: int, requests: int) -> None:
    """Progress of a pass: `before` rows were done when it began."""
    progress(min(before + requests, total), total)


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
        )
        return row_of(sample, picture.width, picture.height, pair["url"]), sample

    with ThreadPoolExecutor(config.num_processes) as pool:
        yield from pool.map(fate, range(len(table)))


def _refused_row(pair: Pair, status: str, detail: str) -> Row:
    return Row(
        sample_id=pair["sample_id"], caption=pair["caption"], url=pair["url"] or None, status=status, detail=detail
    )


def check_success(rows: list[Row], config: DownloadConfig) -> None:
    """Raises: ValueError when the share of rows that came, duplicates left out, is below the limit."""
    counts = Counter(row.status for row in rows if row.status != "duplicate")
    total = sum(counts.values())
    if not total or counts[OK] / total >= config.min_success_fraction:
        return
    reasons = ", ".join(f"{status} {n}" for status, n in counts.most_common(6) if status != OK)
    raise ValueError(
        f"download.min_success_fraction must be reached: {config.min_success_fraction:g} is asked, "
        f"{counts[OK] / total:.2f} is there ({counts[OK]} of {total} rows; {reasons})"
    )
