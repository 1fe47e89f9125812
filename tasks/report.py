"""Stage `report`: one static HTML page of everything a pipeline made."""

from dataclasses import asdict
from typing import Any

from tasks.context import Context
from unclip.report.dropped_sheet import write_sheets
from unclip.report.page import build_page
from unclip.report.record import PipelineRecord
from unclip.report.sections_data import losses_of


def build(ctx: Context) -> dict[str, Any]:
    """Writes `index.html`, which holds all that it shows, and `dropped/STAGE-REASON.png`; the page's size in bytes."""
    title = asdict(ctx.config).get("title", "unCLIP")
    record = PipelineRecord(ctx.inputs)
    sheets = write_sheets(losses_of(record), ctx.out / "dropped", ctx.seed)
    page = build_page(title, record, sheets).encode()
    (ctx.out / "index.html").write_bytes(page)
    return {"page_bytes": len(page), "sheets": len(sheets)}
