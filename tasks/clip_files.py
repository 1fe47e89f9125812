"""A frozen CLIP from its files and into them."""

import json
from pathlib import Path

from models.clip import Clip, ClipSpec
from tasks.files import save_weights, with_weights, write_json
from tasks.tokenizer_files import save_tokenizer, saved_tokenizer
from unclip.artifact import Artifact


def load_clip(artifact: Artifact, device: str = "cpu") -> Clip:
    """The frozen CLIP of a `clip` artifact. Raises: ValueError when its tokenizer.json is gone, or another."""
    spec = ClipSpec.from_json(json.loads((artifact.path / "clip.json").read_text()))
    clip = Clip(spec, saved_tokenizer(artifact.path, spec))
    with_weights(clip.network, artifact.path / "weights.safetensors", device)
    return clip.to(device).eval().requires_grad_(False)


def save_clip(out: Path, clip: Clip) -> None:
    """Write `clip.json`, `weights.safetensors`, and `tokenizer.json` of a CLIP that has its own."""
    write_json(out / "clip.json", clip.spec.to_json())
    save_tokenizer(out, clip.tokenizer)
    save_weights(out / "weights.safetensors", clip.network)
