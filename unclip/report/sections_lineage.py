"""Where it all comes from: what became of every row, and the stages with digests, times and commit."""

from collections import Counter
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from unclip.report.html import Cell, element, escape, section, table
from unclip.report.record import PipelineRecord


def funnel(record: PipelineRecord) -> str:
    """What each step was given, dropped and passed on, and why rows were refused."""
    steps: list[tuple[str, dict[str, Any]]] = []
    for stage in ("filter", "select"):
        steps += [(stage, step) for step in record.read_json(stage, "funnel.json") or []]
    body = refusals(record)
    if steps:
        heads = ("stage", "step", "rows in", "dropped", "rows out")
        head = [Cell(text=h, look="num" if "rows" in h or h == "dropped" else "") for h in heads]
        rows = [
            [Cell(text=stage), Cell(text=str(s["step"]))]
            + [Cell(text=f"{s[k]:,}", look="num") for k in ("rows_in", "dropped", "rows_out")]
            for stage, s in steps
        ]
        body += element("h3", "Filters") + table(head, rows, "narrow")
    return section("data", "What became of the data", "", body)


def refusals(record: PipelineRecord) -> str:
    """Rows by what became of them when the shards were made, from a list or by drawing."""
    shards = record.artifacts.get("shards", ())
    paths = [a.path / "rows.parquet" for a in shards]
    counts: Counter[str] = Counter()
    for path in (p for p in paths if p.is_file()):
        for entry in pc.value_counts(pq.read_table(path, columns=["status"])["status"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
    if not counts:
        return ""
    total = counts.total()
    rows = [
        [Cell(text=status), Cell(text=f"{n:,}", look="num"), Cell(text=f"{100 * n / total:.1f} %", look="num")]
        for status, n in counts.most_common()
    ]
    head = [Cell(text="fate"), Cell(text="rows", look="num"), Cell(text="share", look="num")]
    return element("h3", escape(f"Rows of {shards[0].kind}")) + table(head, rows, "narrow")


def stages(record: PipelineRecord) -> str:
    """Every stage with its artifacts' digest, time, commit and start; per-shard stages in one line."""
    heads = ("stage", "artifacts", "seconds", "digest", "commit", "started")
    head = [Cell(text=h, look="num" if h in ("artifacts", "seconds") else "") for h in heads]
    rows = [stage_row(stage, some) for stage, some in record.manifests.items()]
    lead = "The digest is that of the files' content; the key and the whole recipe stand in each artifact's manifest."
    return section("stages", "Stages", lead, table(head, rows) if rows else "")


def stage_row(stage: str, manifests: tuple[dict[str, Any], ...]) -> list[Cell]:
    """One line of the table of stages."""
    digests = [m["digest"] for m in manifests]
    commits = sorted({commit_of(m) for m in manifests})
    more = f" +{len(digests) - 1}" if len(digests) > 1 else ""
    return [
        Cell(text=stage),
        Cell(text=str(len(manifests)), look="num"),
        Cell(text=f"{sum(float(m['seconds']) for m in manifests):,.1f}", look="num"),
        Cell(text=digests[0][:12] + more, look="mono", hint="\n".join(digests[:20])),
        Cell(text=", ".join(commits), look="mono"),
        Cell(text=min(str(m["started"]) for m in manifests)[:19].replace("T", " "), look="faint"),
    ]


def commit_of(manifest: dict[str, Any]) -> str:
    """The short commit, marked where files differed from it."""
    git = manifest["git"]
    if not git["commit"]:
        return "no commit"
    return git["commit"][:10] + ("*" if git["dirty"] else "")
