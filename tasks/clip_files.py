"""A frozen CLIP from its files and into them."""

import json
from pathlib import Path

from models.clip import Clip, ClipSpec
from tasks.files import save_weights, with_weights, write_json
from unclip.artifact import Artifact


def load_clip(artifact: Artifact, device: str = "cpu") -> Clip:
    """The frozen CLIP of a `clip` artifact."""
    clip = Clip(ClipSpec.from_json(json.loads((artifact.path / "clip.json").read_text())))
    with_weights(clip.network, artifact.path / "weights.safetensors", device)
    return clip.to(device).eval().requires_grad_(False)


def save_clip(out: Path, clip: Clip) -> None:
    """Write `clip.json` and `weights.safetensors`."""
    write_json(out / "clip.json", clip.spec.to_json())
    save_weights(out / "weights.safetensors", clip.network)
