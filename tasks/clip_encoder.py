"""A frozen CLIP in the shape that the embedding table wants: arrays in, arrays out, and digests of what it is."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import nn

from models.clip import Clip, ClipSpec
from models.file_tokenizer import library_version
from unclip.data.crops import Crop
from unclip.data.digests import known_digest
from unclip.data.embed import text_digest
from unclip.data.images import Pixels
from unclip.data.table import Floats, Tokens
from unclip.data.tokens import OwnTokens
from unclip.recipe import code_digest


class ClipFacts:
    """`unclip.data.embed.EncoderFacts` of a Clip, known without its weights in memory."""

    def __init__(self, spec: ClipSpec, weights_digest: str, precision: str) -> None:
        self.name, self.weights_digest, self.compute_type = spec.name, weights_digest, precision
        network = spec.model_cfg if spec.tower is None else {**spec.model_cfg, "tower": spec.tower}
        self.network_digest = text_digest(json.dumps(network, sort_keys=True))
        self.context, self.dimension = spec.context, spec.embed_dim
        self.image_px, self.interpolation = spec.image_px, spec.interpolation
        self.crop = Crop(
            px=spec.image_px, interpolation=spec.interpolation, resize_mode=spec.resize_mode, fill=spec.fill
        )
        shown = {"px": spec.image_px, "mean": spec.mean, "std": spec.std, "interpolation": spec.interpolation}
        if spec.resize_mode != "shortest":
            shown |= {"resize_mode": spec.resize_mode, "fill": spec.fill}
        filters = {"backend": "pillow", **shown}  # whose filters they are, whoever computes them: see `crops.resized`
        self.preprocessing_digest = text_digest(json.dumps(filters, sort_keys=True))
        self.tokenizer = tokenizer_said(spec)
        self.versions = {"torch": torch.__version__, "open_clip": open_clip.__version__}
        if spec.tokenizer is not None:
            self.versions["tokenizers"] = library_version("tokenizers")
        if spec.tower is not None:
            self.versions["transformers"] = library_version("transformers")

    @property
    def code_digest(self) -> str:
        """Of this module and all that it imports of ours."""
        return code_digest((__name__,))


class ClipEncoder(ClipFacts):
    """`unclip.data.embed.Encoder` over a Clip, which is its own from then on: in bf16 the weights change type."""

    def __init__(self, clip: Clip, weights_digest: str, precision: str = "fp32", device: str = "cpu") -> None:
        super().__init__(clip.spec, weights_digest, precision)
        self.clip, self.device = clip, torch.device(device)
        if precision == "bf16":
            narrow_weights(clip)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token ids (B, L) int32."""
        tokens: Tokens = self.clip.tokenize(captions).numpy()
        return tokens

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels) -> Floats:
        """Raw embeddings (B, D) of uint8 (B, P, P, 3)."""
        with self._autocast():
            return as_floats(self.clip.encode_image(torch.from_numpy(pixels).to(self.device)))

    @torch.inference_mode()
    def encode_text(self, tokens: Tokens) -> Floats:
        """Raw embeddings (B, D) of tokens (B, L)."""
        with self._autocast():
            return as_floats(self.clip.encode_short_text(torch.from_numpy(tokens).to(self.device).long()))

    def _autocast(self) -> AbstractContextManager[None]:
        if self.compute_type == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def tokenizer_said(spec: ClipSpec) -> str:
    """What a table says of the tokenizer of a CLIP, wherever its file came from."""
    own = spec.tokenizer
    if own is None:
        return f"clip byte pairs {text_digest(json.dumps(spec.vocabulary))}"
    settings = {name: value for name, value in asdict(own).items() if name != "source"}
    tokens = OwnTokens(vocab_size=spec.tower_vocabulary, pad_id=own.pad_id, most=own.most_tokens)
    return tokens.said(text_digest(json.dumps(settings, sort_keys=True)))


def as_floats(embeddings: torch.Tensor) -> Floats:
    """A tensor as a float32 array in memory."""
    return np.asarray(embeddings.float().cpu().numpy(), np.float32)


def encoder_of(folder: Path, clip: Clip, precision: str = "fp32", device: str = "cpu") -> ClipEncoder:
    """The encoder of the CLIP that was loaded from `folder`, which holds `weights.safetensors`."""
    return ClipEncoder(clip, known_digest(folder / "weights.safetensors"), precision, device)


def facts_of(folder: Path, precision: str = "fp32") -> ClipFacts:
    """What the CLIP in a folder is, without loading it."""
    spec = ClipSpec.from_json(json.loads((folder / "clip.json").read_text()))
    return ClipFacts(spec, known_digest(folder / "weights.safetensors"), precision)


def narrow_weights(clip: nn.Module) -> None:
    """Store in bf16 the weights that autocast would narrow again for every batch.

    That takes 2.6 s of a core each time for ViT-B/32: as long as the rest of a batch of 64.
    """
    for module in clip.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            module.to(torch.bfloat16)
