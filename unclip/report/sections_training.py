"""How the parts were trained: loss curves, what CLIP can tell apart, what the principal components keep."""

from typing import Any

from unclip.report.charts import Series, line_chart, smoothed
from unclip.report.html import Cell, element, section, table
from unclip.report.record import PipelineRecord, Point, curve_of

VALIDATED = {"val_loss": ("validation", "s1"), "val_ema_loss": ("validation, averaged weights", "s2")}


def curves(record: PipelineRecord) -> str:
    """One chart a trained stage: its loss as logged, its running mean, the validation losses beside it."""
    charts = ""
    for stage in record.artifacts:
        lines = record.read_lines(stage, "curve.jsonl")
        if lines:
            charts += loss_chart(stage, lines)
    lead = "Training loss a step, faint as logged and strong as a running mean; logarithmic."
    return section("curves", "Loss", lead, element("div", charts, "charts") if charts else "")


def loss_chart(stage: str, lines: list[dict[str, Any]]) -> str:
    """The losses of one stage over its steps."""
    loss = curve_of(lines, "loss")
    series = [Series(name="logged", points=loss, look="raw"), Series(name="training", points=smoothed(loss))]
    for figure, (name, look) in VALIDATED.items():
        series.append(Series(name=name, points=curve_of(lines, figure), look=look))
    logarithmic = all(y > 0 for _, y in loss)
    last = f"{loss[-1][1]:.3g} at step {loss[-1][0]:,.0f}" if loss else ""
    return line_chart(stage, series, "steps", note=last, log_y=logarithmic)


def components(record: PipelineRecord) -> str:
    """The share of variance lost by number of principal components."""
    found = record.read_json("pca", "pca.json")
    if found is None:
        return ""
    errors = found["lost_variance"]
    points: tuple[Point, ...] = tuple((float(k), 100 * float(e)) for k, e in enumerate(errors, start=1))
    kept = found["num_components"]
    chart = line_chart("variance lost, %", [Series(name="lost", points=points)], "components", log_y=True)
    lost = 100 * float(errors[kept - 1])
    lead = f"{kept} of {len(errors)} components are kept; {lost:.2g} % of the variance is lost."
    return section("pca", "Principal components of image embeddings", lead, element("div", chart, "charts"))


def zero_shot(record: PipelineRecord) -> str:
    """What CLIP tells apart without having been taught it: accuracy by attribute."""
    prefix = "zero_shot_"
    metrics = record.metrics("clip")
    found = {name.removeprefix(prefix): float(value) for name, value in metrics.items() if name.startswith(prefix)}
    if not found:
        return ""
    head = [Cell(text="attribute"), Cell(text="accuracy", look="num")]
    rows = [[Cell(text=name.replace("_", " ")), Cell(text=f"{100 * v:.1f} %", look="num")] for name, v in found.items()]
    lead = "Held-out pictures, the attribute's value chosen by the nearest caption; the rest stands on this."
    return section("clip", "CLIP, zero-shot", lead, table(head, rows, "narrow"))
