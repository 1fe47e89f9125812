"""The stage `upsampler_top`: pictures of the middle size to the final one (§2.1)."""

from typing import Any

from tasks.context import Context
from tasks.train import run
from tasks.upsampler import upsampler_job
from unclip.training.job import Job


def build(ctx: Context) -> dict[str, Any]:
    """Trains the upsampler in a process of its own; the metrics."""
    return run(ctx)


def job(ctx: Context) -> Job:
    """The upsampler and its rows."""
    return upsampler_job(ctx)
