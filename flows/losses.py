"""What a pipeline's newest run lost on the way, from the store: the funnel and the rows of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.terminal import out, table
from unclip.artifact import Artifact
from unclip.data.funnel import Step, read_funnel
from unclip.runs import RunRecord, last_artifacts, runs_of
from unclip.store import Store

if TYPE_CHECKING:
    from unclip.data.dropped import Losses  # pyarrow: a run that finds everything has no use for it

STAGES = ("filter", "select")


def newest_losses(store: Store, name: str) -> tuple[list[Step], "Losses"]:
    """The funnel of the newest run that filtered, up to `select` where it got there, and where its losses stand.

    Raises:
        ValueError: no run of the pipeline has filtered.
    """
    from unclip.data.dropped import Losses

    for run in runs_of(store, name):
        found = {stage: _of_run(store, run, stage) for stage in (*STAGES, "source", "download")}
        shards = found["download"] or found["source"]
        if found["filter"] and shards:
            dropped = {stage: found[stage][0].path / "dropped.parquet" for stage in STAGES if found[stage]}
            losses = Losses.of(shards, dropped)
            return read_funnel((found["select"] or found["filter"])[0].path / "funnel.json"), losses
    last_artifacts(store, name, "filter")  # says what is wrong
    raise ValueError(f"{store.root} no longer holds the shards that {name} filtered: `unclip run {name}` makes them")


def _of_run(store: Store, run: RunRecord, stage: str) -> tuple[Artifact, ...]:
    """The stage's artifacts of a run; none where one is gone."""
    found = [store.find(stage, key) for key in run.keys(stage)]
    return tuple(artifact for artifact in found if artifact is not None) if all(found) else ()


def print_funnel(name: str, steps: list[Step]) -> None:
    """The funnel as a table: what each reason dropped; what dropped nothing in one line."""
    total, kept = steps[0].rows_in, steps[-1].rows_out
    rows = [
        [
            s.stage,
            s.reason,
            f"{s.rows_in:,}",
            f"{s.dropped:,}",
            f"{100 * s.dropped / max(total, 1):.1f} %",
            f"{s.rows_out:,}",
        ]
        for s in steps
        if s.dropped
    ]
    title = f"{name}: {total:,} rows of the source, {total - kept:,} dropped, {kept:,} kept"
    numbers = ["rows in", "dropped", "share", "rows out"]
    out.print(table(title, ["stage", "reason", *numbers], rows, numbers) if rows else title)
    if silent := [step.reason for step in steps if not step.dropped]:
        out.print(f"dropped nothing: {', '.join(silent)}")


def funnel_line(name: str, store: Store, run: RunRecord) -> str:
    """A run's funnel in one line; nothing where it has none."""
    found = next((some for stage in reversed(STAGES) if (some := _of_run(store, run, stage))), ())
    if not found:
        return ""
    steps = read_funnel(found[0].path / "funnel.json")
    total, kept = steps[0].rows_in, steps[-1].rows_out
    return f"rows: {total:,} of the source, {total - kept:,} dropped, {kept:,} kept: `unclip funnel {name}`"


def write_csv(losses: "Losses", path: Path, reason: str | None) -> int:
    """Write the lost rows as CSV; how many."""
    import csv
    from dataclasses import fields

    from unclip.data.dropped import Dropped

    names = [field.name for field in fields(Dropped)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        count = 0
        for row in losses.rows(reason):
            writer.writerow(row.as_dict())
            count += 1
    return count
