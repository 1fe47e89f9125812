"""Stage `report`: one static HTML page of everything a pipeline made."""

from dataclasses import asdict
from typing import Any

from tasks.context import Context
from unclip.report.page import build_page
from unclip.report.record import PipelineRecord


def build(ctx: Context) -> dict[str, Any]:
    """Writes `index.html`, which holds all that it shows; its size in bytes."""
    title = asdict(ctx.config).get("title", "unCLIP")
    page = build_page(title, PipelineRecord(ctx.inputs)).encode()
    (ctx.out / "index.html").write_bytes(page)
    return {"page_bytes": len(page)}
