"""The report: one HTML page that holds everything it shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.report.html import escape
from unclip.report.record import PipelineRecord
from unclip.report.sections_data import data
from unclip.report.sections_lineage import commit_of, stages
from unclip.report.sections_results import conditionings, headlines, priors, samples
from unclip.report.sections_training import components, curves, zero_shot
from unclip.report.style import STYLE

LINKS = {
    "samples": "samples",
    "figures": "figures",
    "priors": "priors",
    "curves": "loss",
    "pca": "components",
    "clip": "CLIP",
    "data": "data",
    "stages": "stages",
}


def build_page(title: str, record: PipelineRecord, sheets: Sequence[Path] = ()) -> str:
    """The page of a pipeline's artifacts; what a pipeline lacks (no evaluation, no attributes) is left out.

    sheets: pictures of dropped samples, as `unclip.report.dropped_sheet` writes them.
    """
    evaluation = record.read_json("evaluate", "metrics.json")
    results = [samples(record), conditionings(evaluation), priors(evaluation, record)] if evaluation else []
    parts = [*results, curves(record), zero_shot(record), components(record), data(record, sheets), stages(record)]
    links = "".join(
        f'<a href="#{key}">{name}</a>' for key, name in LINKS.items() if any(f'id="{key}"' in p for p in parts)
    )
    tiles = headlines(evaluation) if evaluation else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · unclip</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle(record))}</p><nav>{links}</nav></header>"
        f"{tiles}{''.join(parts)}<footer>{escape(footer(record))}</footer></main></body></html>\n"
    )


def subtitle(record: PipelineRecord) -> str:
    """What was built, how much of it, in how long, on what."""
    manifests = [m for some in record.manifests.values() for m in some]
    what = "An unCLIP stack from captioned pictures" if record.artifacts.get("decoder") else "Captioned pictures"
    if not manifests:
        return what
    seconds = sum(float(m["seconds"]) for m in manifests)
    machine = manifests[-1]["hardware"]
    about = f"{machine['cores']} cores, {machine['memory_gb']} GB" if machine else ""
    return f"{what} · {len(manifests)} artifacts in {duration(seconds)} · {about}"


def footer(record: PipelineRecord) -> str:
    """When the last artifact was done and from which commits."""
    manifests: list[dict[str, Any]] = [m for some in record.manifests.values() for m in some]
    if not manifests:
        return "unclip"
    commits = ", ".join(sorted({commit_of(m) for m in manifests}))
    ended = max(str(m["ended"]) for m in manifests)[:19].replace("T", " ")
    return f"Made by unclip; last artifact {ended} UTC; commit {commits} (* with changes not committed)."


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
