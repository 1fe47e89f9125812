"""Where it all comes from: the stages with digests, times and commit."""

from typing import Any

from unclip.report.html import Cell, section, table
from unclip.report.record import PipelineRecord


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
