"""What became of the data: one funnel from the rows of the source to those kept, and samples of what was dropped."""

from collections.abc import Sequence
from pathlib import Path

from unclip.data.dropped import Losses
from unclip.data.funnel import Step, read_funnel
from unclip.report.html import Cell, element, escape, picture, section, table
from unclip.report.record import PipelineRecord


def data(record: PipelineRecord, sheets: Sequence[Path]) -> str:
    """The funnel, and a picture of samples for each reason."""
    steps = funnel_of(record)
    if not steps:
        return ""
    heads = ("stage", "reason", "rows in", "dropped", "share", "rows out")
    head = [Cell(text=h, look="num" if h not in ("stage", "reason") else "") for h in heads]
    shown = [step for step in steps if step.dropped]
    silent = ", ".join(step.reason for step in steps if not step.dropped)
    body = table(head, [step_cells(step, steps[0].rows_in) for step in shown], "narrow") if shown else ""
    body += element("p", escape(f"Dropped nothing: {silent}."), "lead after") if silent else ""
    place = {f"{step.stage}-{step.reason}": number for number, step in enumerate(steps)}
    drawn = "".join(dropped_samples(path) for path in sorted(sheets, key=lambda path: place.get(path.stem, len(place))))
    body += element("h3", "Samples of what was dropped") + drawn if drawn else ""
    rows, kept = steps[0].rows_in, steps[-1].rows_out
    lead = f"{rows:,} rows of the source, {rows - kept:,} dropped, {kept:,} kept ({100 * kept / max(rows, 1):.1f} %)."
    return section("data", "What became of the data", lead, body)


def funnel_of(record: PipelineRecord) -> list[Step]:
    """The longest funnel that the pipeline has: to the rows that select keeps, or that the filter does."""
    paths = (record.file(stage, "funnel.json") for stage in ("select", "filter"))
    return next((read_funnel(path) for path in paths if path is not None), [])


def losses_of(record: PipelineRecord) -> Losses:
    """Where the pipeline's losses stand."""
    shards = record.artifacts.get("shards", ())
    files = {stage: record.file(stage, "dropped.parquet") for stage in ("filter", "select")}
    dropped = {stage: path for stage, path in files.items() if path is not None}
    return Losses.of(shards, dropped)


def step_cells(step: Step, rows: int) -> list[Cell]:
    """One line of the funnel; the share is of the source's rows."""
    numbers = [
        f"{step.rows_in:,}",
        f"{step.dropped:,}",
        f"{100 * step.dropped / max(rows, 1):.1f} %",
        f"{step.rows_out:,}",
    ]
    return [Cell(text=step.stage), Cell(text=step.reason), *(Cell(text=text, look="num") for text in numbers)]


def dropped_samples(path: Path) -> str:
    """The sheet of one stage and reason, folded away until it is wanted."""
    stage, _, reason = path.stem.partition("-")
    title = f"{stage}: {reason.replace('_', ' ')}"
    return f"<details><summary>{escape(title)}</summary>{picture(path, title)}</details>"
