"""Stage `assemble`: the trained parts as one stack, by reference, with the settings it samples with."""

from typing import Any

from tasks.context import Context
from tasks.loading import save_stack

PARTS = ("clip", "pca", "prior_linear", "prior_diffusion", "prior_ar", "decoder", "upsampler_mid", "upsampler_top")


def build(ctx: Context) -> dict[str, Any]:
    """Writes `stack.json`: kind, key, digest and relative path of each part, and the sampling settings."""
    save_stack(ctx.out, {name: ctx.one(name) for name in PARTS}, ctx.config)
    return {"num_parts": len(PARTS)}
