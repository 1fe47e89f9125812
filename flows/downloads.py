"""What became of the rows of a pipeline's URL list: counts by status, with what each means and what to do."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from flows.graph import Graph
from flows.retries import download_steps, final_refusals, retry_folder
from flows.terminal import table
from unclip.data.advice import advice_on
from unclip.data.fates import may_pass
from unclip.store import WORK


@dataclass(frozen=True, kw_only=True)
class Downloads:
    """A pipeline's download as it stands. `rows` are those of the shards that are fetched, each counted once."""

    num_shards: int  # of the list and of retries
    num_fetched: int
    rows: int
    ok: int
    refused: dict[str, int]
    retried: int  # rows that were fetched again
    void_retries: int  # shards of retries whose refusals no longer stand
    failed: dict[str, int]  # the rows by status of a shard that too few rows came of
    under_way: dict[str, int]  # the requests by status of a shard that is being fetched, or was when it was killed

    @property
    def is_whole(self) -> bool:
        """Whether every shard is fetched."""
        return self.num_fetched == self.num_shards

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: every status with its meaning and advice."""
        explained = {status: {"rows": n, **advice_on(status)._asdict()} for status, n in self.refused.items()}
        return {**vars(self), "refused": explained}


def downloads(graph: Graph) -> Downloads:
    """The download of a pipeline, whole or in part, from the store alone.

    Raises: ValueError when the pipeline has no URL list.
    """
    from unclip.data.retries import read_retries

    steps = download_steps(graph)
    artifacts = [step.found for step in steps if step.found is not None]
    metrics = [artifact.manifest()["metrics"] for artifact in artifacts]
    retried = sum(sum(m.get("asked_again", {}).values()) for m in metrics)
    failed, under_way = _unfinished(graph, steps)
    return Downloads(
        num_shards=len(steps),
        num_fetched=len(metrics),
        rows=sum(m["rows"] for m in metrics) - retried,
        ok=sum(m["kept"] for m in metrics),
        refused=dict(final_refusals(artifacts).most_common()),
        retried=retried,
        void_retries=len(read_retries(retry_folder(graph))) - len(graph.retries),
        failed=failed,
        under_way=under_way,
    )


def _unfinished(graph: Graph, steps: list[Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Of the first shard that is not there: the counts that it failed for, the requests so far."""
    from unclip.data.download import FAILED
    from unclip.data.fates import status_of
    from unclip.data.fetch import requests_so_far
    from unclip.data.rows import OK

    for step in steps:
        if step.found is None and step.recipe is not None:
            work = graph.store.root / "partial" / step.recipe.key / WORK
            failed = json.loads((work / FAILED).read_text()) if (work / FAILED).is_file() else {}
            errors = requests_so_far(work / "staging")
            under_way = Counter(status_of(error) if error else OK for error in errors)
            return dict(Counter(failed).most_common()), dict(under_way.most_common())
    return {}, {}


def fates_table(refused: Mapping[str, int], is_whole: bool = True) -> Table:
    """Refused rows by status, the most frequent first, each with what it means and what to do.

    is_whole: whether all shards are fetched, so that rows can be asked again.
    """
    how = " (ask again: unclip retry --with field=value)" if is_whole else ""
    rows = [
        [status, f"{count:,}", f"{advice_on(status).meaning}; {advice_on(status).advice}"]
        for status, count in sorted(refused.items(), key=lambda item: -item[1])
    ]
    return table("", ["refused as", "rows", f"what it means, and what to do{how}"], rows, ["rows"])


def summary(name: str, found: Downloads, options: str = "") -> str:
    """How far it is, and what to do next, in a few lines. options: of the command, for those that it names."""
    share = f" ({found.ok / found.rows:.1%})" if found.rows else ""
    lines = [f"{name}: {found.num_fetched} of {found.num_shards} shards, {found.ok:,} of {found.rows:,} rows{share}"]
    if found.retried:
        lines[0] += f", {found.retried:,} of them asked again"
    if found.under_way:
        lines.append(f"the next shard so far: {_counts(found.under_way)}")
    if found.failed:
        lines.append(f"the next shard failed, too few rows came: {_counts(found.failed)}")
    if found.void_retries:
        lines.append(f"of retries, {found.void_retries} no longer stand: their rows are asked anew with their shards")
    passing = [status for status in found.refused if may_pass(status)]
    if not found.is_whole:
        before = "see to what failed, or lower download.min_success_fraction; " if found.failed else ""
        lines.append(f"{before}the rest is fetched by: unclip run {name}{options} --until download")
    elif passing:
        lines.append(f"may pass: unclip retry {name}{options} --status {','.join(passing)}")
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {count:,}" for status, count in counts.items())
